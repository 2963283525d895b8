"""`cvmstop simulate-host`: a simulated dstack-vmm, for demos, tests and benchmarks."""

from __future__ import annotations

import errno
import logging
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer


if TYPE_CHECKING:
    from workers.simulated_host.behaviour import VmSpec

TRANSIENT_TEXT = "simulated transient failure"
"""Text of the 400 that `--error-rate` brings about."""


def simulate_host(  # noqa: PLR0913 - one parameter for each option of the command
    *,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 for a free port.")] = 0,
    unix: Annotated[
        Path | None, typer.Option(help="Listen on this Unix socket instead of a port.")
    ] = None,
    vms: Annotated[int, typer.Option(min=0, help="How many running VMs to begin with.")] = 3,
    vm_prefix: Annotated[
        str, typer.Option(help="Names of these VMs begin with it; their ids follow from the names.")
    ] = "vm",
    vms_file: Annotated[
        Path | None,
        typer.Option(
            help="VMs to begin with instead: a file with one JSON object a line, "
            "with id, and if wanted name, status, launched and behaviour."
        ),
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(envvar="CVMSTOP_SIMULATED_TOKEN", help="Ask for this token."),
    ] = None,
    user: Annotated[
        str | None,
        typer.Option(envvar="CVMSTOP_SIMULATED_USER", help="Let this user in, with --password."),
    ] = None,
    password: Annotated[
        str | None,
        typer.Option(envvar="CVMSTOP_SIMULATED_PASSWORD", help="The password of --user."),
    ] = None,
    auth: Annotated[
        bool, typer.Option("--auth", help="Ask for credentials even if none are given: deny all.")
    ] = False,
    tls_cert: Annotated[
        Path | None, typer.Option(help="Certificate chain, a PEM file; needs --tls-key.")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Key of the certificate.")] = None,
    tls_client_ca: Annotated[
        Path | None, typer.Option(help="Ask clients for a certificate of this authority.")
    ] = None,
    latency: Annotated[float, typer.Option(min=0, help="Seconds before each answer.")] = 0.0,
    latency_jitter: Annotated[
        float, typer.Option(min=0, help="Up to so many seconds more, by chance.")
    ] = 0.0,
    stop_seconds: Annotated[
        float, typer.Option(min=0, help="How long a VM is stopping before it is stopped.")
    ] = 1.0,
    error_rate: Annotated[
        float,
        typer.Option(min=0, max=1, help="Share of StopVm and GetInfo that fail, by chance."),
    ] = 0.0,
    dead: Annotated[bool, typer.Option("--dead", help="Never answer anything.")] = False,
    seed: Annotated[int, typer.Option(help="Makes what happens by chance repeatable.")] = 0,
    log_file: Annotated[
        Path | None, typer.Option(help="Append one JSON line for each request to this file.")
    ] = None,
    ready_file: Annotated[
        Path | None, typer.Option(help="Write the URL to this file once the host listens.")
    ] = None,
) -> None:
    """Run a simulated dstack-vmm until Ctrl-C.

    It speaks dstack-vmm's protocol under /prpc/ and has no virtual machines behind it. How it
    behaves can be changed while it runs, under /simulator/.
    """
    # Imported here, so that the other commands start without a web server in memory.
    from workers.simulated_host.auth import Credentials
    from workers.simulated_host.behaviour import (
        Fault,
        FaultKind,
        HostBehaviour,
        generated_vms,
    )
    from workers.simulated_host.host import Host
    from workers.simulated_host.server import Endpoint, HostServer

    if (user is None) != (password is None):
        _refuse("--user and --password go together")
    if (tls_cert is None) != (tls_key is None):
        _refuse("--tls-cert and --tls-key go together")
    if tls_client_ca is not None and tls_cert is None:
        _refuse("--tls-client-ca needs --tls-cert and --tls-key")
    transient = Fault(
        kind=FaultKind.ERROR,
        methods=("StopVm", "GetInfo"),
        probability=error_rate,
        text=TRANSIENT_TEXT,
    )
    with ExitStack() as stack:
        try:
            simulated = Host(
                behaviour=HostBehaviour(
                    latency=latency,
                    latency_jitter=latency_jitter,
                    stop_seconds=stop_seconds,
                    faults=(transient,) if error_rate else (),
                    dead=dead,
                ),
                credentials=Credentials(
                    enabled=auth or token is not None or user is not None,
                    tokens=() if token is None else (token,),
                    users=() if user is None or password is None else ((user, password),),
                ),
                vms=generated_vms(vm_prefix, vms) if vms_file is None else _read_vms(vms_file),
                seed=seed,
                log_file=None if log_file is None else stack.enter_context(log_file.open("a")),
            )
            endpoint = Endpoint(
                address=host,
                port=port,
                unix=unix,
                tls_cert=tls_cert,
                tls_key=tls_key,
                tls_client_ca=tls_client_ca,
            )
            server = HostServer(simulated, endpoint, lambda: _tell(server.url, ready_file))
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            if isinstance(error, OSError) and error.errno == errno.EADDRINUSE and unix is None:
                _refuse(f"port {port} is taken: give another --port, or none for a free one")
            _refuse(f"the simulated host cannot start: {error}")
        # A client that does not get through TLS is no news: such a host is there for that too.
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)
        server.serve_until_told()


def _refuse(message: str) -> NoReturn:
    typer.echo(f"cvmstop: {message}", err=True)
    raise typer.Exit(2)


def _tell(url: str, ready_file: Path | None) -> None:
    typer.echo(url)
    if ready_file is not None:
        partial = ready_file.with_name(f"{ready_file.name}.partial")
        partial.write_text(f"{url}\n")
        partial.replace(ready_file)


def _read_vms(path: Path) -> list[VmSpec]:
    """Read VMs from a file of JSON lines; empty lines are passed over.

    Raises
    ------
    ValueError
        Names each line that is wrong, and what of it.
    """
    from pydantic import ValidationError

    from workers.simulated_host.behaviour import VmSpec

    specs: list[VmSpec] = []
    problems: list[str] = []
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        if not line.strip():
            continue
        try:
            specs.append(VmSpec.model_validate_json(line))
        except ValidationError as error:
            for problem in error.errors(include_url=False):
                where = ".".join(map(str, problem["loc"]))
                problems.append(f"{path}, line {number}: {where} {problem['msg']}".strip())
    if problems:
        raise ValueError("\n".join(problems))
    return specs
