"""Free TCP ports that stay free until a server takes them."""

from __future__ import annotations

import random
import socket
from typing import TYPE_CHECKING

from shared.exceptions import StackError


if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

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
    # Not by the seeded generator: two processes with one seed would choose the same.
    candidates = random.SystemRandom().sample(range(FIRST, LAST), LAST - FIRST)
    found: list[int] = []
    for port in candidates:
        if len(found) == count:
            return found
        if is_free(port):
            found.append(port)
    msg = f"no {count} free TCP ports between {FIRST} and {LAST} on {ADDRESS}"
    raise StackError(msg)


def settle_ports(
    names: Sequence[str], *, given: Mapping[str, int], kept: Mapping[str, int]
) -> dict[str, int]:
    """Settle which process listens on which port.

    Parameters
    ----------
    names
        Of the processes.
    given
        Ports that are wanted, by name.
    kept
        Ports of another time, which are taken again as far as they are free.

    Raises
    ------
    StackError
        A given port is taken, or there are not so many.
    """
    for port in given.values():
        if not is_free(port):
            msg = f"port {port} is taken: give another --port, or none for a free one"
            raise StackError(msg)
    settled = dict(given)
    for name in names:
        before = kept.get(name)
        if name not in settled and before and before not in settled.values() and is_free(before):
            settled[name] = before
    # As many as there are names, since some of them may be settled already.
    new = [port for port in choose_ports(len(names)) if port not in settled.values()]
    return settled | dict(zip([name for name in names if name not in settled], new, strict=False))


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
