"""TCP ports for servers of tests, and for addresses at which nobody is."""

from __future__ import annotations

from cli.stack.ports import choose_ports


def free_port() -> int:
    """Find a TCP port of 127.0.0.1 that nobody listens on now, and that no connection is given."""
    (port,) = choose_ports(1)
    return port
