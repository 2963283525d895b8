"""Run migrations on the database of `CVMSTOP_DATABASE_URL`."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection

from shared.database import unbounded
from shared.engine import make_engine
from shared.settings import DatabaseSettings
from shared.tables import Base


LOCK = 0x63766D73
"""Number of the advisory lock that lets one migration run at a time ("cvms" in ASCII)."""


def migrate(connection: Connection) -> None:
    """Bring the schema up in one transaction, one process at a time; it may take its time."""
    context.configure(connection=connection, target_metadata=Base.metadata, compare_type=True)
    with context.begin_transaction(), unbounded(connection):
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({LOCK})")
        context.run_migrations()


given: Connection | None = context.config.attributes.get("connection")
if given is not None:
    migrate(given)
else:
    engine = make_engine(DatabaseSettings.load(), application="migrate")
    try:
        with engine.connect() as own:
            migrate(own)
    finally:
        engine.dispose()
