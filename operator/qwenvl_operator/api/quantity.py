"""Quantities and durations in the forms that Kubernetes and Go write them."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated

from pydantic import AfterValidator, Field

QUANTITY_PATTERN = r"^([0-9]+|[0-9]+\.[0-9]+|\.[0-9]+)(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$"
DURATION_PATTERN = r"^([0-9]+(\.[0-9]+)?(ms|s|m|h))+$"

_SUFFIX = {
    "": Decimal(1),
    "m": Decimal("0.001"),
    **{s: Decimal(1000) ** (i + 1) for i, s in enumerate("kMGTP")},
    **{f"{s}i": Decimal(1024) ** (i + 1) for i, s in enumerate("KMGTP")},
}
_UNIT = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def parse_quantity(text: str) -> Decimal:
    """`1500m` -> 1.5, `20Mi` -> 20971520. Raises ValueError for anything that resource.Quantity would refuse."""
    match = re.fullmatch(QUANTITY_PATTERN, text)
    if match is None:
        raise ValueError(f"{text!r} is not a quantity such as 500m, 4, 20Mi or 1.5Gi")
    return Decimal(match[1]) * _SUFFIX[match[2] or ""]


def parse_duration(text: str) -> float:
    """`90s` -> 90.0, `1h30m` -> 5400.0 (the form of Go's time.ParseDuration). Raises ValueError."""
    if re.fullmatch(DURATION_PATTERN, text) is None:
        raise ValueError(f"{text!r} is not a duration such as 90s, 5m or 1h30m")
    parts = re.findall(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h)", text)
    return sum(float(number) * _UNIT[unit] for number, unit in parts)


def _checked_quantity(text: str) -> str:
    parse_quantity(text)
    return text


def _checked_duration(text: str) -> str:
    parse_duration(text)
    return text


Quantity = Annotated[str, Field(pattern=QUANTITY_PATTERN, max_length=32), AfterValidator(_checked_quantity)]
Duration = Annotated[str, Field(pattern=DURATION_PATTERN, max_length=32), AfterValidator(_checked_duration)]
