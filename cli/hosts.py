"""`cvmstop hosts`."""

from __future__ import annotations

from typing import Annotated

import typer
from pydantic import SecretStr

from cli import edge
from cli.output import AsJson, AsWide, show_rows
from cli.secret_input import STDIN, secret_from, text_from
from shared.models.hosts import DEFAULT_CAP, HostConnection, HostCredentials


app = typer.Typer(
    help="VM hosts: add, list, check, sync, adopt, disable, enable, remove.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)

Variable = Annotated[str | None, typer.Option(metavar="VAR", help="Environment variable with it.")]
File = Annotated[str | None, typer.Option(metavar="FILE", help="File with it; - for stdin.")]

COLUMNS = ["name", "address", "cvms", "breaker", "disabled_at", "last_error", "sync_error"]
"""What a table shows of a host; the last three if one of them has it."""

ALL_COLUMNS = [
    *("name", "driver", "address", "max_concurrent_stops", "cvms", "breaker"),
    *("adopts_into", "synced_at", "disabled_at", "last_error", "sync_error"),
]

CHECK_COLUMNS = [
    *("name", "reachable", "authenticated", "version", "vms", "breaker", "disabled"),
    *("error_code", "error"),
]
"""What a table shows of a host that was asked; the last three if one of them has it."""

ALL_CHECK_COLUMNS = [
    *("name", "reachable", "authenticated", "version", "vms", "cap", "stops_open", "breaker"),
    *("disabled", "last_error", "error_code", "error"),
]

Names = Annotated[list[str], typer.Argument(metavar="NAME...")]


@app.command()
def add(  # noqa: PLR0913 - one parameter for each option
    name: Annotated[str, typer.Argument(metavar="NAME")],
    address: Annotated[
        str,
        typer.Argument(
            metavar="ADDRESS",
            help="http://host:port, https://host:port, unix:/path, or a URI of libvirt's.",
        ),
    ],
    *,
    driver: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="What the host speaks, dstack or libvirt; the address tells it."
        ),
    ] = None,
    cap: Annotated[
        int | None,
        typer.Option(
            min=1, max=1000, metavar="N", help=f"Stops on it at once, at most ({DEFAULT_CAP})."
        ),
    ] = None,
    token_env: Variable = None,
    token_file: File = None,
    username: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="For Basic authentication (dstack) or SASL (libvirt)."),
    ] = None,
    password_env: Variable = None,
    password_file: File = None,
    ca_file: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Certificates (PEM) to trust instead of the system's."),
    ] = None,
    client_cert: Annotated[
        str | None, typer.Option(metavar="FILE", help="Certificate (PEM) to show to the host.")
    ] = None,
    client_key: Annotated[str | None, typer.Option(metavar="FILE", help="Its key (PEM).")] = None,
    adopt_into: Annotated[
        str | None,
        typer.Option(metavar="WORKSPACE", help="Where VMs go that it lists and nobody knows."),
    ] = None,
    replace: Annotated[
        bool,
        typer.Option(
            "--replace",
            help="Write address and credentials of a known host anew; its cap stays if not given.",
        ),
    ] = False,
) -> None:
    """Add a VM host. Nothing is sent to it: `cvmstop hosts check` does that.

    Credentials are sealed before they are stored, and come from environment variables, files or
    standard input (-).
    """
    from shared.sealing import Sealer
    from shared.services.hosts import add_host, set_adoption
    from shared.settings import Settings
    from workers.drivers.errors import HostError
    from workers.drivers.registry import Drivers, driver_for

    driver = driver or driver_for(address)
    if [token_file, password_file, ca_file, client_cert, client_key].count(STDIN) > 1:
        msg = "only one thing can come from standard input"
        raise typer.BadParameter(msg)
    password = secret_from("--password", variable=password_env, file=password_file)
    token = secret_from("--token", variable=token_env, file=token_file)
    if (username is None) != (password is None):
        msg = "--username and --password-env (or --password-file) go together"
        raise typer.BadParameter(msg)
    if token is not None and password is not None:
        msg = "give a token, or a user name and password, not both"
        raise typer.BadParameter(msg)
    key = None if client_key is None else text_from("--client-key", client_key)
    credentials = HostCredentials(
        token=token,
        username=username,
        password=password,
        ca_pem=None if ca_file is None else text_from("--ca-file", ca_file),
        client_cert_pem=None if client_cert is None else text_from("--client-cert", client_cert),
        client_key_pem=None if key is None else SecretStr(key),
    )
    settings = Settings.load()
    connection = HostConnection(name=name, driver=driver, address=address, credentials=credentials)
    try:
        # Making the driver checks all of this without connecting.
        Drivers(settings).get(connection).close()
    except HostError as error:
        raise typer.BadParameter(error.message) from None
    with edge.session(settings) as session:
        add_host(
            session,
            Sealer(settings.sealing_keys),
            name=name,
            driver=driver,
            address=address,
            cap=cap,
            credentials=credentials,
            replace=replace,
        )
        if adopt_into is not None:
            set_adoption(session, name, adopt_into)
    typer.echo(f"host {name} is {'replaced' if replace else 'added'}, with the driver {driver}")
    _tell_assumed_port(address)


@app.command("list")
def list_(*, as_json: AsJson = False, wide: AsWide = False) -> None:
    """List VM hosts, without their credentials."""
    from shared.storage.inventory import list_hosts

    with edge.session() as session:
        rows = list_hosts(session)
    show_rows(
        rows,
        ALL_COLUMNS if wide else COLUMNS,
        as_json=as_json,
        nothing="there are no hosts",
        if_any=() if wide else ("disabled_at", "last_error", "sync_error"),
    )


@app.command()
def check(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="Only these hosts.")
    ] = None,
    *,
    as_json: AsJson = False,
    wide: AsWide = False,
) -> None:
    """Ask VM hosts for their version and their VMs; exit with 1 if one is not well.

    Checks the address, TLS and the credentials. No VM is touched. A host is well when it answers;
    one that is disabled is asked too, and may be unwell.
    """
    from cli.host_checks import check_hosts

    rows = check_hosts(names or [])
    show_rows(
        rows,
        ALL_CHECK_COLUMNS if wide else CHECK_COLUMNS,
        as_json=as_json,
        nothing="there are no hosts",
        if_any=() if wide else ("disabled", "error_code", "error"),
    )
    if not all(row["ok"] or row["disabled"] for row in rows):
        raise typer.Exit(1)


@app.command()
def disable(names: Names) -> None:
    """Take VM hosts out: their CVMs are answered with an error.

    Stops that were accepted before go on.
    """
    _set_disabled(names, disabled=True)


@app.command()
def enable(names: Names) -> None:
    """Take VM hosts in again."""
    _set_disabled(names, disabled=False)


@app.command()
def sync(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="Only these hosts.")
    ] = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Read what runs on VM hosts, now; exit with 1 if one of them cannot be read.

    Workers do it by themselves each CVMSTOP_SYNC_INTERVAL. Of each host: VMs that it lists, CVMs
    whose status changed, VMs that became CVMs, VMs that are none, CVMs that it lists no more, and
    CVMs that run though their stop has succeeded.
    """
    from cli.host_syncs import sync_hosts

    rows = sync_hosts(names or [])
    columns = ["host", "vms", "updated", "adopted", "unassigned", "vanished", "drifted", "error"]
    show_rows(rows, columns, as_json=as_json, nothing="there are no hosts")
    if any(row["error"] is not None for row in rows):
        raise typer.Exit(1)


@app.command()
def adopt(
    name: Annotated[str, typer.Argument(metavar="NAME")],
    workspace: Annotated[str | None, typer.Argument(metavar="WORKSPACE")] = None,
    *,
    none: Annotated[bool, typer.Option("--none", help="List them as unassigned again.")] = False,
) -> None:
    """Say which workspace VMs go to that a host lists and nobody knows.

    From its next sync on each of them is a CVM of the workspace, and its members may stop it.
    """
    from shared.services.hosts import set_adoption

    if (workspace is None) != none:
        msg = "give a WORKSPACE, or --none"
        raise typer.BadParameter(msg)
    with edge.session() as session:
        set_adoption(session, name, workspace)
    what = "are listed as unassigned" if none else f"go to workspace {workspace}"
    typer.echo(f"from its next sync on, unknown VMs of host {name} {what}")


@app.command()
def remove(name: Annotated[str, typer.Argument(metavar="NAME")]) -> None:
    """Remove a VM host that no CVM and no stop on record refers to."""
    from shared.services.removal import remove_host

    with edge.session() as session:
        remove_host(session, name)
    typer.echo(f"removed host {name}")


def _set_disabled(names: list[str], *, disabled: bool) -> None:
    from shared.services.hosts import set_disabled

    with edge.session() as session:
        set_disabled(session, names, disabled=disabled)
    for name in names:
        typer.echo(f"host {name} is {'disabled' if disabled else 'enabled'}")


def _tell_assumed_port(address: str) -> None:
    """Say which port is used where none was given: rarely what is meant, unless for a proxy."""
    from urllib.parse import urlsplit

    from workers.drivers.address import DEFAULT_PORTS

    parts = urlsplit(address)
    if parts.scheme in DEFAULT_PORTS and parts.port is None:
        typer.echo(f"no port given: {DEFAULT_PORTS[parts.scheme]} is used", err=True)
