"""overview: by request id, hosts of a workspace, since when a host has not answered."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = '0009'
down_revision = '0008'
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply. The new column is null everywhere: no row is rewritten."""
    op.add_column('vm_hosts', sa.Column('unreachable_since', sa.DateTime(timezone=True), nullable=True))
    op.create_index(op.f('ix_cvms_workspace_id_vm_host_id'), 'cvms', ['workspace_id', 'vm_host_id'], unique=False)
    op.create_index('ix_stop_batches_request_page', 'stop_batches', ['request_id', sa.literal_column('accepted_at DESC'), sa.literal_column('id DESC')], unique=False)


def downgrade() -> None:
    """Take back."""
    op.drop_index('ix_stop_batches_request_page', table_name='stop_batches')
    op.drop_index(op.f('ix_cvms_workspace_id_vm_host_id'), table_name='cvms')
    op.drop_column('vm_hosts', 'unreachable_since')
