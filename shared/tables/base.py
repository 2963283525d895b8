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
"""A primary key that may be shown outside, for tables that stay small."""

TIME_ORDERED_UUID = (
    "encode(set_bit(set_bit(overlay(uuid_send(gen_random_uuid()) placing"
    " substring(int8send((extract(epoch from clock_timestamp()) * 1000)::bigint) from 3)"
    " from 1 for 6), 52, 1), 53, 1), 'hex')::uuid"
)
"""A version 7 UUID (RFC 9562, section 5.7), of which PostgreSQL has a function from 18 on.

A random one, whose first six bytes become the time in milliseconds, and whose version 4 (0100)
becomes 7 (0111): bits 52 and 53, as `set_bit` counts them.
"""

TimeOrderedId = Annotated[
    UUID,
    mapped_column(PG_UUID(as_uuid=True), primary_key=True, server_default=text(TIME_ORDERED_UUID)),
]
"""A primary key that may be shown outside, for tables that grow without end.

New rows stand side by side in its index. Random ones are each on a page of their own, which is read
first once there are millions, and written to the log whole.
"""

RowNumber = Annotated[int, mapped_column(BigInteger, Identity(always=True), primary_key=True)]
"""A primary key that stays inside."""

CreatedAt = Annotated[datetime, mapped_column(server_default=func.now())]
"""When the row was written."""
