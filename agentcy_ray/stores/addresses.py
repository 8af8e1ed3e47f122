"""Which IP addresses lie on the public Internet, and which only pretend to.

Pure functions: nothing is resolved and nothing is connected here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import (
    AddressValueError,
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

METADATA = frozenset(
    ip_address(text)
    for text in (
        "169.254.169.254", "169.254.169.253", "169.254.169.123",  # AWS, GCP, Azure, many others
        "169.254.170.2", "169.254.170.23",  # roles of ECS tasks and of EKS pods
        "fd00:ec2::254", "fd00:ec2::253", "fd00:ec2::123", "fd00:ec2::23",
        "fd20:ce::254",  # GCP
        "100.100.100.200",  # Alibaba
        "168.63.129.16",  # Azure, among public addresses
        "192.0.0.192",  # Oracle
    )
)  # fmt: skip
"""Addresses where a cloud hands out the machine's own credentials."""

METADATA_NAMES = frozenset({
    "metadata", "metadata.google.internal", "metadata.goog", "instance-data",
    "instance-data.ec2.internal", "metadata.azure.internal", "metadata.packet.net",
    "metadata.tencentyun.com", "metadata.oraclecloud.com", "kubernetes.default.svc",
})  # fmt: skip
"""Names of the same places, for when a proxy resolves."""

RANGES: dict[str, str] = {
    "0.0.0.0/8": "unspecified",
    "10.0.0.0/8": "private",
    "100.64.0.0/10": "carrier-grade NAT",
    "127.0.0.0/8": "loopback",
    "169.254.0.0/16": "link-local",
    "172.16.0.0/12": "private",
    "192.0.0.0/24": "reserved",
    "192.0.2.0/24": "reserved",
    "192.31.196.0/24": "reserved",
    "192.52.193.0/24": "reserved",
    "192.88.99.0/24": "reserved",
    "192.168.0.0/16": "private",
    "192.175.48.0/24": "reserved",
    "198.18.0.0/15": "reserved",
    "198.51.100.0/24": "reserved",
    "203.0.113.0/24": "reserved",
    "224.0.0.0/4": "multicast",
    "240.0.0.0/4": "reserved",
    "::/128": "unspecified",
    "::1/128": "loopback",
    "fc00::/7": "private",
    "fe80::/10": "link-local",
    "fec0::/10": "private",
    "ff00::/8": "multicast",
    "100::/64": "reserved",
    "2001::/23": "reserved",  # Teredo, ORCHID, benchmarking
    "2001:db8::/32": "reserved",
    "2002::/16": "reserved",  # 6to4
    "2620:4f:8000::/48": "reserved",
    "3fff::/20": "reserved",
}
"""Networks that are not on the public Internet, each with what it is."""
_NETWORKS = tuple((ip_network(text), why) for text, why in RANGES.items())
_GLOBAL_V6 = IPv6Network("2000::/3")
_NAT64 = IPv6Network("64:ff9b::/96")
_ISATAP = frozenset({0x00005EFE, 0x02005EFE})
OWN_NETWORK = frozenset({"loopback", "private", "carrier-grade NAT"})
"""Kinds of address that an operator's own network has."""

_NUMERIC_LAST = re.compile(r"(?:\d+|0[xX][0-9a-fA-F]*)")
_CANONICAL_V4 = re.compile(
    r"(?:(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)\.){3}(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
)


def unwrap(address: Address) -> Address:
    """The IPv4 address that a mapped or a NAT64 address stands for, else ``address`` itself."""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address in _NAT64:
            return IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def kind_of(address: Address) -> str | None:
    """Why an address isn't on the public Internet, in a word or two; None when it is.

    ``metadata`` goes before every other kind. An IPv6 address that carries an IPv4 one is judged by
    that one where such addresses are really routed (mapped, NAT64), else it is ``reserved``.
    """
    if isinstance(address, IPv6Address) and address.scope_id is not None:
        return "link-local"
    address = unwrap(address)
    if address in METADATA:
        return "metadata"
    for network, why in _NETWORKS:
        if address.version == network.version and address in network:
            return why
    if isinstance(address, IPv6Address):
        if address not in _GLOBAL_V6:
            return "reserved"
        if (int(address) >> 32) & 0xFFFFFFFF in _ISATAP:
            return "reserved"
    return None


def within(address: Address, networks: Iterable[Network]) -> bool:
    """Whether an address, or the IPv4 one that it stands for, lies in one of ``networks``."""
    plain = unwrap(address)
    return any(
        one in network
        for network in networks
        for one in {address, plain}
        if one.version == network.version
    )


def names_exactly(address: Address, networks: Iterable[Network]) -> bool:
    """Whether one of ``networks`` is this one address and nothing else."""
    plain = unwrap(address)
    return any(n.num_addresses == 1 and n.network_address in (address, plain) for n in networks)


def parse_literal(host: str) -> Address | None:
    """The address that ``host`` is, None when it is a name.

    Raises:
        ValueError: it is a number that a resolver might read as an address (octal, hexadecimal,
            decimal or short IPv4, a zone id, a malformed address); nobody writes those but to hide.
    """
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if ":" in bare:
        if "%" in bare:
            raise ValueError("an address with a zone id")
        try:
            return IPv6Address(bare)
        except AddressValueError as error:
            raise ValueError("a malformed IPv6 address") from error
    bare = bare.removesuffix(".")
    if _CANONICAL_V4.fullmatch(bare):
        return IPv4Address(bare)
    if _NUMERIC_LAST.fullmatch(bare.rpartition(".")[2]):
        raise ValueError("a number that stands for an address; write it as four decimal numbers")
    return None
