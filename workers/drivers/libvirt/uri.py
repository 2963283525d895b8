"""The address of a libvirt host: a libvirt URI that says nothing secret and starts no program.

Source: libvirt `docs/uri.rst`, `driver[+transport]://[user@][host][:port]/[path][?parameters]`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self
from urllib.parse import parse_qsl, urlsplit


HYPERVISORS = frozenset(
    {
        "bhyve",
        "ch",
        "esx",
        "gsx",
        "hyperv",
        "lxc",
        "openvz",
        "qemu",
        "test",
        "vbox",
        "vpx",
        "vz",
        "xen",
    }
)
"""What URIs of libvirt's begin with (`docs/drivers.rst`)."""

SCHEME = re.compile(r"[a-z][a-z0-9]*(\+[a-z0-9]+)?")
"""A hypervisor's driver, and how to reach it."""

TRANSPORTS = {"", "unix", "tcp", "tls", "ssh", "libssh", "libssh2"}
"""What libvirt knows, without `ext`, which starts whatever program the URI names."""

RUNS_PROGRAM = {"command", "netcat"}
"""Parameters that name a program to start, here or on the host."""

UNVERIFIED = {"no_verify", "known_hosts_verify"}
"""Parameters that turn off the check of who answers. libvirt takes many values for it."""

TAKEN = {
    "keyfile",
    "known_hosts",
    "mode",
    "no_tty",
    "pkipath",
    "proxy",
    "socket",
    "sshauth",
    "vcenter",
}
"""Parameters that may be given. Others do what no address is for; `authfile` reads a file."""

SECRET_IN_VALUE = re.compile(r"://[^/@]*:[^/@]*@")
"""A URL with a password, as a proxy's may be."""

WANTED = "give a libvirt URI such as qemu:///system or qemu+tls://host/system"


@dataclass(frozen=True, kw_only=True)
class LibvirtUri:
    """Where a libvirt daemon is."""

    text: str
    """As it was given; for messages."""
    opened: str
    """As it is opened: ssh must not ask anybody at a terminal."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a URI. Nothing is connected to.

        Raises
        ------
        ValueError
            Says what is wrong and what is wanted. Does not repeat the URI, which may hold a
            password where none belongs.
        """
        if not text.isascii() or not text.isprintable() or " " in text:
            msg = "the address has spaces or characters outside of ASCII; " + WANTED
            raise ValueError(msg)
        scheme, found, _ = text.partition("://")
        if not found or SCHEME.fullmatch(scheme) is None or scheme.startswith("http"):
            msg = "the address is no libvirt URI; " + WANTED
            raise ValueError(msg)
        transport = scheme.partition("+")[2]
        if transport not in TRANSPORTS:
            known = ", ".join(sorted(TRANSPORTS - {""}))
            msg = f"the address has a transport that is not taken; there is: {known}"
            raise ValueError(msg)
        try:
            parts = urlsplit(text)
            _ = parts.port
        except ValueError:
            msg = "the address has a host or port that cannot be read; " + WANTED
            raise ValueError(msg) from None
        if transport not in {"", "unix"} and not parts.hostname:
            msg = f"the address names no host for the transport {transport}; " + WANTED
            raise ValueError(msg)
        if parts.password is not None:
            msg = "the address holds a password; give it as the host's user name and password"
            raise ValueError(msg)
        if parts.fragment:
            msg = "the address has a fragment; " + WANTED
            raise ValueError(msg)
        _check_parameters(parts.query)
        needs_no_tty = transport == "ssh" and "no_tty=" not in parts.query
        joint = "&" if parts.query else "?"
        return cls(text=text, opened=f"{text}{joint}no_tty=1" if needs_no_tty else text)


def _check_parameters(query: str) -> None:
    """Look at a query as libvirt reads it: `;` parts it too, and names may be in capitals."""
    for name, value in parse_qsl(query.replace(";", "&"), keep_blank_values=True):
        if name.lower() in RUNS_PROGRAM:
            msg = f"the address's parameter {name[:40]!r} starts a program; leave it out"
            raise ValueError(msg)
        if name.lower() in UNVERIFIED:
            msg = f"the address's parameter {name[:40]!r} turns verification off; leave it out"
            raise ValueError(msg)
        if "pass" in name.lower() or SECRET_IN_VALUE.search(value):
            msg = f"the address's parameter {name[:40]!r} holds a secret; it belongs into no URI"
            raise ValueError(msg)
        if name not in TAKEN:
            known = ", ".join(sorted(TAKEN))
            msg = f"the address's parameter {name[:40]!r} is not taken; there is: {known}"
            raise ValueError(msg)
    if ";" in query:
        msg = "the address's parameters are parted by ';'; part them by '&'"
        raise ValueError(msg)
