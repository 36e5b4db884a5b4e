"""Requests cut out of bytes: the same whichever way the bytes arrive."""

from __future__ import annotations

import itertools
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenvl_runtime.errors import RequestError
from qwenvl_runtime.intake import Intake, Request
from qwenvl_runtime.limits import Limits
from qwenvl_runtime.request_head import RequestHead
from qwenvl_runtime.request_id import choose_request_id

LIMITS = Limits(body_bytes=1000)
WIRE = (
    b"POST /a?q HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello"
    b"\r\n\nGET /b HTTP/1.1\r\nHost: h\r\n\r\n"
    b"POST /c HTTP/1.1\r\nHost: h\r\nContent-Length: 300\r\nX-A: 1\r\n\r\n" + b"z" * 300 +
    b"POST /d HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n4;x=y\r\ndefg\r\n0\r\nT: 1\r\n\r\n"
)  # fmt: skip
REQUESTS = [("/a", b"hello"), ("/b", b""), ("/c", b"z" * 300), ("/d", b"abcdefg")]


def read_all(pieces: list[bytes]) -> list[Request]:
    intake = Intake(LIMITS, lambda head: None)
    requests = []
    for piece in pieces:
        intake.feed(piece)
        while request := intake.read():
            requests.append(request)
    return requests


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(min(place, len(data)) for place in places), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]


@given(st.lists(st.integers(0, len(WIRE)), max_size=30))
def test_the_same_requests_however_the_bytes_are_cut(cuts: list[int]) -> None:
    requests = read_all(cut(WIRE, cuts))
    assert [(request.head.path, request.body) for request in requests] == REQUESTS


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=4))
def test_no_bytes_break_the_intake(noise: bytes, cuts: list[int]) -> None:
    with suppress(RequestError):
        read_all(cut(noise, cuts))


@given(st.integers(0, len(WIRE) - 1), st.binary(min_size=1, max_size=3))
def test_no_damage_breaks_the_intake(place: int, damage: bytes) -> None:
    with suppress(RequestError):
        read_all([WIRE[:place] + damage + WIRE[place + len(damage) :]])


def test_a_refused_body_is_not_read() -> None:
    def refuse(head: RequestHead) -> None:
        LIMITS.check_body(head.body_length or 0)

    intake = Intake(LIMITS, refuse)
    intake.feed(b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 1001\r\n\r\n")
    with pytest.raises(RequestError, match="larger than 1000 bytes"):
        intake.read()


def test_what_follows_a_chunked_body_makes_it_the_last() -> None:
    chunked = b"POST /d HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n"
    assert [request.last for request in read_all([chunked, chunked])] == [False, False]
    for next_one in (
        b"GET /e HTTP/1.1\r\n",
        b"POST /e HTTP/1.1\r\nHost: h\r\nContent-Length: 6\r\n\r\nSECOND",
        chunked,
    ):
        requests = read_all([chunked + next_one])
        assert [(request.body, request.last) for request in requests] == [(b"a", True)], "and no part of it"


@pytest.mark.parametrize("offered", [b"a", b"A-b_c.9", b"x" * 128])
def test_well_formed_request_ids_are_kept(offered: bytes) -> None:
    assert choose_request_id(offered) == offered.decode()


@pytest.mark.parametrize("offered", [None, b"", b"a b", b"x" * 129, b"a\n", "é".encode(), b"../x", b"a;b"])
def test_other_request_ids_are_made(offered: bytes | None) -> None:
    made = choose_request_id(offered)
    assert len(made) == 32
    assert made != choose_request_id(offered)
