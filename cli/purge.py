"""`cvmstop purge`."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from cli import edge
from cli.durations import duration


if TYPE_CHECKING:
    from shared.settings import LifetimeSettings


def purge(
    *,
    older_than: Annotated[
        str | None,
        typer.Option(
            metavar="DURATION",
            help="Such as 30d or 12h, since a batch was accepted. [default: CVMSTOP_RETENTION]",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say how much it would be.")
    ] = False,
) -> None:
    """Delete finished batches that are old enough, with their stops, until none is left.

    The housekeeping worker does it by itself, for those older than CVMSTOP_RETENTION. A batch with
    a stop that has not ended is left alone. May be interrupted at any time, and called again.
    """
    from shared.settings import LifetimeSettings
    from shared.storage.purging import Purged, count_old
    from workers import purge as purging

    settings = LifetimeSettings.load()
    age = _age(older_than, settings)
    with edge.database(settings) as engine:
        if dry_run:
            from shared.database import transaction

            with transaction(engine) as session:
                found = count_old(session, older_than=age)
            typer.echo(f"would delete {found}; nothing was deleted")
            return
        deleted = Purged()
        try:
            for done in purging.purge(engine, older_than=age):
                deleted += done
        finally:
            typer.echo(f"deleted {deleted}")


def _age(older_than: str | None, settings: LifetimeSettings) -> timedelta:
    if older_than is None:
        if not settings.retention:
            msg = "CVMSTOP_RETENTION is 0, everything is kept: say --older-than"
            raise typer.BadParameter(msg)
        return timedelta(seconds=settings.retention)
    age = duration(older_than, for_ever="nothing here is older")
    if age < timedelta(seconds=settings.stop_deadline):
        msg = (
            f"--older-than {older_than} is less than a stop may take"
            f" (CVMSTOP_STOP_DEADLINE, {settings.stop_deadline:g} s)"
        )
        raise typer.BadParameter(msg)
    return age
