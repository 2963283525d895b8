"""traces: a batch keeps which span its stops belong to."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = '0010'
down_revision = '0009'
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply. The new column is null everywhere: no row is rewritten."""
    op.add_column('stop_batches', sa.Column('traceparent', sa.Text(), nullable=True))


def downgrade() -> None:
    """Take back. Stops that are open go on in traces of their own."""
    op.drop_column('stop_batches', 'traceparent')
