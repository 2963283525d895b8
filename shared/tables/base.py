"""The declarative base, and the column types that every table shares."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, ClassVar
from uuid import UUID

from sqlalchemy import BigInteger, DateTime, Identity, MetaData, Text, func, text
from sqlalchemy.dialects.postgresql import UUID as PG_UUID
from sqlalchemy.orm import DeclarativeBase, mapped_column


NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "pk": "pk_%(table_name)s",
}
"""Names of constraints, so that migrations can name what they change."""

VACUUM_OFTEN = {"postgresql_with": {"autovacuum_vacuum_scale_factor": 0.02}}
"""For tables whose rows are changed all the time: vacuumed when one row in 50 is dead.

PostgreSQL's own 20 % would be a million dead rows in a table of five. Alembic does not compare
storage parameters; `tests/test_migrations.py` does.
"""


class Base(DeclarativeBase):
    """Base of all tables. Times are `timestamptz`, always from the database's clock."""

    metadata = MetaData(naming_convention=NAMING)
    type_annotation_map: ClassVar = {datetime: DateTime(timezone=True), str: Text()}


RandomId = Annotated[
    UUID,
    mapped_column(
        PG_UUID(as_uuid=True), primary_key=True, server_default=text("gen_random_uuid()")
    ),
]
"""A primary key that may be shown outside."""

RowNumber = Annotated[int, mapped_column(BigInteger, Identity(always=True), primary_key=True)]
"""A primary key that stays inside."""

CreatedAt = Annotated[datetime, mapped_column(server_default=func.now())]
"""When the row was written."""
