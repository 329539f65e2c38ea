"""Whether a process still has connections to another host, as Linux tells it."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

_LOOK_SECONDS = 1.0
# Connections may come and go while an engine starts.
_GONE_SECONDS = 10.0
_PROC = Path("/proc")
_ESTABLISHED = "01"

Address = tuple[str, int]


class _Connection(NamedTuple):
    local: Address
    remote: Address


class PeerWatch(threading.Thread):
    """Tells when a host has gone to which this process, or one below it, had a TCP connection."""

    def __init__(self, host: str, gone: Callable[[], None], gone_seconds: float = _GONE_SECONDS) -> None:
        """
        Args:
            host: name or address.
            gone: called once, on this thread, when there has been no connection for a while.
            gone_seconds: that while.
        """
        super().__init__(name="vllm_custom_peer", daemon=True)
        self._host = host
        self._gone = gone
        self._gone_seconds = gone_seconds

    def run(self) -> None:
        seen_at: float | None = None
        while seen_at is None or time.monotonic() - seen_at < self._gone_seconds:
            time.sleep(min(_LOOK_SECONDS, self._gone_seconds))
            if self._is_connected():
                seen_at = time.monotonic()
        self._gone()

    def _is_connected(self) -> bool:
        with contextlib.suppress(OSError):  # the name is not known yet, or any more
            addresses = {_plain(str(info[4][0]).partition("%")[0]) for info in socket.getaddrinfo(self._host, None)}
            connections = list(_connections(_sockets(_family(os.getpid()))))
            own = {connection.local for connection in connections}
            return any(one.remote[0] in addresses and one.remote not in own for one in connections)
        return False


def _family(process: int) -> set[int]:
    """It, and all below it."""
    children: dict[int, list[int]] = {}
    for folder in _PROC.glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended
            parent = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()[1]
            children.setdefault(int(parent), []).append(int(folder.name))
    found, new = set[int](), [process]
    while new:
        found.add(one := new.pop())
        new += children.get(one, [])
    return found


def _sockets(processes: set[int]) -> set[str]:
    """Their inodes."""
    links = set[str]()
    for process in processes:
        with contextlib.suppress(OSError):  # it has ended
            for descriptor in (_PROC / str(process) / "fd").iterdir():
                with contextlib.suppress(OSError):  # it was closed
                    links.add(str(descriptor.readlink()))
    return {link[8:-1] for link in links if link.startswith("socket:[")}


def _connections(sockets: set[str]) -> Iterator[_Connection]:
    """Those of these sockets that are established."""
    for name in ("tcp", "tcp6"):
        with contextlib.suppress(FileNotFoundError):  # a machine without IPv6
            for line in (_PROC / "self/net" / name).read_text().splitlines()[1:]:
                _, local, remote, state, *_, inode = line.split()[:10]
                if state == _ESTABLISHED and inode in sockets:
                    yield _Connection(_address(local), _address(remote))


def _address(text: str) -> Address:
    """Of "0100007F:1F90", which is 127.0.0.1:8080: words in the order of this machine's bytes."""
    words, port = text.split(":")
    packed = b"".join(struct.pack("=I", int(words[at : at + 8], 16)) for at in range(0, len(words), 8))
    return _plain(packed), int(port, 16)


def _plain(address: str | bytes) -> str:
    found = ipaddress.ip_address(address)
    return str(getattr(found, "ipv4_mapped", None) or found)
