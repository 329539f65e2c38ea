"""Which addresses this machine has."""

from __future__ import annotations

import socket


def has_ipv6() -> bool:
    """Whether a server can listen on ``::1``: containers often have IPv6 switched off."""
    with socket.socket(socket.AF_INET6) if socket.has_ipv6 else socket.socket() as listening:
        try:
            listening.bind(("::1", 0))
        except OSError:
            return False
    return True
