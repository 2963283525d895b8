"""vacuum often: what PostgreSQL takes for many dead rows is too many in a large table."""

from __future__ import annotations

from alembic import op

revision = '0002'
down_revision = '0001'
branch_labels = None
depends_on = None

TABLES = ('cvms', 'stop_batches', 'stop_tasks', 'stop_attempts')


def upgrade() -> None:
    """Apply. It takes no lock that a reader or a writer would wait for, and rewrites nothing."""
    for table in TABLES:
        op.execute(f"ALTER TABLE {table} SET (autovacuum_vacuum_scale_factor = 0.02)")
    # Of pages that are filled from now on; VACUUM FULL does it to all of a table.
    op.execute("ALTER TABLE cvms SET (fillfactor = 70)")


def downgrade() -> None:
    """Take back."""
    op.execute("ALTER TABLE cvms RESET (fillfactor)")
    for table in TABLES:
        op.execute(f"ALTER TABLE {table} RESET (autovacuum_vacuum_scale_factor)")
