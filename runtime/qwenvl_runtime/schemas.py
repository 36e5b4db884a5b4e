"""What a JSON schema may ask of the engine, which spends seconds of its processors on the grammar of a small one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

import orjson

from qwenvl_runtime.errors import bad_field
from qwenvl_runtime.fields import join

MAX_BYTES = 32 << 10
MAX_PATTERN = 1024
"""Characters of one pattern."""
MAX_STATES = 1024
"""Of all schemas of one grammar. A state takes up to 0.05 s of one core, for a vocabulary of 150,000."""
LONGEST = 200
"""Longer strings take it no longer: hardly a token has so many characters."""
FORMATS = {
    "email": 2, "hostname": 1, "ipv6": 1, "json-pointer": 1, "relative-json-pointer": 1, "uri": 2, "uri-reference": 2,
    "uri-template": 5,
}  # fmt: skip
"""States of a string's format; the others are cheap."""
_CROSSED = 512
"""What the square of the number of optional properties is divided by."""
_COUNT = re.compile(r"\{(\d+)(?:,(\d*))?\}")
# One that has no end goes on to the end of the pattern; it is read once, however it ends.
_CLASS = re.compile(r"\[\^?\]?(?:\\.|[^\]\\])*+\]?", re.DOTALL)
_HUGE = 1 << 30


def check_grammars(content: dict[str, Any]) -> None:
    """Those that the engine makes for a request whose fields have been checked. Raises RequestError."""
    if "response_format" in content:
        form = content["response_format"].get("json_schema") or {}
        check_schemas([("response_format.json_schema.schema", form.get("schema"))])
    if "tools" in content:
        check_schemas((f"tools[{index}].function.parameters", schema) for index, schema in _find_tools(content))


def _find_tools(content: dict[str, Any]) -> Iterator[tuple[int, Any]]:
    """The parameters of tools of which the engine makes one grammar: of those that may have to be called, and of all
    where one is strict."""
    functions = [tool["function"] for tool in content["tools"]]
    choice = content.get("tool_choice")
    every = choice == "required" or any(function.get("strict") for function in functions)
    name = (choice.get("function") or {}).get("name") if type(choice) is dict else None
    for index, function in enumerate(functions):
        if every or function["name"] == name:
            yield index, function.get("parameters")


def check_schemas(schemas: Iterable[tuple[str, Any]]) -> None:
    """Schemas of which one grammar is made, each with its path. Raises RequestError."""
    size, states = 0, 0
    lengths: set[tuple[Any, Any]] = set()
    for param, schema in schemas:
        size += len(orjson.dumps(schema))
        if size > MAX_BYTES:
            raise bad_field("invalid_value", param, f"must be a schema of at most {MAX_BYTES} bytes")
        for path, part in _walk(param, schema):
            states += sum(_count_pattern(path, pattern) for pattern in _find_patterns(part))
            states += _count_length(part, lengths) + _count_format(part) + _count_names(part)
            if states > MAX_STATES:
                what = "lengths, patterns, formats and names of properties"
                limit = f"of all schemas of one grammar together may come to {MAX_STATES} states, with this it is more"
                raise bad_field("invalid_value", path, f"{what} {limit}")


def count_states(pattern: str) -> int:
    """About how many states a machine has that matches a regular expression: one for each character, as often as it is
    counted.

    >>> count_states("^[a-z]{2,20}(ab){3}$")
    28
    """
    open_groups, last, place = [0], 0, 0
    while place < len(pattern):
        character = pattern[place]
        if found := _COUNT.match(pattern, place):
            times = max(_read_count(found[1]), _read_count(found[2] or "0"))
            open_groups[-1] += last * (max(times, 1) - 1)
            last *= max(times, 1)
            place = found.end()
            continue
        if character == "(":
            open_groups.append(0)
            last = 0
        elif character == ")" and len(open_groups) > 1:
            last = open_groups.pop()
            open_groups[-1] += last
        elif character not in "*+?":
            open_groups[-1] += 1
            last = 1
        found = _CLASS.match(pattern, place) if character == "[" else None
        place = found.end() if found else place + (2 if character == "\\" else 1)
    return sum(open_groups)


def _read_count(digits: str) -> int:
    return int(digits) if len(digits) < 10 else _HUGE


def _walk(param: str, schema: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every object within, with its path."""
    waiting = [(param, schema)]
    while waiting:
        path, value = waiting.pop()
        if type(value) is dict:
            yield path, value
            waiting += [(join(path, name), item) for name, item in value.items() if type(item) in (dict, list)]
        elif type(value) is list:
            waiting += [(f"{path}[{index}]", item) for index, item in enumerate(value) if type(item) in (dict, list)]


def _find_patterns(schema: dict[str, Any]) -> Iterator[str]:
    if type(pattern := schema.get("pattern")) is str:
        yield pattern
    if type(patterns := schema.get("patternProperties")) is dict:
        yield from patterns


def _count_pattern(param: str, pattern: str) -> int:
    if len(pattern) > MAX_PATTERN:
        raise bad_field("invalid_value", param, f"must have patterns of at most {MAX_PATTERN} characters")
    return count_states(pattern)


def _count_length(schema: dict[str, Any], known: set[tuple[Any, Any]]) -> int:
    """The engine works once for all strings of the same length."""
    bounds = (schema.get("minLength"), schema.get("maxLength"))
    least, most = (value if isinstance(value, int | float) else 0 for value in bounds)
    if (least, most) in known:
        return 0
    known.add((least, most))
    return int(min(max(least, most, 0), LONGEST))


def _count_format(schema: dict[str, Any]) -> int:
    return FORMATS.get(name, 0) if type(name := schema.get("format")) is str else 0


def _count_names(schema: dict[str, Any]) -> int:
    """The engine considers each optional property with each, and every character of a name that others may not have."""
    if type(properties := schema.get("properties")) is not dict:
        return 0
    required = schema.get("required")
    needed = {name for name in required if type(name) is str} if type(required) is list else set()
    is_open = any(
        schema.get(others, False) is not False for others in ("additionalProperties", "unevaluatedProperties")
    )
    return len(properties.keys() - needed) ** 2 // _CROSSED + (sum(map(len, properties)) if is_open else 0)
