"""Which URLs may be fetched. Pure: decides, and does nothing; :mod:`vllm_custom.media.sources.fetch` acts.

A URL is taken apart here, once, and put together again from the checked parts: what is dialled is what was judged.
"""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from ipaddress import ip_address
from urllib.parse import quote, urljoin

from vllm_custom.contract.hosts import DEFAULT_PORTS, HostPattern, Network, bracketed, normalize_host, parse_ip
from vllm_custom.media.sources.addresses import AddressRule, refuse_address

MAX_REDIRECTS = 3
_MAX_URL = 8000  # characters; RFC 9110, section 4.1, asks for that many, and servers rarely take more
_MAX_LOGGED = 200  # characters
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")
_AUTHORITY_END = re.compile(r"[/?]")
_AUTHORITY = re.compile(r"(?P<host>\[[^\]]*\]|[^:]*)(?::(?P<port>[0-9]{0,5}))?")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
# Left as they are in a path or query: all escapes and everything that a server may have signed.
_KEPT = string.punctuation.replace("\\", "").replace('"', "").replace("<", "").replace(">", "")


class Refusal(Enum):
    """The rules, by the names that logs and metrics use."""

    MALFORMED = "malformed"
    SCHEME = "scheme"
    CREDENTIALS = "credentials"
    HOST = "host"
    PORT = "port"
    ADDRESS = "address"
    DOWNGRADE = "downgrade"
    REDIRECTS = "redirects"

    @property
    def reason(self) -> str:
        """What a client is told: the rule, and nothing about addresses."""
        return _REASONS[self]


_REASONS = {
    Refusal.MALFORMED: f"is not a valid http or https URL of at most {_MAX_URL} characters",
    Refusal.SCHEME: "has a scheme that is not allowed; expected http or https",
    Refusal.CREDENTIALS: "contains credentials (user:password@host), which are not allowed",
    Refusal.HOST: "names a host that is not allowed by ALLOWED_MEDIA_DOMAINS of this model",
    Refusal.PORT: "names a port that is not allowed by ALLOWED_MEDIA_DOMAINS of this model",
    Refusal.ADDRESS: "names a host with an address that is not allowed by ALLOWED_MEDIA_NETWORKS of this model",
    Refusal.DOWNGRADE: "redirects from https to http, which is not allowed",
    Refusal.REDIRECTS: f"redirects more than {MAX_REDIRECTS} times",
}


@dataclass(frozen=True)
class Target:
    """A URL that may be fetched if its host's addresses may be dialled. ``host`` is in normal form."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def url(self) -> str:
        """The URL, escaped, without credentials and fragment."""
        port = "" if self.port == DEFAULT_PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{bracketed(self.host)}{port}{self.path}"


@dataclass(frozen=True)
class MediaPolicy:
    """What config.pbtxt allows. Both lists are empty by default: nothing is fetched."""

    domains: Sequence[HostPattern] = ()
    networks: Sequence[Network] = ()

    def check_url(self, text: str) -> Target | Refusal:
        """The target that ``text`` names, or the rule that it breaks."""
        target = _parse(text)
        if isinstance(target, Refusal):
            return target
        if not any(pattern.matches_host(target.host) for pattern in self.domains):
            return Refusal.HOST
        if not any(pattern.matches(target.scheme, target.host, target.port) for pattern in self.domains):
            return Refusal.PORT
        return target

    def check_redirect(self, origin: Target, location: str, hops: int) -> Target | Refusal:
        """The same for the Location header that ``origin`` answered with, the ``hops``-th redirect."""
        if hops > MAX_REDIRECTS:
            return Refusal.REDIRECTS
        if len(location) > _MAX_URL or _CONTROL.search(location):
            return Refusal.MALFORMED
        try:
            joined = urljoin(origin.url, location)
        except ValueError:
            return Refusal.MALFORMED
        target = self.check_url(joined)
        if isinstance(target, Target) and (origin.scheme, target.scheme) == ("https", "http"):
            return Refusal.DOWNGRADE
        return target

    def check_addresses(self, addresses: Sequence[str]) -> AddressRule | None:
        """The rule that the first bad address breaks. One bad address among good ones is enough."""
        for text in addresses:
            try:
                rule = refuse_address(ip_address(text), self.networks)
            except ValueError:
                rule = AddressRule.UNSPECIFIED
            if rule is not None:
                return rule
        return None


def literal_address(target: Target) -> str | None:
    """The address in the URL itself, which needs no look-up."""
    return target.host if parse_ip(target.host) else None


def loggable(text: str) -> str:
    """A URL that is not malformed, for a log: in ASCII, without credentials, query and fragment, and not too long."""
    scheme, separator, rest = re.split("[?#]", text.strip(), maxsplit=1)[0].partition("://")
    authority, slash, path = rest.partition("/")
    shown = f"{scheme}{separator}{authority.rpartition('@')[2]}{slash}{path}"
    return shown.encode("ascii", "backslashreplace").decode()[:_MAX_LOGGED]


def _parse(text: str) -> Target | Refusal:
    text = text.strip() if len(text) <= _MAX_URL else ""
    scheme, separator, rest = text.partition("#")[0].partition("://")
    scheme = scheme.lower()
    if not separator or not _SCHEME.fullmatch(scheme) or _CONTROL.search(text):
        return Refusal.MALFORMED
    if scheme not in DEFAULT_PORTS:
        return Refusal.SCHEME
    end = _AUTHORITY_END.search(rest)
    before, after = (rest[: end.start()], rest[end.start() :]) if end else (rest, "")
    if "@" in before:
        return Refusal.CREDENTIALS
    authority = _AUTHORITY.fullmatch(before)
    host = normalize_host(authority["host"]) if authority else None
    if authority is None or host is None:
        return Refusal.MALFORMED
    port = int(authority["port"] or DEFAULT_PORTS[scheme])
    if not 0 < port < 1 << 16:
        return Refusal.MALFORMED
    try:
        path = quote(after, safe=_KEPT)
    except UnicodeEncodeError:  # lone surrogates
        return Refusal.MALFORMED
    return Target(scheme, host, port, path if path.startswith("/") else f"/{path}")
