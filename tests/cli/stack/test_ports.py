from __future__ import annotations

import socket

import pytest

from cli.stack.ports import ADDRESS, choose_ports, is_free, settle_ports
from shared.exceptions import StackError


def test_ports_are_different_ones() -> None:
    assert len(set(choose_ports(20))) == 20


def test_new_ones_first_and_the_same_again() -> None:
    names = ["api", "flower", "valkey"]
    first = settle_ports(names, given={}, kept={})
    assert first.keys() == set(names)
    assert len(set(first.values())) == 3
    assert all(map(is_free, first.values()))
    assert settle_ports([*names, "more"], given={}, kept=first).items() >= first.items()


def test_a_kept_port_that_is_taken_is_left_to_who_has_it() -> None:
    with socket.create_server((ADDRESS, 0)) as taken:
        port = taken.getsockname()[1]
        settled = settle_ports(["api"], given={}, kept={"api": port})
        assert settled["api"] != port
        with pytest.raises(StackError, match=f"port {port} is taken: give another --port"):
            settle_ports(["api"], given={"api": port}, kept={})


def test_a_given_port_comes_first() -> None:
    (port,) = choose_ports(1)
    settled = settle_ports(["flower", "api"], given={"api": port}, kept={"flower": port})
    assert settled["api"] == port
    assert settled["flower"] != port
