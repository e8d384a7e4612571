"""Ports of this machine."""

from __future__ import annotations

import socket

from farm.errors import Permanent


def check_port(host: str, port: int) -> None:
    """Raises Permanent when `host:port` is taken."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise Permanent(
                f"port {port} on {host} cannot be used: {error.strerror}",
                "stop what uses it, or give another with --port (0 takes any free one)",
            ) from None
