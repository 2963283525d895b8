"""Which addresses are outside: what any machine on the internet could be asked for as well.

Not by `ipaddress.is_global` alone. It is true of multicast, and of IPv6 addresses that hold an IPv4
one inside, and what it says of the rest differs between versions of Python.
"""

from __future__ import annotations

from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from collections.abc import Iterable


Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

INSIDE_V4 = tuple(
    IPv4Network(network)
    for network in (
        "0.0.0.0/8",  # this network; 0.0.0.0 is this machine
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # carrier-grade NAT
        "127.0.0.0/8",  # loopback
        "169.254.0.0/16",  # link-local; clouds' metadata services
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocol assignments
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",  # private
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved; broadcast
    )
)
"""Source: IANA IPv4 Special-Purpose Address Registry; RFC 5771 for multicast."""

GLOBAL_UNICAST = IPv6Network("2000::/3")
"""Of IPv6 nothing else is given out. Source: IANA IPv6 Address Space."""

INSIDE_V6 = tuple(
    IPv6Network(network)
    for network in (
        "2001::/23",  # protocol assignments: Teredo holds IPv4 addresses
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4: holds IPv4 addresses
        "3fff::/20",  # documentation
    )
)
"""What of it is not. Source: IANA IPv6 Special-Purpose Address Registry."""

NAT64 = IPv6Network("64:ff9b::/96")
"""IPv4 addresses as a translator takes them (RFC 6052): as good as the one inside."""


def is_outside(address: Address, allowed: Iterable[Network] = ()) -> bool:
    """Say whether an address may be connected to.

    Parameters
    ----------
    address
        What is connected to.
    allowed
        Networks that count as outside.
    """
    meant = _held_by(address)
    if any(meant in network for network in allowed):
        return True
    if not meant.is_global or meant.is_multicast:
        return False
    if isinstance(meant, IPv4Address):
        return not any(meant in network for network in INSIDE_V4)
    return meant in GLOBAL_UNICAST and not any(meant in network for network in INSIDE_V6)


def _held_by(address: Address) -> Address:
    """Give the IPv4 address that an IPv6 one stands for, if it stands for one."""
    if isinstance(address, IPv4Address):
        return address
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address in NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def parse_networks(text: str) -> tuple[Network, ...]:
    """Read networks, comma separated, such as `10.1.0.0/16,fd00::/8`.

    Raises
    ------
    ValueError
        One of them is none.
    """
    return tuple(ip_network(part.strip()) for part in text.split(",") if part.strip())


def parse_socket_address(address: tuple[object, ...]) -> Address:
    """Read the address that the system gives for a name; an IPv6 one may have a zone."""
    return ip_address(str(address[0]).partition("%")[0])
