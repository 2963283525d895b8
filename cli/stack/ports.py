"""Free TCP ports that stay free until a server takes them."""

from __future__ import annotations

import random
import socket

from shared.exceptions import StackError


ADDRESS = "127.0.0.1"
"""The only address that anything of the stack listens on."""

FIRST, LAST = 20_000, 32_000
"""Where ports are looked for: below those that systems give to outgoing connections.

Otherwise one of our own connections could sit on a server's port in the moment in which that
server is started again. Linux gives from 32768 on (`net.ipv4.ip_local_port_range`), macOS from
49152 on.
"""


def choose_ports(count: int) -> list[int]:
    """Choose ports that nobody listens on now, each a different one.

    Raises
    ------
    StackError
        There are not so many.
    """
    candidates = random.sample(range(FIRST, LAST), LAST - FIRST)
    found: list[int] = []
    for port in candidates:
        if len(found) == count:
            return found
        if is_free(port):
            found.append(port)
    msg = f"no {count} free TCP ports between {FIRST} and {LAST} on {ADDRESS}"
    raise StackError(msg)


def is_free(port: int) -> bool:
    """Whether a server could listen on a port now."""
    with socket.socket() as probe:
        # As servers do: connections of a server that is gone must not keep the port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((ADDRESS, port))
        except OSError:
            return False
    return True
