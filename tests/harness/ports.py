"""Ports for servers that tests start on loopback."""

import socket


def free_port() -> int:
    """One that nobody listens on; another program may take it before it is used."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
