"""Quantities and durations in the forms that Kubernetes and Go write them."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

QUANTITY_PATTERN = r"^([0-9]+\.?[0-9]*|\.[0-9]+)([numkMGTPE]|[KMGTPE]i|[eE][+-]?[0-9]{1,2})?$"
DURATION_PATTERN = r"^([0-9]+(\.[0-9]+)?(ms|s|m|h))+$"

_SUFFIX = {
    "": Decimal(1),
    **{s: Decimal(1000) ** -(i + 1) for i, s in enumerate("mun")},
    **{s: Decimal(1000) ** (i + 1) for i, s in enumerate("kMGTPE")},
    **{f"{s}i": Decimal(1024) ** (i + 1) for i, s in enumerate("KMGTPE")},
}
_UNIT = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def parse_quantity(text: str) -> Decimal:
    """`1500m` -> 1.5, `20Mi` -> 20971520, `2e3` -> 2000: the positive forms of resource.Quantity. Raises ValueError."""
    match = re.fullmatch(QUANTITY_PATTERN, text)
    if match is None:
        raise ValueError(f"{text!r} is not a quantity such as 500m, 4, 20Mi or 1.5Gi")
    number, suffix = Decimal(match[1]), match[2] or ""
    return number * _SUFFIX[suffix] if suffix in _SUFFIX else number.scaleb(int(suffix[1:]))


def parse_duration(text: str) -> float:
    """`90s` -> 90.0, `1h30m` -> 5400.0 (the form of Go's time.ParseDuration). Raises ValueError."""
    if re.fullmatch(DURATION_PATTERN, text) is None:
        raise ValueError(f"{text!r} is not a duration such as 90s, 5m or 1h30m")
    parts = re.findall(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h)", text)
    return sum(float(number) * _UNIT[unit] for number, unit in parts)


def _text(value: object) -> object:
    """`cpu: 2` and `cpu: "2"` are the same quantity: the text is what we keep."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _checked_quantity(text: str) -> str:
    parse_quantity(text)
    return text


def _checked_duration(text: str) -> str:
    parse_duration(text)
    return text


Quantity = Annotated[
    str,
    BeforeValidator(_text),
    AfterValidator(_checked_quantity),
    WithJsonSchema(
        {
            "x-kubernetes-int-or-string": True,
            "minimum": 0,
            "maxLength": 32,
            "pattern": QUANTITY_PATTERN,
        }
    ),
]
Duration = Annotated[str, Field(pattern=DURATION_PATTERN, max_length=32), AfterValidator(_checked_duration)]
