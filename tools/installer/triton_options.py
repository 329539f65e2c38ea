"""Options of tritonserver's command line, as far as those who start it have to know them."""

from collections.abc import Sequence

_ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1", "[::]": "::1"}  # noqa: S104

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
    if value(arguments, "allow-http", "true").lower() in ("false", "0"):
        return ""
    address = value(arguments, "http-address", "127.0.0.1")
    host = reachable(address)
    return f"http://{host}:{value(arguments, 'http-port', '8000')}"


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
