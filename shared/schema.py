"""Whether the database's schema is the one this program needs, and bringing it up."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from shared.database import transaction, translate_outages
from shared.exceptions import SchemaError


if TYPE_CHECKING:
    from alembic.config import Config
    from sqlalchemy import Engine
    from sqlalchemy.orm import Session

MIGRATIONS = Path(__file__).parent.parent / "migrations"
"""Where Alembic's scripts are."""

MIGRATE_COMMAND = "cvmstop migrate"
"""The command that brings a schema up."""


def alembic_config() -> Config:
    """Alembic's configuration; there is no ini file."""
    from alembic.config import Config  # noqa: PLC0415 - only where it is used: it takes 0.1 s

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    return config


def upgrade(engine: Engine) -> None:
    """Bring the schema to this program's.

    Raises
    ------
    alembic.util.CommandError
        No migration leads on from the database's revision; nothing was changed.
    DatabaseUnavailableError
        The database does not answer.
    """
    from alembic import command  # noqa: PLC0415 - as above

    config = alembic_config()
    with translate_outages(), engine.connect() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def schema_problem(session: Session) -> str | None:
    """Say what is wrong with the schema, and the command that mends it; None when it is current."""
    from alembic.runtime.migration import MigrationContext  # noqa: PLC0415 - as above
    from alembic.script import ScriptDirectory  # noqa: PLC0415 - as above

    wanted = ScriptDirectory.from_config(alembic_config()).get_current_head()
    found = MigrationContext.configure(session.connection()).get_current_revision()
    if found == wanted:
        return None
    if found is None:
        return f"the database has no cvmstop schema yet: run `{MIGRATE_COMMAND}`"
    return (
        f"the database's schema is at revision {found}, this version needs {wanted}:"
        f" run `{MIGRATE_COMMAND}` from this version, or start the version that made it"
    )


def require_current_schema(engine: Engine) -> None:
    """Refuse to go on with another schema than this program's.

    Raises
    ------
    SchemaError
        The schema is missing, older or newer; the message names the command that brings it up.
    DatabaseUnavailableError
        The database does not answer.
    """
    with transaction(engine) as session:
        problem = schema_problem(session)
    if problem:
        raise SchemaError(problem)
