"""The migrations make what the tables say, from nothing and back."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import uuid4

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import inspect, text

from shared.engine import make_engine
from shared.exceptions import SchemaError
from shared.schema import alembic_config, require_current_schema
from shared.tables import Base


if TYPE_CHECKING:
    from collections.abc import Iterator

    from alembic.config import Config
    from sqlalchemy import Connection, Engine

    from shared.settings import Settings
    from tests.support.postgresql import PostgresqlServer


def _config(connection: Connection) -> Config:
    config = alembic_config()
    config.attributes["connection"] = connection
    return config


@pytest.fixture
def blank(postgresql: PostgresqlServer, settings: Settings) -> Iterator[Engine]:
    """An engine on a database with nothing in it."""
    url = postgresql.create_database(f"blank_{uuid4().hex}")
    engine = make_engine(settings.model_copy(update={"database_url": url}), application="tests")
    yield engine
    engine.dispose()


def test_tables_and_migrations_agree(engine: Engine) -> None:
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []


def _details(engine: Engine) -> dict[str, set[tuple[object, ...]]]:
    """Read what Alembic does not compare, or only in part, in PostgreSQL's own words."""
    queries = {
        "constraints": "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid)"
        " FROM pg_constraint WHERE connamespace = 'public'::regnamespace",
        "indexes": "SELECT tablename, indexname, indexdef FROM pg_indexes"
        " WHERE schemaname = 'public'",
        "columns": "SELECT table_name, column_name, data_type, udt_name, is_nullable,"
        " column_default, identity_generation"
        " FROM information_schema.columns WHERE table_schema = 'public'",
        "functions": "SELECT proname, pg_get_functiondef(oid) FROM pg_proc"
        " WHERE pronamespace = 'public'::regnamespace",
        "triggers": "SELECT tgname, pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal",
        "storage parameters": "SELECT relname, reloptions FROM pg_class"
        " WHERE relnamespace = 'public'::regnamespace AND reloptions IS NOT NULL",
    }
    with engine.connect() as connection:
        return {
            what: {tuple(map(str, row)) for row in connection.execute(text(query))}
            for what, query in queries.items()
        }


def test_what_alembic_does_not_compare_agrees(engine: Engine, blank: Engine) -> None:
    """Bodies of constraints, predicates of indexes, defaults of columns, storage parameters."""
    Base.metadata.create_all(blank)
    found, wanted = _details(engine), _details(blank)
    for what, rows in wanted.items():
        assert rows
        assert {row for row in found[what] if row[0] != "alembic_version"} == rows


def test_up_from_nothing_and_back(blank: Engine) -> None:
    with blank.connect() as connection:
        config = _config(connection)
        command.upgrade(config, "head")
        assert set(inspect(connection).get_table_names()) > set(Base.metadata.tables)
        connection.commit()
        command.downgrade(config, "base")
        assert inspect(connection).get_table_names() == ["alembic_version"]


def test_schema_missing(blank: Engine) -> None:
    with pytest.raises(SchemaError, match=r"no cvmstop schema yet: run `cvmstop migrate`"):
        require_current_schema(blank)


def test_schema_of_another_version(blank: Engine) -> None:
    with blank.begin() as connection:
        command.upgrade(_config(connection), "head")
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(
        SchemaError, match=r"at revision 9999, this version needs .*cvmstop migrate"
    ):
        require_current_schema(blank)


def test_schema_current(engine: Engine) -> None:
    require_current_schema(engine)
