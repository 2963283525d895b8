"""Simulated hosts for tests: real HTTP servers in background threads.

with simulated_host(vms=3, token="t") as host:
    host.change_vm(host.vm_ids[0], never_stops=True)
    ...                                    # let something talk to host.url
    assert host.log(method="StopVm")
"""

from __future__ import annotations

import ssl
import tempfile
import threading
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from uuid import uuid4

import httpx
import trustme

from workers.simulated_host.auth import Credentials
from workers.simulated_host.behaviour import HostBehaviour, VmSpec, generated_vms
from workers.simulated_host.host import Host
from workers.simulated_host.server import Endpoint, HostServer


if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

PATIENCE = 10.0
"""Seconds after which a wait for something that must happen is a failed test."""


@dataclass(frozen=True, kw_only=True)
class TlsFiles:
    """PEM files for TLS; the client's are for hosts that ask for them."""

    ca: Path
    server_cert: Path
    server_key: Path
    client_cert: Path
    client_key: Path

    def client_context(self, *, with_certificate: bool = True) -> ssl.SSLContext:
        """Make a client's context that trusts the authority."""
        context = ssl.create_default_context(cafile=self.ca)
        if with_certificate:
            context.load_cert_chain(self.client_cert, self.client_key)
        return context


@dataclass(kw_only=True)
class SimulatedHost:
    """A running simulated host. `vm_ids` grows with `add_vm`."""

    url: str
    vm_ids: list[str]
    tls: TlsFiles | None
    server: HostServer
    _thread: threading.Thread
    _client: httpx.Client = field(init=False)

    def __post_init__(self) -> None:
        self._client = self.client()

    def client(self, *, timeout: float = PATIENCE) -> httpx.Client:
        """Make a client whose requests need the path only. The caller closes it."""
        unix = self.url.removeprefix("unix:") if self.url.startswith("unix:") else None
        context = False if self.tls is None else self.tls.client_context()
        return httpx.Client(
            base_url="http://localhost" if unix else self.url,
            transport=httpx.HTTPTransport(uds=unix, verify=context),
            timeout=timeout,
        )

    def rpc(self, method: str, *, timeout: float = PATIENCE, **arguments: Any) -> httpx.Response:
        """POST a pRPC call as clients of dstack-vmm do."""
        return self._client.post(f"/prpc/{method}?json", json=arguments, timeout=timeout)

    def control(self, http_method: str, path: str, body: Any = None) -> Any:
        """Call the control endpoint (`path` without `/simulator/`); fails unless it is 2xx."""
        answer = self._client.request(http_method, f"/simulator/{path}", json=body)
        assert answer.is_success, answer.text
        return answer.json()

    def state(self) -> dict[str, Any]:
        """Give behaviour, VMs and counters."""
        state: dict[str, Any] = self.control("GET", "state")
        return state

    def vm(self, vm_id: str) -> dict[str, Any] | None:
        """Give one VM's part of the state; null when it is gone."""
        return next((vm for vm in self.state()["vms"] if vm["id"] == vm_id), None)

    def status(self, vm_id: str) -> str | None:
        """Give one VM's status, without the VM noticing; null when it is gone."""
        vm = self.vm(vm_id)
        return None if vm is None else vm["status"]

    def log(self, *, method: str | None = None, vm_id: str | None = None) -> list[dict[str, Any]]:
        """Give the pRPC requests so far, in order; of one method or VM if asked."""
        return [
            entry
            for entry in self.control("GET", "log")
            if method in {None, entry["method"]} and vm_id in {None, entry["vm_id"]}
        ]

    def change(self, **behaviour: Any) -> None:
        """Change the host's behaviour (`HostBehaviour`)."""
        self.control("PATCH", "host", behaviour)

    def change_vm(self, vm_id: str, *, status: str | None = None, **behaviour: Any) -> None:
        """Change a VM's behaviour (`VmBehaviour`), and put it into `status` if asked."""
        body = {"behaviour": behaviour} | ({} if status is None else {"status": status})
        self.control("PATCH", f"vms/{vm_id}", body)

    def add_vm(
        self,
        vm_id: str | None = None,
        *,
        name: str = "",
        status: str = "running",
        launched: bool = True,
        **behaviour: Any,
    ) -> str:
        """Add a VM, with a new id unless one is given. Returns the id."""
        vm_id = vm_id or str(uuid4())
        fields = {"name": name, "status": status, "launched": launched, "behaviour": behaviour}
        self.control("POST", "vms", {"id": vm_id, **fields})
        self.vm_ids.append(vm_id)
        return vm_id

    def reset_log(self) -> None:
        """Forget the requests so far, and the highest number of StopVm at once."""
        self.control("POST", "reset-log")

    def wait_for(self, condition: Callable[[], object]) -> None:
        """Wait until a condition holds; fails when it does not in time."""
        end = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < end, "what was waited for did not happen"
            time.sleep(0.005)

    def wait_for_status(self, vm_id: str, status: str | None) -> None:
        """Wait until a VM is in a state; null for gone."""
        self.wait_for(lambda: self.status(vm_id) == status)

    def stop(self) -> None:
        """End the server: connections are refused from now on."""
        self._client.close()
        self.server.should_exit = True
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive(), "the simulated host does not end"


@contextmanager
def simulated_host(
    *,
    vms: int | Sequence[VmSpec] = 3,
    vm_prefix: str = "vm",
    token: str | None = None,
    user: str | None = None,
    password: str | None = None,
    auth: bool = False,
    unix: bool = False,
    tls: Literal["none", "server", "mutual"] = "none",
    port: int = 0,
    seed: int = 0,
    log_file: Path | None = None,
    stop_seconds: float = 0.05,
    **behaviour: Any,
) -> Iterator[SimulatedHost]:
    """Run a simulated host.

    Parameters
    ----------
    vms, vm_prefix
        How many running VMs to begin with and what their names begin with, or their specs.
    token, user, password, auth
        Credentials that it asks for; `auth` alone denies everything.
    unix
        Listen on a Unix socket in a new directory.
    tls
        `mutual` asks clients for a certificate. The files are in the handle's `tls`.
    port
        0 for a free one; another to come back where a stopped host was.
    seed, log_file
        As in `Host`.
    stop_seconds, behaviour
        Fields of `HostBehaviour`.
    """
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sim-")))
        specs = generated_vms(vm_prefix, vms) if isinstance(vms, int) else list(vms)
        host = Host(
            behaviour=HostBehaviour(stop_seconds=stop_seconds, **behaviour),
            credentials=Credentials(
                enabled=auth or token is not None or user is not None,
                tokens=() if token is None else (token,),
                users=() if user is None or password is None else ((user, password),),
            ),
            vms=specs,
            seed=seed,
            log_file=None if log_file is None else stack.enter_context(log_file.open("a")),
        )
        files = None if tls == "none" else make_tls_files(directory)
        endpoint = Endpoint(
            port=port,
            unix=directory / "vmm.sock" if unix else None,
            tls_cert=files.server_cert if files else None,
            tls_key=files.server_key if files else None,
            tls_client_ca=files.ca if files and tls == "mutual" else None,
        )
        ready = threading.Event()
        server = HostServer(host, endpoint, ready.set)
        thread = threading.Thread(target=server.serve_until_told, daemon=True)
        thread.start()
        assert ready.wait(PATIENCE), "the simulated host does not listen"
        handle = SimulatedHost(
            url=server.url,
            vm_ids=[spec.id for spec in specs],
            tls=files,
            server=server,
            _thread=thread,
        )
        stack.callback(handle.stop)
        yield handle


def make_tls_files(directory: Path) -> TlsFiles:
    """Make an authority, a server's certificate for the loopback address, and a client's."""
    authority = trustme.CA()
    files = TlsFiles(
        ca=directory / "ca.pem",
        server_cert=directory / "server.pem",
        server_key=directory / "server.key",
        client_cert=directory / "client.pem",
        client_key=directory / "client.key",
    )
    authority.cert_pem.write_to_path(files.ca)
    for issued, cert, key in (
        (authority.issue_cert("127.0.0.1", "localhost"), files.server_cert, files.server_key),
        (authority.issue_cert("worker@example.org"), files.client_cert, files.client_key),
    ):
        issued.private_key_pem.write_to_path(key)
        for blob in issued.cert_chain_pems:
            blob.write_to_path(cert, append=True)
    return files
