"""The fields that a request may have, and what each may hold; everything else is refused.

The names are those that OpenAI's clients send, and vLLM's for sampling. Fields that reach into the engine (processor
options, templates, cache salts, embeddings, priorities) are not among them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from qwenvl_runtime.errors import bad_field

Check = Callable[[str, Any], None]
"""Raises RequestError; gets the field's path and its value, which is never None."""

MAX_CHOICES = 8
MAX_STOPS = 4
MAX_TEXT = 1024
_INT64 = 1 << 63
_TOKEN_DIGITS = 9


def _refuse(param: str, what: str) -> None:
    raise bad_field("invalid_value", param, f"must be {what}")


def number(low: float, high: float) -> Check:
    def check(param: str, value: Any) -> None:
        if type(value) not in (int, float) or not low <= value <= high:
            _refuse(param, f"a number from {low} to {high}")

    return check


def above(low: float, high: float) -> Check:
    """A number that may not be `low` itself."""

    def check(param: str, value: Any) -> None:
        if type(value) not in (int, float) or not low < value <= high:
            _refuse(param, f"a number above {low} and up to {high}")

    return check


def integer(low: int, high: int) -> Check:
    def check(param: str, value: Any) -> None:
        if type(value) is not int or not low <= value <= high:
            _refuse(param, f"an integer from {low} to {high}")

    return check


def flag(param: str, value: Any) -> None:
    if type(value) is not bool:
        _refuse(param, "true or false")


def no(param: str, value: Any) -> None:
    if value is not False:
        _refuse(param, "false")


def text(param: str, value: Any) -> None:
    if type(value) is not str or len(value) > MAX_TEXT:
        _refuse(param, f"a string of at most {MAX_TEXT} characters")


def string(param: str, value: Any) -> None:
    if type(value) is not str:
        _refuse(param, "a string")


def one_of(*values: str) -> Check:
    def check(param: str, value: Any) -> None:
        if value not in values:
            _refuse(param, f"one of {', '.join(values)}")

    return check


def items(most: int, check_item: Check, least: int = 0) -> Check:
    def check(param: str, value: Any) -> None:
        if type(value) is not list or not least <= len(value) <= most:
            _refuse(param, f"a list of {least} to {most} items")
        for index, item in enumerate(value):
            check_item(f"{param}[{index}]", item)

    return check


def by_token(most: int, check_item: Check) -> Check:
    """An object whose keys are the ids of tokens."""

    def check(param: str, value: Any) -> None:
        if type(value) is not dict or len(value) > most:
            _refuse(param, f"an object of at most {most} entries")
        for key, item in value.items():
            if not key.isascii() or not key.isdecimal() or len(key) > _TOKEN_DIGITS:
                _refuse(param, "an object whose keys are the ids of tokens")
            check_item(param, item)

    return check


def fields(**known: Check) -> Check:
    """An object that has these fields at most."""

    def check(param: str, value: Any) -> None:
        check_fields(param, value, known)

    return check


def check_fields(param: str, value: Any, known: Mapping[str, Check]) -> None:
    if type(value) is not dict:
        _refuse(param, "an object")
    for name, item in value.items():
        check_field = known.get(name)
        if check_field is None:
            raise bad_field("unsupported_field", join(param, name), "this field is not supported")
        if item is not None:
            check_field(f"{param}.{name}" if param else name, item)


def join(param: str, name: str) -> str:
    """The path of a field; `name` is the client's."""
    name = name[:64] + "..." if len(name) > 64 else name or '""'
    return f"{param}.{name}" if param else name


def stop(param: str, value: Any) -> None:
    for each in value if type(value) is list else [value]:
        if type(each) is not str or not 0 < len(each) <= MAX_TEXT:
            _refuse(param, f"a string or a list of strings, each of 1 to {MAX_TEXT} characters")
    if type(value) is list and len(value) > MAX_STOPS:
        _refuse(param, f"a list of at most {MAX_STOPS} strings")


def mapping(param: str, value: Any) -> None:
    if type(value) is not dict:
        _refuse(param, "an object")


def anything(param: str, value: Any) -> None:
    pass


_FORMAT = fields(
    type=one_of("text", "json_object", "json_schema"),
    json_schema=fields(name=text, description=string, schema=mapping, strict=flag),
)
_FUNCTION = fields(name=text, description=string, parameters=mapping, strict=flag)


def _tool(param: str, value: Any) -> None:
    check_fields(param, value, {"type": one_of("function"), "function": _FUNCTION})
    if (value.get("function") or {}).get("name") is None:
        _refuse(join(param, "function.name"), "the name of a function")


def _tool_choice(param: str, value: Any) -> None:
    if type(value) is dict:
        check_fields(param, value, {"type": one_of("function"), "function": fields(name=text)})
    else:
        one_of("none", "auto", "required")(param, value)


# Of OpenAI's fields these mean nothing to the engine: they are taken, and not passed on.
DROPPED = frozenset(
    (
        *("metadata", "moderation", "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention"),
        *("safety_identifier", "service_tier", "store", "user", "verbosity"),
    )
)


def build_common_fields(max_tokens: int) -> dict[str, Check]:
    tokens = integer(1, max_tokens)
    return {
        "model": text,
        "frequency_penalty": number(-2, 2),
        "ignore_eos": flag,
        "include_stop_str_in_output": flag,
        "logit_bias": by_token(300, number(-100, 100)),
        "max_tokens": tokens,
        "min_p": number(0, 1),
        "min_tokens": integer(0, max_tokens),
        "n": integer(1, MAX_CHOICES),
        "presence_penalty": number(-2, 2),
        "repetition_penalty": above(0, 10),
        "response_format": _FORMAT,
        "seed": integer(-_INT64, _INT64 - 1),
        "skip_special_tokens": flag,
        "spaces_between_special_tokens": flag,
        "stop": stop,
        "stop_token_ids": items(16, integer(0, 1 << 20)),
        "stream": flag,
        "stream_options": fields(include_usage=flag, include_obfuscation=flag, continuous_usage_stats=flag),
        "temperature": number(0, 2),
        "top_k": integer(-1, 1 << 20),
        "top_p": above(0, 1),
    }


def build_chat_fields(max_tokens: int) -> dict[str, Check]:
    return build_common_fields(max_tokens) | {
        "messages": anything,  # the conversation's own checks follow
        "include_reasoning": flag,
        "logprobs": flag,
        "max_completion_tokens": integer(1, max_tokens),
        "modalities": items(1, one_of("text"), least=1),
        "parallel_tool_calls": flag,
        "reasoning_effort": one_of("none", "minimal", "low", "medium", "high", "xhigh", "max"),
        "thinking_token_budget": integer(-1, max_tokens),
        "tool_choice": _tool_choice,
        "tools": items(128, _tool, least=1),
        "top_logprobs": integer(0, 20),
    }


def build_completion_fields(max_tokens: int) -> dict[str, Check]:
    return build_common_fields(max_tokens) | {
        "prompt": anything,  # checked with the text
        "best_of": integer(1, 1),
        "echo": no,
        "logprobs": integer(0, 20),
    }
