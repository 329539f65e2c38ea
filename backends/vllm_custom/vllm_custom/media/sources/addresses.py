"""Which IP addresses may be dialled. Pure; the tables are IANA's special-purpose registries (RFC 6890 and after).

Python's ``is_global`` is not asked: what it says has changed between patch releases.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import Enum
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from vllm_custom.contract.hosts import Address, Network


class AddressRule(Enum):
    """Why an address is refused."""

    PRIVATE = "private"
    LINK_LOCAL = "link_local"
    METADATA = "metadata"
    MULTICAST = "multicast"
    UNSPECIFIED = "unspecified"


# The clouds' metadata services: credentials for every client that can reach them, so no list of networks opens them.
_METADATA = frozenset(
    ip_address(text)
    for text in (
        "169.254.169.254",  # AWS, Azure, Google and most others
        "169.254.170.2",  # AWS ECS, credentials of a task
        "169.254.170.23",  # AWS EKS, credentials of a pod
        "168.63.129.16",  # Azure's host agent; a public address by its number
        "169.254.42.42",  # Scaleway
        "169.254.0.23",  # Tencent
        "169.254.10.10",  # Tencent
        "169.254.169.252",  # Google Kubernetes Engine, credentials of a pod
        "100.96.0.96",  # Volcengine
        "100.100.100.200",  # Alibaba
        "192.0.0.192",  # Oracle
        "fd00:ec2::254",  # AWS over IPv6
        "fd00:ec2::23",  # AWS EKS over IPv6
        "fd20:ce::254",  # Google over IPv6
        "fd00:42::42",  # Scaleway over IPv6
        "fd00:c1::a9fe:a9fe",  # Oracle over IPv6
        "fe80::a9fe:a9fe",  # OpenStack over IPv6
    )
)

# Opened only by a listed network that lies inside: 0.0.0.0/0 is not meant to say "link-local too".
_NARROW: tuple[tuple[Network, AddressRule], ...] = (
    (ip_network("169.254.0.0/16"), AddressRule.LINK_LOCAL),  # RFC 3927
    (ip_network("fe80::/10"), AddressRule.LINK_LOCAL),  # RFC 4291, section 2.5.6
    (ip_network("224.0.0.0/4"), AddressRule.MULTICAST),  # RFC 1112
    (ip_network("ff00::/8"), AddressRule.MULTICAST),  # RFC 4291, section 2.7
    (ip_network("0.0.0.0/8"), AddressRule.UNSPECIFIED),  # RFC 1122, section 3.2.1.3: this host
    (ip_network("::/128"), AddressRule.UNSPECIFIED),  # RFC 4291, section 2.5.2
)

_NOT_GLOBAL_IPV4 = tuple(
    ip_network(text)
    for text in (
        "0.0.0.0/8",  # RFC 791
        "10.0.0.0/8",  # RFC 1918
        "100.64.0.0/10",  # RFC 6598, carriers' NAT
        "127.0.0.0/8",  # RFC 1122, loopback
        "169.254.0.0/16",  # RFC 3927
        "172.16.0.0/12",  # RFC 1918
        "192.0.0.0/24",  # RFC 6890
        "192.0.2.0/24",  # RFC 5737, documentation
        "192.88.99.0/24",  # RFC 7526, 6to4 relays, withdrawn
        "192.168.0.0/16",  # RFC 1918
        "198.18.0.0/15",  # RFC 2544, benchmarks
        "198.51.100.0/24",  # RFC 5737
        "203.0.113.0/24",  # RFC 5737
        "224.0.0.0/3",  # RFC 1112, multicast, reserved and broadcast
    )
)
_GLOBAL_IPV6 = ip_network("2000::/3")  # RFC 4291, section 2.4: all that has been given out
_NOT_GLOBAL_IPV6 = tuple(
    ip_network(text)
    for text in (
        "2001::/23",  # RFC 2928, protocol assignments; Teredo is in it
        "2001:db8::/32",  # RFC 3849, documentation
        "3fff::/20",  # RFC 9637, documentation
    )
)
_MAPPED = ip_network("::ffff:0:0/96")  # RFC 4291, section 2.5.5.2
_COMPATIBLE = ip_network("::/96")  # RFC 4291, section 2.5.5.1
_TRANSLATED = ip_network("::ffff:0:0:0/96")  # RFC 2765, SIIT
_NAT64 = ip_network("64:ff9b::/96")  # RFC 6052
_ISATAP = (0x00005EFE, 0x02005EFE)  # RFC 5214, section 6.1: bits 64 to 95


def refuse_address(address: Address, allowed: Sequence[Network]) -> AddressRule | None:
    """Why ``address`` may not be dialled; None if it may: it is global, or in one of the ``allowed`` networks.

    An IPv6 address that carries an IPv4 address is judged by that one too.
    """
    for form in _forms(address):
        rule = _refuse(form, allowed)
        if rule is not None:
            return rule
    return None


def _refuse(address: Address, allowed: Sequence[Network]) -> AddressRule | None:
    if address in _METADATA:
        return AddressRule.METADATA
    holding = [network for network in allowed if address in network]
    for narrow, rule in _NARROW:
        if address in narrow:
            return None if any(_inside(network, narrow) for network in holding) else rule
    return None if holding or _is_global(address) else AddressRule.PRIVATE


def _inside(network: Network, outer: Network) -> bool:
    return network.network_address in outer and network.prefixlen >= outer.prefixlen


def _is_global(address: Address) -> bool:
    if isinstance(address, IPv4Address):
        return not _in_any(address, _NOT_GLOBAL_IPV4)
    return address in _GLOBAL_IPV6 and not _in_any(address, _NOT_GLOBAL_IPV6)


def _in_any(address: Address, networks: Iterable[Network]) -> bool:
    return any(address in network for network in networks)


def _forms(address: Address) -> list[Address]:
    """All addresses that a packet to ``address`` may end at."""
    if isinstance(address, IPv4Address):
        return [address]
    if address.scope_id is not None:
        address = IPv6Address(int(address))
    value = int(address)
    last = IPv4Address(value & 0xFFFFFFFF)
    if address in _MAPPED or address in _NAT64:
        return [last]
    if address in _TRANSLATED or (address in _COMPATIBLE and value > 1):
        return [address, last]
    if address.sixtofour is not None:  # RFC 3056
        return [address, address.sixtofour]
    if address.teredo is not None:  # RFC 4380
        return [address, *address.teredo]
    return [address, last] if value >> 32 & 0xFFFFFFFF in _ISATAP else [address]
