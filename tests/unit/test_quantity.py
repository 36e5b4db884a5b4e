"""Quantities and durations as Kubernetes and Go write them."""

from __future__ import annotations

import re
from decimal import Decimal

import pytest
from pydantic import TypeAdapter, ValidationError

from qwenvl_operator.api.quantity import QUANTITY_PATTERN, Duration, Quantity, parse_duration, parse_quantity


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        ("4", 4),
        ("500m", Decimal("0.5")),
        ("1.5Gi", 3 * 2**29),
        (".5", Decimal("0.5")),
        ("5.", 5),
        ("20Mi", 20 * 2**20),
        ("2k", 2000),
        ("1E", 10**18),
        ("1Ei", 2**60),
        ("1e3", 1000),
        ("12E-1", Decimal("1.2")),
        ("7n", Decimal("7e-9")),
    ],
)
def test_a_quantity_is_read_as_the_api_server_reads_it(text: str, value: Decimal | int) -> None:
    assert parse_quantity(text) == value
    assert re.search(QUANTITY_PATTERN, text)


@pytest.mark.parametrize("text", ["", "Gi", "-1", "1 Gi", "1gb", "1K", "0x10", "1e", "8Gi\n", "1e1000000000", "1.2.3"])
def test_what_is_no_quantity_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a quantity such as"):
        parse_quantity(text)


@pytest.mark.parametrize(("given", "kept"), [(2, "2"), ("2", "2"), ("8Gi", "8Gi")])
def test_a_quantity_may_be_written_as_a_number(given: object, kept: str) -> None:
    assert TypeAdapter(Quantity).validate_python(given) == kept


@pytest.mark.parametrize("given", [True, -1, 0.5, "many"])
def test_no_other_type_passes_for_a_quantity(given: object) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Quantity).validate_python(given)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("1h30m", 5400), ("1.5h", 5400), ("250ms", 0.25), ("1m0s", 60)]
)
def test_a_duration_is_read_as_go_reads_it(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "90", "5 m", "-5m", "m", "1d", "90s\n"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration such as"):
        parse_duration(text)
    with pytest.raises(ValidationError):
        TypeAdapter(Duration).validate_python(text)
