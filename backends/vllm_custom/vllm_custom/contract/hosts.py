"""Host names and IP literals in one normal form, and the entries of ALLOWED_MEDIA_DOMAINS and ALLOWED_MEDIA_NETWORKS.

Pure. A URL's host and the allow list go through the same function, so that two spellings of a host cannot differ.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

import idna

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

DEFAULT_PORTS = {"http": 80, "https": 443}
_MAX_NAME = 253  # RFC 1035, section 2.3.4, less the root's length byte and dot
_MAX_WRITTEN = 4 * _MAX_NAME  # before it is mapped, which takes long where a name is long
# RFC 1123, section 2.1, and the underscore, which names on private networks do use.
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER = re.compile(r"0[xX](?P<hex>[0-9a-fA-F]*)|(?P<octal>0[0-7]+)|(?P<decimal>0|[1-9][0-9]*)")
_ENTRY = re.compile(r"(?P<any>\*\.)?(?P<host>\[[^\]]*\]|[^:\[\]]*)(?::(?P<port>[0-9]{1,5}))?")


def normalize_host(text: str) -> str | None:
    """``text`` in lower case ASCII, an IP literal in its canonical notation (IPv6 without brackets); None if invalid.

    Args:
        text: the host of a URL as written, IPv6 in brackets. Names outside ASCII are mapped as UTS 46 has it, which
            also turns look-alike digits and dots into plain ones before anything is judged.
    """
    if len(text) > _MAX_WRITTEN:
        return None
    if text.startswith("["):
        return _normal_ipv6(text)
    if not text.isascii():
        try:
            text = idna.encode(text, uts46=True, std3_rules=True).decode("ascii")
        except UnicodeError:  # idna's own error is one
            return None
    name = text.lower().removesuffix(".")
    labels = name.split(".")
    # A last label that is a number makes it an IPv4 address or nothing (WHATWG URL, "ends in a number").
    if labels[-1].isdigit() or labels[-1].startswith("0x"):
        return _normal_ipv4(labels)
    if len(name) > _MAX_NAME or not all(_LABEL.fullmatch(label) for label in labels):
        return None
    return name


def parse_ip(host: str) -> Address | None:
    """The address that a normal host is, or None where it is a name."""
    for kind in (IPv4Address, IPv6Address):
        try:
            return kind(host)
        except AddressValueError:
            continue
    return None


def bracketed(host: str) -> str:
    """A normal host as it stands in a URL."""
    return f"[{host}]" if ":" in host else host


def parse_network(text: str) -> Network:
    """One entry of ALLOWED_MEDIA_NETWORKS.

    Raises:
        ValueError: not a network in CIDR notation, or with host bits set.
    """
    return ip_network(text)


@dataclass(frozen=True)
class HostPattern:
    """One entry of ALLOWED_MEDIA_DOMAINS: a host, or every name below it.

    Attributes:
        host: in normal form.
        include_subdomains: whether names that end in ``.host`` are meant, and not ``host`` itself.
        port: the only port; None stands for the scheme's default.
    """

    host: str
    include_subdomains: bool = False
    port: int | None = None

    @classmethod
    def parse(cls, text: str) -> HostPattern:
        """``host``, ``*.suffix``, either with ``:port``; an IPv6 address stands in brackets.

        Raises:
            ValueError: none of these.
        """
        match = _ENTRY.fullmatch(text)
        host = normalize_host(match["host"]) if match else None
        if match is None or host is None or (match["any"] and parse_ip(host)):
            raise ValueError(text)
        port = int(match["port"]) if match["port"] else None
        if port is not None and not 0 < port < 1 << 16:
            raise ValueError(text)
        return cls(host, bool(match["any"]), port)

    def matches_host(self, host: str) -> bool:
        """Whether ``host``, in normal form, is meant, whatever the port."""
        if not self.include_subdomains:
            return host == self.host
        return parse_ip(host) is None and host.endswith(f".{self.host}")

    def matches(self, scheme: str, host: str, port: int) -> bool:
        """Whether a URL of this scheme, normal host and port is meant."""
        return self.matches_host(host) and port == (self.port or DEFAULT_PORTS[scheme])


def _normal_ipv6(text: str) -> str | None:
    if "%" in text:  # a zone (RFC 6874) names an interface of this machine
        return None
    try:
        return str(IPv6Address(text[1:-1])) if text.endswith("]") else None
    except AddressValueError:
        return None


def _normal_ipv4(parts: list[str]) -> str | None:
    """What inet_aton, and with it getaddrinfo, reads: one to four numbers in any base, the last fills the rest."""
    matches = [_NUMBER.fullmatch(part) for part in parts]
    if len(parts) > 4:
        return None
    numbers: list[int] = []
    for match in matches:
        if match is None or len(match[0]) > 16:
            return None
        if match["hex"] is not None:
            numbers.append(int(match["hex"] or "0", 16))
        else:
            numbers.append(int(match["octal"] or match["decimal"], 8 if match["octal"] else 10))
    *leading, last = numbers
    if any(number > 255 for number in leading) or last >= 256 ** (4 - len(leading)):
        return None
    return str(IPv4Address(last + sum(number << 8 * (3 - place) for place, number in enumerate(leading))))
