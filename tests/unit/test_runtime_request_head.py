"""The head of a request: what is taken, what is refused, and that another parser sees the same in it."""

from __future__ import annotations

import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenvl_runtime.errors import RequestError
from qwenvl_runtime.request_head import RequestHead, read_request_head

FIRST = b"POST /v1/models?q=1 HTTP/1.1\r\n"


def read(*lines: bytes, first: bytes = FIRST, most: int = 100) -> RequestHead:
    return read_request_head(first + b"".join(line + b"\r\n" for line in lines) + b"\r\n", most)


def test_a_head_is_read() -> None:
    head = read(b"Host:  h ", b"X-A:\t1 : 2\t", b"X-a: \xe9", b"Empty:", b"content-length: 007")
    headers = {b"host": b"h", b"x-a": b"\xe9", b"empty": b"", b"content-length": b"007"}
    assert head == RequestHead("POST", "/v1/models", headers, "1.1", keep_alive=True, body_length=7)


def test_an_old_client_needs_no_header() -> None:
    head = read(first=b"GET http://host/healthz HTTP/1.0\r\n")
    assert head == RequestHead("GET", "/healthz", {}, "1.0", keep_alive=False, body_length=0)


@pytest.mark.parametrize(
    ("version", "lines", "kept"),
    [
        (b"1.1", [b"Connection: Keep-Alive , Close"], False),
        (b"1.1", [b"Connection: close", b"Connection: x"], False),
        (b"1.1", [b"Connection: closed"], True),
        (b"1.0", [b"Connection: keep-alive"], True),
        (b"1.1", [b"Connection: Upgrade", b"Upgrade: h2c"], False),
        (b"1.1", [b"Upgrade: h2c"], True),
    ],
)
def test_whether_the_connection_stays(version: bytes, lines: list[bytes], kept: bool) -> None:
    assert read(b"Host: h", *lines, first=b"GET / HTTP/%b\r\n" % version).keep_alive is kept


@pytest.mark.parametrize(
    "line",
    [
        b" folded: line",
        b"Space : before",
        b": nameless",
        b"no colon",
        b"N\xe4me: x",
        b"X: a\rb",
        b"X: a\nY: b",
        b"X: \x00",
        b"X: \x7f",
        b"Content-Length: +5",
        b"Content-Length: 5, 5",
        b"Content-Length: ",
        b"Content-Length: " + b"1" * 5000,
        b"Content-Length: \xb2",
        b"Transfer-Encoding: gzip, chunked",
        b"Transfer-Encoding: chunked, identity",
        b"HOST: again",
    ],
)
def test_what_could_be_read_in_two_ways_is_refused(line: bytes) -> None:
    with pytest.raises(RequestError) as caught:
        read(b"Host: h", line)
    assert caught.value.code == "bad_request"


@pytest.mark.parametrize(
    "first",
    [
        b"GET / HTTP/1.1\n",
        b"GET  / HTTP/1.1\r\n",
        b"GET / HTTP/1.1 \r\n",
        b"get / HTTP/1.1\r\n",
        b"GET /a b HTTP/1.1\r\n",
        b"GET / http/1.1\r\n",
        b"GET /\x00 HTTP/1.1\r\n",
        b"GET /\xe9 HTTP/1.1\r\n",
        b"GET /\r\n",
        b"\r\n",
    ],
)
def test_a_first_line_that_is_none_is_refused(first: bytes) -> None:
    with pytest.raises(RequestError, match="not well-formed"):
        read(b"Host: h", first=first)


def test_what_is_missing_or_too_much_is_named() -> None:
    with pytest.raises(RequestError, match="Host is missing"):
        read()
    with pytest.raises(RequestError, match="has 3 headers; at most 2"):
        read(b"Host: h", b"A: 1", b"B: 2", most=2)
    with pytest.raises(RequestError, match=r"Use HTTP/1\.1"):
        read(b"Host: h", first=b"GET / HTTP/2.0\r\n")
    with pytest.raises(RequestError, match="cannot be upgraded"):
        read(b"Host: h", b"Transfer-Encoding: chunked", b"Connection: upgrade", b"Upgrade: x")
    with pytest.raises(RequestError, match="length is ambiguous"):
        read(b"Host: h", b"Transfer-Encoding: chunked", b"Content-Length: 1")


class Seen:
    """What httptools sees in the same bytes."""

    def __init__(self, raw: bytes) -> None:
        self.target = b""
        self.headers: dict[bytes, bytes] = {}
        self.kept = False
        self._parser = httptools.HttpRequestParser(self)
        try:
            self._parser.feed_data(raw)
        except httptools.HttpParserUpgrade:
            self.kept = False
        self.method, self.version = self._parser.get_method().decode(), self._parser.get_http_version()

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.lower()] = value.rstrip(b" \t")

    def on_headers_complete(self) -> None:
        self.kept = self._parser.should_keep_alive()


NAMES = st.sampled_from(
    [b"Host", b"Connection", b"Content-Length", b"Transfer-Encoding", b"Upgrade", b"X-A", b"accept"]
)
VALUES = st.one_of(
    st.sampled_from([b"close", b"keep-alive", b"chunked", b"upgrade", b"7", b"x, close ,y", b" \t", b"h"]),
    st.binary(max_size=12),
)
LINES = st.lists(st.one_of(st.tuples(NAMES, VALUES).map(b": ".join), st.binary(max_size=12)), max_size=6)


@given(st.sampled_from([b"GET", b"POST", b"HEAD"]), st.binary(min_size=1, max_size=12), LINES)
def test_httptools_sees_the_same_in_whatever_is_taken(method: bytes, target: bytes, lines: list[bytes]) -> None:
    raw = b"%b /%b HTTP/1.1\r\nHost: h\r\n" % (method, target) + b"".join(line + b"\r\n" for line in lines) + b"\r\n"
    try:
        head = read_request_head(raw, 100)
    except RequestError:
        return
    seen = Seen(raw)
    assert (head.method, head.version, head.headers, head.keep_alive) == (
        seen.method,
        seen.version,
        seen.headers,
        seen.kept,
    )
    assert seen.target.partition(b"?")[0].decode("latin-1") == head.path
