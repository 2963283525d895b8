"""ids of new batches and stops are ordered by time."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = '0004'
down_revision = '0003'
branch_labels = None
depends_on = None

TIME_ORDERED = sa.text(
    "encode(set_bit(set_bit(overlay(uuid_send(gen_random_uuid()) placing"
    " substring(int8send((extract(epoch from clock_timestamp()) * 1000)::bigint) from 3)"
    " from 1 for 6), 52, 1), 53, 1), 'hex')::uuid"
)
TABLES = ('stop_batches', 'stop_tasks')


def upgrade() -> None:
    """Apply. Rows that are there keep their ids."""
    for table in TABLES:
        op.alter_column(table, 'id', server_default=TIME_ORDERED)


def downgrade() -> None:
    """Take back."""
    for table in TABLES:
        op.alter_column(table, 'id', server_default=sa.text('gen_random_uuid()'))
