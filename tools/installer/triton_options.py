"""Options of tritonserver's command line, as far as those who start it have to know them."""

from collections.abc import Sequence

_ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1", "[::]": "::1"}  # noqa: S104

# The services, and the ports that they have where none is given.
PORTS = {"http": 8000, "grpc": 8001, "metrics": 8002}
# In front of such an address in what the HTTP services are told.
_IPV6 = "ipv6:"


def values(arguments: Sequence[str], name: str) -> list[str]:
    """Those that are given for ``name``, as ``--name=value`` or ``--name value``."""
    found = []
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=False):
        option, equals, value = argument.lstrip("-").partition("=")
        if argument.startswith("-") and option == name:
            found.append(value if equals else following)
    return found


def value(arguments: Sequence[str], name: str, default: str) -> str:
    """The last one that is given, which holds."""
    return (values(arguments, name) or [default])[-1]


def http_url(arguments: Sequence[str]) -> str:
    """Where this machine reaches the HTTP service; empty where there is none."""
    if not is_served(arguments, "http"):
        return ""
    return f"http://{reached(arguments, 'http')}:{value(arguments, 'http-port', str(PORTS['http']))}"


def is_served(arguments: Sequence[str], service: str) -> bool:
    return value(arguments, f"allow-{service}", "true").lower() not in ("false", "0")


def address(arguments: Sequence[str], service: str, default: str) -> str:
    """What a service listens on, without the forms of IPv6; the metrics do where HTTP does, unless told otherwise."""
    given = value(arguments, f"{service}-address", "")
    if not given and service == "metrics":
        given = value(arguments, "http-address", "")
    return (given or default).removeprefix(_IPV6).strip("[]")


def reached(arguments: Sequence[str], service: str) -> str:
    """The address at which this machine reaches a service."""
    return reachable(address(arguments, service, "127.0.0.1"))


def reachable(address: str) -> str:
    """An address to call, as it stands in a URL: one that means "all of this machine" is none."""
    address = address.removeprefix(_IPV6)
    host = _ANY_ADDRESS.get(address, address).strip("[]")
    return f"[{host}]" if ":" in host else host


def listening(service: str, address: str) -> str:
    """An address to listen on, as a service of tritonserver takes it: each has its own form for IPv6."""
    if ":" not in address:
        return address
    return f"[{address}]" if service == "grpc" else f"{_IPV6}{address}"


def headers(arguments: Sequence[str], *apis: str) -> dict[str, str]:
    """What requests to some of the HTTP APIs have to carry where these are restricted."""
    found = {}
    for restriction in values(arguments, "http-restricted-api"):
        restricted, _, pair = restriction.partition(":")
        key, _, secret = pair.partition("=")
        if key and set(restricted.split(",")) & set(apis):
            found[key] = secret
    return found
