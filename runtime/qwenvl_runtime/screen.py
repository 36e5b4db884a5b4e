"""What of a request's body reaches the engine: parsed once, checked field by field, and written anew.

Written anew, because then there is one reading of it: whatever two JSON parsers could see differently (a key given
twice, a huge number, an escape) the engine sees as it was checked.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Protocol

import orjson

from qwenvl_runtime.config import RuntimeConfig
from qwenvl_runtime.control_tokens import disarm, disarm_tree
from qwenvl_runtime.conversation import check_conversation, strip_nulls
from qwenvl_runtime.errors import RequestError, bad_field
from qwenvl_runtime.fields import DROPPED, build_chat_fields, build_completion_fields, check_fields
from qwenvl_runtime.json_text import parse
from qwenvl_runtime.media import MediaCheck
from qwenvl_runtime.media_hosts import MediaHosts
from qwenvl_runtime.schemas import check_grammars

MAX_PROMPTS = 32
_BYTES_PER_TOKEN = 4


@dataclass(slots=True)
class Asked:
    """A request that has passed; `media.slots` have to be filled before it is written."""

    content: dict[str, Any] = field(repr=False)
    media: MediaCheck
    text_bytes: int

    @property
    def tokens(self) -> int:
        """About how many tokens the prompt has."""
        return self.text_bytes // _BYTES_PER_TOKEN + self.media.tokens

    @property
    def answers(self) -> int:
        """How many the engine is asked for: `n` for each prompt."""
        prompt, count = self.content.get("prompt"), self.content.get("n", 1)
        return count * len(prompt) if type(prompt) is list else int(count)

    def write(self) -> bytes:
        return orjson.dumps(self.content)


class Screening(Protocol):
    def check(self, path: str, body: bytes) -> Asked:
        """Raises RequestError, which names the field and the limit."""


class Screen:
    def __init__(self, config: RuntimeConfig) -> None:
        self._media = config.media
        self._hosts = MediaHosts(config.media.allowed_url_hosts)
        self._chat_fields = build_chat_fields(config.engine.max_model_len)
        self._completion_fields = build_completion_fields(config.engine.max_model_len)

    def check(self, path: str, body: bytes) -> Asked:
        content = strip_nulls(_parse(body))
        media = MediaCheck(self._media, self._hosts)
        chat = path == "/v1/chat/completions"
        for name in DROPPED.intersection(content):
            del content[name]
        check_fields("", content, self._chat_fields if chat else self._completion_fields)
        check_grammars(content)
        if chat:
            content["messages"] = check_conversation(content.get("messages"), media)
            if "tools" in content:
                content["tools"] = disarm_tree(content["tools"])
        else:
            content["prompt"] = _check_prompt(content.get("prompt"))
        return Asked(content, media, len(body) - media.characters)


def _parse(body: bytes) -> dict[str, Any]:
    try:
        content = parse(body)
    except orjson.JSONDecodeError as error:
        raise RequestError(HTTPStatus.BAD_REQUEST, "invalid_json", f"The body is not JSON: {error}.") from error
    if type(content) is not dict:
        raise bad_field("invalid_json", "", "The body is not a JSON object.")
    return content


def _check_prompt(prompt: Any) -> str | list[str]:
    """Text only: a list of token ids could hold any control token."""
    if type(prompt) is str:
        return disarm(prompt)
    if type(prompt) is list and 0 < len(prompt) <= MAX_PROMPTS and all(type(each) is str for each in prompt):
        return [disarm(each) for each in prompt]
    raise bad_field("invalid_value", "prompt", f"must be a string, or a list of 1 to {MAX_PROMPTS} strings")
