"""retries: a stop task and a batch point to the one before."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = '0007'
down_revision = '0006'
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply. The new columns are null everywhere: no row is rewritten."""
    op.add_column('stop_batches', sa.Column('retry_of', sa.UUID(), nullable=True))
    op.add_column('stop_tasks', sa.Column('retry_of', sa.UUID(), nullable=True))
    op.create_index('ix_stop_tasks_retry_of', 'stop_tasks', ['retry_of', sa.literal_column('accepted_at DESC'), sa.literal_column('id DESC')], unique=False, postgresql_where=sa.text('retry_of IS NOT NULL'))


def downgrade() -> None:
    """Take back. Retries stay on record as stops like any other."""
    op.drop_index('ix_stop_tasks_retry_of', table_name='stop_tasks', postgresql_where=sa.text('retry_of IS NOT NULL'))
    op.drop_column('stop_tasks', 'retry_of')
    op.drop_column('stop_batches', 'retry_of')
