"""Real QEMU machines, stopped by a real POST through API, broker and worker."""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import libvirt

from tests.support.waiting import eventually


if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.support.libvirt_host import LibvirtHost
    from tests.system.libvirt.yard import Yard

OF_BATCH = "SELECT stop_tasks.state, error_code, error_message FROM stop_tasks WHERE batch_id = %s"


def states(tasks: Sequence[dict[str, Any]]) -> Counter[str]:
    return Counter(task["state"] for task in tasks)


def test_twenty_four_machines_are_gone(yard: Yard, hosts: tuple[LibvirtHost, ...]) -> None:
    host = hosts[0]
    machines = host.start_machines(20)
    machines += host.start_machines(2, paused=False)
    machines += host.start_machines(1, extra="<on_crash>restart</on_crash>")
    off = host.start_machines(1)
    host.domain(off[0]).destroy()
    assert len(host.qemu_processes(machines)) == 23
    batch, answer = yard.stack.batch_stop(yard.add_cvms("one", [*machines, *off]))
    assert answer["stopped"] == 24
    tasks = yard.stack.wait_until_ended(batch)
    assert states(tasks) == {"succeeded": 24}
    assert not host.qemu_processes([*machines, *off])
    assert not host.running() & {*machines, *off}


def test_a_stopped_daemon_holds_only_its_own(
    yard: Yard, hosts: tuple[LibvirtHost, LibvirtHost]
) -> None:
    good, hung = hosts
    well = yard.add_cvms("one", good.start_machines(50))
    ill_machines = hung.start_machines(50)
    ill = yard.add_cvms("two", ill_machines)
    hung.signal_libvirtd(signal.SIGSTOP)
    try:
        slow, answer = yard.stack.batch_stop(ill)
        assert answer["stopped"] == 50
        quick, _ = yard.stack.batch_stop(well)
        assert states(yard.stack.wait_until_ended(quick)) == {"succeeded": 50}
        assert len(hung.qemu_processes(ill_machines)) == 50
        found = "SELECT last_error FROM vm_hosts WHERE name = 'two'"
        eventually(lambda: yard.stack.rows(found)[0][0], timeout=60)
        assert any(
            words in yard.stack.rows(found)[0][0]
            for words in ("no connection within", "no answer within", "says nothing")
        )
        # Whoever hangs holds no slot: few turns are under way, and they end.
        running = "SELECT count(*) FROM stop_attempts WHERE outcome = 'running'"
        eventually(lambda: yard.stack.rows(running)[0][0] <= 8)
    finally:
        hung.signal_libvirtd(signal.SIGCONT)
    assert states(yard.stack.wait_until_ended(slow)) == {"succeeded": 50}
    assert not hung.qemu_processes(ill_machines)


def test_a_machine_whose_process_died(yard: Yard, hosts: tuple[LibvirtHost, ...]) -> None:
    """QEMU's driver restarts after a guest's panic, not after its process's end."""
    host = hosts[0]
    (machine,) = host.start_machines(1, extra="<on_crash>restart</on_crash>")
    (pid,) = host.qemu_processes([machine])
    os.kill(pid, signal.SIGKILL)
    batch, _ = yard.stack.batch_stop(yard.add_cvms("one", [machine]))
    assert states(yard.stack.wait_until_ended(batch)) == {"succeeded": 1}
    assert not host.qemu_processes([machine])


def test_a_daemon_killed_in_the_middle(yard: Yard, hosts: tuple[LibvirtHost, ...]) -> None:
    host = hosts[0]
    machines = host.start_machines(24)
    batch, _ = yard.stack.batch_stop(yard.add_cvms("one", machines))
    eventually(lambda: len(host.qemu_processes(machines)) < 20)
    host.kill_libvirtd()
    assert host.qemu_processes(machines)
    host.start_libvirtd()
    assert states(yard.stack.wait_until_ended(batch)) == {"succeeded": 24}
    assert not host.qemu_processes(machines)
    assert not host.running() & set(machines)


def test_domains_that_vanish(yard: Yard, hosts: tuple[LibvirtHost, ...]) -> None:
    """Undefined meanwhile: a running domain becomes transient, and is gone when it ends."""
    host = hosts[0]
    machines = host.start_machines(12)
    cvms = yard.add_cvms("one", machines)
    connection = host.connect()
    domains = [connection.lookupByUUIDString(uuid) for uuid in machines]
    batch, _ = yard.stack.batch_stop(cvms)
    for domain in domains:
        with suppress(libvirt.libvirtError):
            domain.undefine()
    assert states(yard.stack.wait_until_ended(batch)) == {"succeeded": 12}
    assert not host.qemu_processes(machines)
    known = {domain.UUIDString() for domain in host.connect().listAllDomains()}
    assert not known & set(machines)


def test_started_again_behind_our_back(yard: Yard, hosts: tuple[LibvirtHost, ...]) -> None:
    host = hosts[0]
    (machine,) = host.start_machines(1)
    domain = host.domain(machine)
    restarted = threading.Event()

    def start_again() -> None:
        eventually(lambda: not domain.isActive())
        domain.createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED)
        restarted.set()

    other = threading.Thread(target=start_again)
    other.start()
    batch, _ = yard.stack.batch_stop(yard.add_cvms("one", [machine]))
    (task,) = yard.stack.wait_until_ended(batch)
    other.join()
    assert restarted.is_set()
    assert task["state"] == "succeeded"
    # It was noticed and killed once more, not reported while it ran.
    assert not host.qemu_processes([machine])
    destroys = (
        "SELECT count(*) FROM stop_attempts WHERE stop_task_id = %s"
        " AND exchanges::text LIKE '%%virDomainDestroy%%'"
    )
    assert yard.stack.rows(destroys, task["id"])[0][0] == 2
