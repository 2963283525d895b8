"""`cvmstop migrate`."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import typer

from cli import edge


if TYPE_CHECKING:
    from sqlalchemy import Engine


def migrate(
    *,
    check: Annotated[
        bool, typer.Option("--check", help="Change nothing; exit with 1 if it is not current.")
    ] = False,
) -> None:
    """Bring the database's schema to this version.

    Any number may run at once: one does it, the others wait and find it done.
    """
    from alembic.util import CommandError

    from shared.schema import require_current_schema, upgrade

    with edge.database(application="migrate") as engine:
        before = _revision(engine)
        if not check:
            # A CommandError: nothing here leads on from the database's revision; what follows
            # says so, and what to do.
            with suppress(CommandError):
                upgrade(engine)
        require_current_schema(engine)
        after = _revision(engine)
    if before == after:
        typer.echo(f"the schema is current, at revision {after}")
    else:
        typer.echo(f"migrated from {before or 'an empty database'} to revision {after}")


def _revision(engine: Engine) -> str | None:
    """Read the revision that the schema is at; None before the first migration."""
    from alembic.runtime.migration import MigrationContext

    from shared.database import transaction

    with transaction(engine) as session:
        return MigrationContext.configure(session.connection()).get_current_revision()
