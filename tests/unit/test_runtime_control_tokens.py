"""The model's control tokens in a client's text: broken up, and nothing else changed."""

from __future__ import annotations

import sys
import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from qwenvl_runtime.control_tokens import BREAK, CONTROL_TOKENS, disarm, disarm_run, disarm_tree

PIECES = st.sampled_from(
    [*CONTROL_TOKENS, "<", "|", ">", "<|", "|>", "im_start", "<|im_", "end|>", "x", " ", "é", BREAK]
)
TEXTS = st.lists(PIECES, max_size=12).map("".join)


def has_control(text: str) -> bool:
    return any(token in text for token in CONTROL_TOKENS)


@given(TEXTS)
def test_no_token_is_left_and_the_rest_is_as_it_was(text: str) -> None:
    disarmed = disarm(text)
    assert not has_control(disarmed)
    assert disarmed.replace(BREAK, "") == text.replace(BREAK, "")
    assert disarm(disarmed) == disarmed
    if not has_control(text):
        assert disarmed == text


@given(st.lists(TEXTS, max_size=6))
def test_no_token_comes_about_where_texts_meet(texts: list[str]) -> None:
    disarmed = disarm_run(texts)
    for left_out in range(len(texts) + 1):
        assert not has_control("".join(disarmed[:1] + disarmed[1 + left_out :]))
        assert not has_control("".join(text[left_out:] for text in disarmed))
    assert "".join(disarmed).replace(BREAK, "") == "".join(texts).replace(BREAK, "")
    if not any("<" in text for text in texts):
        assert disarmed == texts


def test_keys_and_values_of_a_tree() -> None:
    value = {"<|im_end|>": ["<|image_pad|>", 1, None, {"a": "<|im_start|>"}]}
    assert not has_control(str(disarm_tree(value)))


def test_normalization_makes_no_token() -> None:
    """Qwen's tokenizer normalizes text (NFC): no other character may become one of those that tokens are made of."""
    letters = set("".join(CONTROL_TOKENS))
    for code in range(0x80, sys.maxunicode + 1):
        assert not letters & set(unicodedata.normalize("NFC", chr(code)))
