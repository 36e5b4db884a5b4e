"""What a JSON schema may ask of the engine, which makes a grammar of it on a thread that everybody waits for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

import orjson

from qwenvl_runtime.errors import bad_field

MAX_BYTES = 32 << 10
"""5,000 properties take the engine over 10 s."""
MAX_STATES = 1024
"""Of all patterns together: its time grows with their square, 5,000 take more than a second."""
_COUNT = re.compile(r"\{(\d+)(?:,(\d*))?\}")
_CLASS = re.compile(r"\[\^?\]?(?:\\.|[^\]\\])*\]", re.DOTALL)
_HUGE = 1 << 30


def check_schemas(param: str, schemas: Iterable[Any]) -> None:
    """Schemas of which one grammar is made; `param` is the path of the last one. Raises RequestError."""
    size, states = 0, 0
    for schema in schemas:
        size += len(orjson.dumps(schema))
        if size > MAX_BYTES:
            raise bad_field("invalid_value", param, f"must be a schema of at most {MAX_BYTES} bytes")
        states += sum(map(count_states, _find_patterns(schema)))
        if states > MAX_STATES:
            what = f"must be a schema whose patterns match at most {MAX_STATES} characters, repetitions multiplied"
            raise bad_field("invalid_value", param, what)


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


def _find_patterns(schema: Any) -> Iterator[str]:
    waiting = [schema]
    while waiting:
        value = waiting.pop()
        if type(value) is dict:
            if type(pattern := value.get("pattern")) is str:
                yield pattern
            if type(keys := value.get("patternProperties")) is dict:
                yield from keys
            waiting += value.values()
        elif type(value) is list:
            waiting += value
