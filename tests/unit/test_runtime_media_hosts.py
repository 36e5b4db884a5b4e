"""From where pictures may be fetched: hosts by name, addresses by kind."""

from __future__ import annotations

from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenvl_runtime.media_hosts import MediaHosts, is_forbidden

HOSTS = MediaHosts(("images.example.com", "store.corp:8443", "http://minio.storage.svc:9000", "10.0.0.7"))


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("https://images.example.com/a.png", ("https", "images.example.com", 443, "/a.png")),
        ("https://IMAGES.example.com:443?a=/b@c", ("https", "images.example.com", 443, "/?a=/b@c")),
        ("https://store.corp:8443", ("https", "store.corp", 8443, "/")),
        ("http://minio.storage.svc:9000/b/k?X-Sig=a%2Fb", ("http", "minio.storage.svc", 9000, "/b/k?X-Sig=a%2Fb")),
        ("HTTPS://images.example.com/a.png", ("https", "images.example.com", 443, "/a.png")),
        ("Http://minio.storage.svc:9000/", ("http", "minio.storage.svc", 9000, "/")),
        ("https://10.0.0.7/x", ("https", "10.0.0.7", 443, "/x")),
    ],
)
def test_named_hosts(url: str, found: tuple[str, str, int, str]) -> None:
    assert HOSTS.find(url) == found


@pytest.mark.parametrize(
    "url",
    [
        "http://images.example.com/a", "https://images.example.com:8443/a", "https://store.corp/a",
        "https://images.example.com.evil.org/", "https://evil.images.example.com/", "https://images.example.com./",
        "https://user@images.example.com/", "https://images.example.com@evil.org/",
        "https://evil.org#images.example.com",
        "https://images.example.com:443@evil.org/", "https://images.example.com\\@evil.org/",
        "https://images.example.com/#a",
        "https://images.example.com/ a", "https://images.example.com/\r\nHost: a", "https://images.example.com/\x00",
        "https://images%2Eexample.com/", "http\u017f://images.example.com/", "https://\uff49mages.example.com/",
        "https://[::1]/", "https://167772167/",
        "https://0x0a000007/", "https://012.0.0.7/", "https:images.example.com", "https:///images.example.com",
        "//images.example.com/a", "ftp://images.example.com/", "file:///etc/passwd", "HTTP://images.example.com/",
        " https://images.example.com/", "https://images.example.com\n", "", "images.example.com",
    ],
)  # fmt: skip
def test_everything_else_is_no_named_host(url: str) -> None:
    assert HOSTS.find(url) is None


@given(
    st.text(max_size=60),
    st.sampled_from(["", "https://", "https://images.example.com", "http://minio.storage.svc:9000"]),
)
def test_no_text_leads_elsewhere(text: str, begin: str) -> None:
    link = HOSTS.find(begin + text)
    if link is not None:
        assert (link.scheme, link.host, link.port) in {
            ("https", "images.example.com", 443),
            ("http", "minio.storage.svc", 9000),
        }
        assert link.target.startswith("/")
        assert link.target.isascii()
        assert link.target.isprintable()
        assert " " not in link.target


@pytest.mark.parametrize("entry", ["", "https://a", "a/b", "user@a", "a:b", "-a", "A", "[::1]", "*", "a b"])
def test_malformed_entries(entry: str) -> None:
    with pytest.raises(ValueError, match="allowed_url_hosts"):
        MediaHosts((entry,))


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.9.9.9", "0.0.0.0", "0.1.2.3", "169.254.169.254", "169.254.1.1", "224.0.0.1",
        "255.255.255.255",
        "240.0.0.1", "100.100.100.200", "168.63.129.16", "192.0.0.192", "::", "::1", "::127.0.0.1", "::ffff:127.0.0.1",
        "::ffff:169.254.169.254", "fe80::1", "fe80::1%eth0", "ff02::1", "fd00:ec2::254", "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "2002:a9fe:a9fe::",
        "fd20:ce::254", "64:ff9b:1::7f00:1", "64:ff9b:1:a9fe:a9:fe00::", "64:ff9b:1:fffe::a00:7",
        "::ffff:0:127.0.0.1", "::ffff:0:169.254.169.254",
    ],
)  # fmt: skip
def test_addresses_that_nobody_may_name(address: str) -> None:
    assert is_forbidden(address)


@pytest.mark.parametrize(
    "address", ["10.0.0.7", "192.168.1.1", "172.16.0.1", "100.64.0.1", "93.184.216.34", "fd12::1", "2001:db8::1"]
)
def test_addresses_that_a_named_host_may_have(address: str) -> None:
    assert not is_forbidden(address)


@given(st.integers(0, (1 << 32) - 1))
def test_an_address_in_an_ipv6_address_is_the_same_address(number: int) -> None:
    plain = IPv4Address(number)
    for wrapped in (
        IPv6Address(0xFFFF << 32 | number),
        IPv6Address(0x64FF9B << 96 | number),
        IPv6Address(0xFFFF << 48 | number),
        IPv6Address(0x2002 << 112 | number << 80),
    ):
        assert is_forbidden(str(wrapped)) == is_forbidden(str(plain))


@given(st.text(max_size=30))
def test_an_entry_is_an_entry_or_an_error(entry: str) -> None:
    with suppress(ValueError):
        MediaHosts((entry,))
