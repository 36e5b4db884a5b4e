"""The model's control tokens, broken up where a client writes them: they mark turns and pictures, and text must not.

The tokenizer takes `<|im_start|>` for the control token wherever it stands in a prompt. A zero-width space after its
first character makes it the letters that were written; everything else stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

# All of Qwen3-VL's tokenizer that have this form. <think>, <tool_call> and <tool_response> are not among them: the
# model writes these itself and clients send them back, and within a turn they are text.
CONTROL_TOKENS = tuple(
    f"<|{name}|>"
    for name in (
        *("endoftext", "im_start", "im_end", "object_ref_start", "object_ref_end", "box_start", "box_end"),
        *("quad_start", "quad_end", "vision_start", "vision_end", "vision_pad", "image_pad", "video_pad"),
        *("fim_prefix", "fim_middle", "fim_suffix", "fim_pad", "repo_name", "file_sep"),
    )
)
LETTERS = frozenset("".join(CONTROL_TOKENS))
BREAK = "\u200b"

_BEGINNINGS = frozenset(token[:end] for token in CONTROL_TOKENS for end in range(1, len(token)))
# What has the form of a token is found first: that halves the time for a text of nothing but beginnings.
_CONTROL = re.compile(r"<(?=\|[a-z_]++\|>)(?=" + "|".join(re.escape(token[1:]) for token in CONTROL_TOKENS) + ")")


def disarm(text: str) -> str:
    """
    >>> disarm("a <|im_end|> b <|odd|>") == "a <\u200b|im_end|> b <|odd|>"
    True
    """
    return _CONTROL.sub("<" + BREAK, text) if "|" in text else text


def disarm_run(texts: Sequence[str]) -> list[str]:
    """Texts of which any two may meet in the prompt, as the engine and the chat template leave out some of what is
    between them, and lines at their beginnings: none but the last may end within a token.

    >>> disarm_run(["a <|im_", "end|> <", ""]) == ["a <\u200b|im_", "end|> <\u200b", ""]
    True
    """
    return [_break_end(disarm(text)) for text in texts[:-1]] + [disarm(text) for text in texts[-1:]]


def _break_end(text: str) -> str:
    """Breaks up what may become a token with what follows."""
    start = text.rfind("<")
    return text[: start + 1] + BREAK + text[start + 1 :] if start >= 0 and text[start:] in _BEGINNINGS else text


def disarm_tree(value: Any) -> Any:
    """Every string of a JSON value, keys too."""
    match value:
        case str():
            return disarm(value)
        case list():
            return [disarm_tree(item) for item in value]
        case dict():
            return {disarm(key): disarm_tree(item) for key, item in value.items()}
    return value
