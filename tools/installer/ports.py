"""TCP ports: free ones to be chosen, taken ones to be named before tritonserver trips over them."""

import errno
import ipaddress
import random
import socket

from tools.installer.console import BuildError

# Below Linux's ephemeral range (32768 on), so that no outgoing connection takes a port between choice and use.
_RANGE = range(20_000, 32_000)
_TRIES = 200
_HIGHEST = 65_535
_NO_ADDRESS = "give one with --host (0.0.0.0 and :: are all addresses)"


def address(host: str) -> str:
    """What to listen on, without the brackets of IPv6. A name is looked up: tritonserver's HTTP service does not.

    Raises:
        BuildError: there is none.
    """
    host = host.strip().removeprefix("[").removesuffix("]")
    if not host:
        raise BuildError("no address to listen on is given", _NO_ADDRESS)
    try:
        ipaddress.ip_address(host)
    except ValueError:
        try:
            found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise BuildError(f"cannot listen on {host}: {reason}", "choose another --host") from error
        return str(found[0][4][0])
    return host


def is_free(host: str, port: int) -> bool:
    """Whether a server could listen there now. Raises BuildError where the address itself is not usable."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As servers do: connections that linger in TIME_WAIT are no hindrance.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                return False
            raise BuildError(f"cannot listen on {host}: {error.strerror}", "choose another --host") from error
    return True


def choose(host: str, wanted: int, flag: str, taken: set[int]) -> int:
    """The wanted port, checked; or a free one for 0. `taken` grows by what is handed out."""
    if not host:
        raise BuildError("no address to listen on is given", _NO_ADDRESS)
    if not 0 <= wanted <= _HIGHEST:
        raise BuildError(f"{flag}: expected a port from 0 to {_HIGHEST}, got {wanted}", "0 takes a free one")
    if wanted:
        if wanted in taken:
            raise BuildError(f"port {wanted} is given twice", f"choose another one with {flag}")
        if not is_free(host, wanted):
            raise BuildError(
                f"port {wanted} on {host} is taken, or not allowed",
                f"choose another one with {flag} (0 takes a free one)",
            )
        taken.add(wanted)
        return wanted
    for _ in range(_TRIES):
        port = random.choice(_RANGE)
        if port not in taken and is_free(host, port):
            taken.add(port)
            return port
    raise BuildError(f"no free port on {host} between {_RANGE.start} and {_RANGE.stop}", f"give one with {flag}")
