"""The messages of a chat: their form, the media in them, and their text without the model's control tokens."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from qwenvl_runtime.control_tokens import LETTERS, disarm, disarm_run
from qwenvl_runtime.errors import bad_field
from qwenvl_runtime.fields import anything, check_fields, fields, items, join, mapping, one_of, string, text
from qwenvl_runtime.json_text import can_be_read
from qwenvl_runtime.media import MediaCheck

MAX_MESSAGES = 4096
MAX_PARTS = 4096
"""Parts and tool calls of all messages together: each takes a few microseconds, and hardly fewer than 8 tokens."""

_ROLES = ("system", "developer", "user", "assistant", "tool")
_MESSAGE = {
    "role": one_of(*_ROLES),
    "content": anything,
    "name": text,
    "tool_call_id": text,
    "tool_calls": items(128, mapping),
    "refusal": anything,
    "reasoning": anything,
    "reasoning_content": anything,
    "annotations": items(128, mapping),
    "parsed": anything,
    "provider_specific_fields": anything,
}
# Clients (OpenAI's, LiteLLM) send these back with an answer; the model does not read them.
_DROPPED = frozenset(("annotations", "parsed", "provider_specific_fields"))
_EXTRAS = _DROPPED.union(("name", "tool_call_id", "refusal", "reasoning", "reasoning_content"))
_TEXT_PARTS = ("text", "refusal")
_PARTS = {
    "text": fields(type=anything, text=anything),
    "refusal": fields(type=anything, refusal=anything),
    "image_url": fields(
        type=anything, image_url=fields(url=anything, detail=one_of("auto", "low", "high", "original"))
    ),
    "video_url": fields(type=anything, video_url=fields(url=anything)),
}
_ESCAPE = re.compile(
    r"\\(?:[^u]|u00(?P<code>[0-9a-fA-F]{2})|u[dD][89abAB]..\\u[dD][c-fC-F]..|(?P<half>u[dD][89a-fA-F]..))", re.DOTALL
)
_CALL = fields(
    id=text,
    type=one_of("function"),
    index=anything,
    function=fields(name=text, arguments=anything, parsed_arguments=anything),
    provider_specific_fields=anything,
)


@dataclass(slots=True)
class _Room:
    parts: int = MAX_PARTS

    def take(self, param: str, count: int) -> None:
        self.parts -= count
        if self.parts < 0:
            what = f"all messages together may have {MAX_PARTS} parts and tool calls, with these they have more"
            raise bad_field("too_complex", param, what)


def check_conversation(messages: Any, media: MediaCheck) -> list[dict[str, Any]]:
    """The messages as the engine gets them: what was null is left out. Raises RequestError."""
    if type(messages) is not list or not 0 < len(messages) <= MAX_MESSAGES:
        raise bad_field("invalid_value", "messages", f"must be a list of 1 to {MAX_MESSAGES} messages")
    room = _Room()
    return [_check_message(f"messages[{index}]", message, media, room) for index, message in enumerate(messages)]


def strip_nulls(value: dict[str, Any]) -> dict[str, Any]:
    """What is left without them; `value` itself where there are none."""
    return {name: item for name, item in value.items() if item is not None} if None in value.values() else value


def _check_message(param: str, given: Any, media: MediaCheck, room: _Room) -> dict[str, Any]:
    if type(given) is not dict:
        raise bad_field("invalid_value", param, "must be an object")
    message = strip_nulls(given)
    check_fields(param, message, _MESSAGE)
    if "role" not in message:
        raise bad_field("invalid_value", join(param, "role"), f"must be one of {', '.join(_ROLES)}")
    if message["role"] == "developer":
        message["role"] = "system"  # what OpenAI calls it now; the model's template knows the older name
    content = message.get("content")
    if type(content) is str:
        message["content"] = disarm(content)
    elif content is not None:
        message["content"] = _check_parts(join(param, "content"), content, media, room)
    for name in _EXTRAS.intersection(message):
        if name in _DROPPED:
            del message[name]
        else:
            message[name] = disarm(_need_text(join(param, name), message[name]))
    if "tool_calls" in message:
        path = join(param, "tool_calls")
        room.take(path, len(message["tool_calls"]))
        calls = enumerate(message["tool_calls"])
        message["tool_calls"] = [_check_call(f"{path}[{index}]", call) for index, call in calls]
    return message


def _check_parts(param: str, parts: Any, media: MediaCheck, room: _Room) -> list[dict[str, Any]]:
    if type(parts) is not list:
        raise bad_field("invalid_value", param, "must be a string or a list of parts")
    room.take(param, len(parts))
    checked = [_check_part(f"{param}[{index}]", part, media) for index, part in enumerate(parts)]
    texts = [part for part in checked if part["type"] in _TEXT_PARTS]
    for part, disarmed in zip(texts, disarm_run([part[part["type"]] for part in texts]), strict=True):
        part[part["type"]] = disarmed
    return checked


def _check_part(param: str, given: Any, media: MediaCheck) -> dict[str, Any]:
    kind = given.get("type") if type(given) is dict else None
    if type(kind) is not str or kind not in _PARTS:
        raise bad_field("unsupported_field", param, f"must be a part of type {', '.join(_PARTS)}")
    part = strip_nulls(given)
    _PARTS[kind](param, part)
    value = part.get(kind)
    if kind in _TEXT_PARTS:
        _need_text(join(param, kind), value)
        return part
    path = join(join(param, kind), "url")
    if value is None or type(value.get("url")) is not str:
        raise bad_field("invalid_value", path, "must be a string")
    value = part[kind] = strip_nulls(value)
    value.pop("detail", None)  # it means nothing to the model
    if kind == "image_url":
        media.take_picture(path, value)
    else:
        media.take_video(path, value)
    return part


def _check_call(param: str, call: dict[str, Any]) -> dict[str, Any]:
    """The call as the engine gets it: with what it needs, and nothing else."""
    _CALL(param, call)
    function = call.get("function") or {}
    identity, kind = _need_text(join(param, "id"), call.get("id")), _need_text(join(param, "type"), call.get("type"))
    name = _need_text(join(param, "function.name"), function.get("name"))
    path = join(param, "function.arguments")
    arguments = _disarm_arguments(path, _need_text(path, function.get("arguments")))
    return {"id": disarm(identity), "type": kind, "function": {"name": disarm(name), "arguments": arguments}}


def _disarm_arguments(param: str, arguments: str) -> str:
    """The engine reads JSON out of this string and writes it anew into the prompt, without its escapes."""
    if not can_be_read(arguments, param):
        return "{}"  # as the engine does, so that one bad call does not spoil the whole conversation
    return disarm(_ESCAPE.sub(_write_out, arguments) if "\\u" in arguments else arguments)


def _write_out(escape: re.Match[str]) -> str:
    """The escape of a token's character as that character; the half of a pair, which no prompt may hold, replaced."""
    if escape["half"]:
        return "\\ufffd"
    character = chr(int(escape["code"] or "0", 16))
    return character if character in LETTERS else escape[0]


def _need_text(param: str, value: Any) -> str:
    string(param, value)
    return str(value)
