"""A libvirt daemon of our own, with real QEMU machines: several can run side by side.

Started by root, a daemon takes the machine's own directories, so that it runs as nobody here: then
its directories are under `XDG_RUNTIME_DIR` and `HOME`, and its hypervisor is `qemu:///session`.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from uuid import uuid4

import libvirt
import psutil

from tests.support.waiting import eventually


if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

DOMAIN = """
<domain type='qemu'>
  <name>{name}</name>
  <uuid>{uuid}</uuid>
  <memory unit='MiB'>32</memory>
  <vcpu>1</vcpu>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  {extra}
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <controller type='usb' model='none'/>
    <memballoon model='none'/>
  </devices>
</domain>
"""
"""A machine that has nothing to boot from. `type='qemu'` emulates, and needs no KVM."""

PATH = "/usr/sbin:/usr/bin:/sbin:/bin"

PATIENCE = 30.0
"""Seconds that a daemon gets to end."""


class LibvirtHost:
    """One host: libvirtd, virtlogd and what they run."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.socket = root / "run" / "libvirt" / "libvirt-sock"
        self.uri = f"qemu:///session?socket={self.socket}"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._user = pwd.getpwnam("nobody") if os.getuid() == 0 else pwd.getpwuid(os.getuid())
        (root / "run" / "libvirt").mkdir(parents=True)
        (root / "home").mkdir()
        self._configuration = root / "libvirtd.conf"
        self._configuration.write_text('auth_unix_rw = "none"\nlog_outputs = "3:stderr"\n')
        for path in (root, *root.rglob("*")):
            os.chown(path, self._user.pw_uid, self._user.pw_gid)

    def start(self) -> Self:
        """Start both daemons, and wait until libvirtd answers."""
        self._run("virtlogd")
        self.start_libvirtd()
        return self

    def start_libvirtd(self) -> None:
        """Start libvirtd, again if it was killed."""
        self._run("libvirtd", "-f", str(self._configuration))
        eventually(self._answers)

    def signal_libvirtd(self, number: int) -> None:
        """Send libvirtd a signal."""
        self._processes["libvirtd"].send_signal(number)

    def kill_libvirtd(self) -> None:
        """Kill libvirtd; its machines go on."""
        self._processes["libvirtd"].kill()
        self._processes["libvirtd"].wait(PATIENCE)

    def connect(self) -> Any:
        """Give a connection of the test's own."""
        return libvirt.open(self.uri)

    def start_machines(self, count: int, *, extra: str = "", paused: bool = True) -> list[str]:
        """Define machines and start them; give their UUIDs.

        Parameters
        ----------
        extra
            Further elements of the domain's XML.
        paused
            Paused ones cost no CPU: emulation of an idle one takes some per cent of a core.
        """
        connection = self.connect()
        flags = libvirt.VIR_DOMAIN_START_PAUSED if paused else 0

        def start(uuid: str) -> str:
            xml = DOMAIN.format(name=f"m-{uuid[:8]}", uuid=uuid, extra=extra)
            connection.defineXML(xml).createWithFlags(flags)
            return uuid

        with ThreadPoolExecutor(4) as pool:
            return list(pool.map(start, [str(uuid4()) for _ in range(count)]))

    def start_again(self, uuids: Sequence[str]) -> None:
        """Start machines that are off, paused."""
        connection = self.connect()
        flags = libvirt.VIR_DOMAIN_START_PAUSED

        def start(uuid: str) -> None:
            connection.lookupByUUIDString(uuid).createWithFlags(flags)

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(start, uuids))

    def domain(self, uuid: str) -> Any:
        """Give a domain, by a connection of the test's own."""
        return self.connect().lookupByUUIDString(uuid)

    def running(self) -> set[str]:
        """Give the UUIDs of the machines that run, by libvirt."""
        found = self.connect().listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE)
        return {domain.UUIDString() for domain in found}

    def qemu_processes(self, uuids: Sequence[str] | None = None) -> set[int]:
        """Give the QEMU processes of this host (of some machines), by the process table."""
        found = set()
        for process in psutil.process_iter(["cmdline"]):
            line = " ".join(process.info["cmdline"] or ())
            if not line.startswith("/usr/bin/qemu-system") or str(self.root) not in line:
                continue
            if uuids is None or any(uuid in line for uuid in uuids):
                found.add(process.pid)
        return found

    def end(self) -> None:
        """End everything that was started, machines too."""
        for name in ("libvirtd", "virtlogd"):
            process = self._processes.get(name)
            if process is not None and process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
                process.wait(PATIENCE)
        for pid in self.qemu_processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _run(self, name: str, *arguments: str) -> None:
        others = os.getuid() == 0
        with (self.root / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                [name, *arguments],
                cwd="/",
                env={
                    "HOME": str(self.root / "home"),
                    "XDG_RUNTIME_DIR": str(self.root / "run"),
                    "PATH": PATH,
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                user=self._user.pw_uid if others else None,
                group=self._user.pw_gid if others else None,
                extra_groups=[] if others else None,
            )

    def _answers(self) -> bool:
        try:
            return bool(self.connect().getVersion())
        except libvirt.libvirtError:
            process = self._processes["libvirtd"]
            assert process.poll() is None, (self.root / "libvirtd.log").read_text()
            return False


@contextmanager
def libvirt_host() -> Iterator[LibvirtHost]:
    """Run a host until the block ends. Its path is short: it holds Unix sockets."""
    libvirt.registerErrorHandler(lambda _context, _error: None, None)
    root = Path(tempfile.mkdtemp(prefix="lv-"))
    root.chmod(0o755)
    host = LibvirtHost(root)
    try:
        yield host.start()
    finally:
        host.end()
        shutil.rmtree(root, ignore_errors=True)
