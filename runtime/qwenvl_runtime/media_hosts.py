"""Which hosts pictures may be fetched from, and which of their addresses a connection may be made to."""

from __future__ import annotations

import re
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import NamedTuple

PORTS = {"http": 80, "https": 443}
_ENTRY = re.compile(r"(?:(http)://)?([a-z0-9](?:[-a-z0-9.]*[a-z0-9])?)(?::([0-9]{1,5}))?")
# One spelling of a URL only: no user, no escapes in the host, no other alphabet, no fragment, nothing but ASCII.
_URL = re.compile(
    r"((?ai:https?))://([A-Za-z0-9](?:[-A-Za-z0-9.]*[A-Za-z0-9])?)(?::([0-9]{1,5}))?((?:[/?][!-\"$-\[\]-~]*)?)"
)
# What answers on these gives a machine's credentials to whoever asks. 169.254.169.254 is link-local already.
_METADATA = tuple(map(ip_address, ("fd00:ec2::254", "fd20:ce::254", "100.100.100.200", "168.63.129.16", "192.0.0.192")))
# IPv6 addresses that end with an IPv4 address: NAT64's, and the translated ones of SIIT.
_ENDING_IN_IPV4 = (ip_network("64:ff9b::/96"), ip_network("::ffff:0:0:0/96"))
# Each network that uses these puts the IPv4 address elsewhere.
_LOCAL_NAT64 = ip_network("64:ff9b:1::/48")


class MediaLink(NamedTuple):
    scheme: str
    host: str
    port: int
    target: str
    """Path and query."""


class MediaHosts:
    """`entries` as in media.allowedURLHosts: `host` or `host:port` over https, with `http://` in front over http."""

    longest = 4096
    """Characters of a URL."""

    def __init__(self, entries: Sequence[str]) -> None:
        self.names = tuple(entries)
        self._allowed = {_read_entry(entry) for entry in entries}

    def find(self, url: str) -> MediaLink | None:
        """None for a URL that is malformed, or whose scheme, host and port are not among the allowed ones."""
        match = _URL.fullmatch(url)
        if match is None:
            return None
        scheme, host, port, target = match.groups()
        scheme = scheme.lower()
        link = MediaLink(scheme, host.lower(), int(port or PORTS[scheme]), target or "/")
        if target.startswith("?"):
            link = link._replace(target="/" + target)
        return link if link[:3] in self._allowed else None


def is_plain(url: str) -> bool:
    """Whether it is spelled as a URL has to be, whatever its host is."""
    return _URL.fullmatch(url) is not None


def _read_entry(entry: str) -> tuple[str, str, int]:
    match = _ENTRY.fullmatch(entry)
    if match is None:
        raise ValueError(f"media.allowed_url_hosts: {entry} is not [http://]host[:port]")
    scheme = match[1] or "https"
    return scheme, match[2], int(match[3] or PORTS[scheme])


def is_forbidden(address: str) -> bool:
    """Whether no host may have this address, whoever allowed the host. Private addresses are not forbidden.

    >>> is_forbidden("10.0.0.7"), is_forbidden("127.0.0.1"), is_forbidden("::ffff:169.254.169.254")
    (False, True, True)
    """
    found: IPv4Address | IPv6Address = ip_address(address.partition("%")[0])
    if isinstance(found, IPv6Address):
        inner = found.ipv4_mapped or found.sixtofour or (found.teredo[1] if found.teredo else None)
        if inner is None and any(found in network for network in _ENDING_IN_IPV4):
            inner = IPv4Address(int(found) & 0xFFFFFFFF)
        if inner is not None:
            found = inner
        elif int(found) < 1 << 32 or found in _LOCAL_NAT64:
            return True  # ::, ::1 and the old way to write an IPv4 address
    reserved = isinstance(found, IPv4Address) and (found.is_reserved or int(found) >> 24 == 0)
    return (
        found.is_loopback or found.is_link_local or found.is_multicast or found.is_unspecified or reserved
    ) or found in _METADATA
