"""indexes of lists; open stops' indexes by `finished_at`."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = '0003'
down_revision = '0002'
branch_labels = None
depends_on = None

PAGE = (sa.literal_column('accepted_at DESC'), sa.literal_column('id DESC'))


def upgrade() -> None:
    """Apply."""
    op.create_index('ix_stop_tasks_host_page', 'stop_tasks', ['vm_host_id', *PAGE])
    op.create_index('ix_stop_tasks_state_page', 'stop_tasks', ['state', *PAGE], postgresql_where=sa.text("state IN ('failed', 'canceled')"))
    op.create_index('ix_stop_tasks_failed_workspace_page', 'stop_tasks', ['workspace_id', *PAGE], postgresql_where=sa.text("state = 'failed'"))
    op.create_index('ix_stop_tasks_failed_host_page', 'stop_tasks', ['vm_host_id', *PAGE], postgresql_where=sa.text("state = 'failed'"))
    op.create_index('ix_stop_tasks_error_page', 'stop_tasks', ['error_code', *PAGE], postgresql_where=sa.text("error_code IS NOT NULL"))
    op.drop_index('ix_stop_tasks_failed_page', table_name='stop_tasks')
    op.drop_index('ix_stop_batches_workspace_page', table_name='stop_batches')
    op.create_index('ix_stop_batches_workspace_page', 'stop_batches', ['workspace_id', *PAGE], postgresql_where=sa.text("by_admin IS false"))
    op.drop_index('uq_stop_tasks_open_cvm', table_name='stop_tasks')
    op.create_index('uq_stop_tasks_open_cvm', 'stop_tasks', ['cvm_id'], unique=True, postgresql_where=sa.text("finished_at IS NULL"))
    op.drop_index('ix_stop_tasks_deadline', table_name='stop_tasks')
    op.create_index('ix_stop_tasks_deadline', 'stop_tasks', ['deadline_at'], postgresql_where=sa.text("finished_at IS NULL"))


def downgrade() -> None:
    """Take back."""
    op.drop_index('ix_stop_tasks_deadline', table_name='stop_tasks')
    op.create_index('ix_stop_tasks_deadline', 'stop_tasks', ['deadline_at'], postgresql_where=sa.text("state IN ('scheduled', 'confirming')"))
    op.drop_index('uq_stop_tasks_open_cvm', table_name='stop_tasks')
    op.create_index('uq_stop_tasks_open_cvm', 'stop_tasks', ['cvm_id'], unique=True, postgresql_where=sa.text("state IN ('scheduled', 'confirming', 'stopping')"))
    op.drop_index('ix_stop_batches_workspace_page', table_name='stop_batches')
    op.create_index('ix_stop_batches_workspace_page', 'stop_batches', ['workspace_id', *PAGE])
    op.create_index('ix_stop_tasks_failed_page', 'stop_tasks', list(PAGE), postgresql_where=sa.text("state = 'failed'"))
    op.drop_index('ix_stop_tasks_error_page', table_name='stop_tasks')
    op.drop_index('ix_stop_tasks_failed_host_page', table_name='stop_tasks')
    op.drop_index('ix_stop_tasks_failed_workspace_page', table_name='stop_tasks')
    op.drop_index('ix_stop_tasks_state_page', table_name='stop_tasks')
    op.drop_index('ix_stop_tasks_host_page', table_name='stop_tasks')
