"""inventory sync: what hosts list, when it was seen, and what runs again after its stop."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = '0006'
down_revision = '0005'
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply. No table is rewritten: new columns of large ones are null."""
    op.add_column('vm_hosts', sa.Column('adopts_into', sa.UUID(), nullable=True))
    op.add_column('vm_hosts', sa.Column('next_sync_at', sa.DateTime(timezone=True), server_default=sa.text('now()'), nullable=False))
    op.add_column('vm_hosts', sa.Column('synced_at', sa.DateTime(timezone=True), nullable=True))
    op.add_column('vm_hosts', sa.Column('sync_error', sa.Text(), nullable=True))
    op.create_foreign_key(op.f('fk_vm_hosts_adopts_into'), 'vm_hosts', 'workspaces', ['adopts_into'], ['id'])
    # Spread out over the first minute, or all of them would be asked at once.
    op.execute("UPDATE vm_hosts SET next_sync_at = now() + random() * interval '1 minute'")
    op.add_column('cvms', sa.Column('seen_at', sa.DateTime(timezone=True), nullable=True))
    op.add_column('cvms', sa.Column('vanished_at', sa.DateTime(timezone=True), nullable=True))
    op.create_table('unassigned_vms',
    sa.Column('vm_host_id', sa.UUID(), nullable=False),
    sa.Column('vm_uuid', sa.Text(), nullable=False),
    sa.Column('name', sa.Text(), nullable=False),
    sa.Column('power_state', sa.Text(), nullable=False),
    sa.Column('first_seen_at', sa.DateTime(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.Column('seen_at', sa.DateTime(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.ForeignKeyConstraint(['vm_host_id'], ['vm_hosts.id'], name=op.f('fk_unassigned_vms_vm_host_id')),
    sa.PrimaryKeyConstraint('vm_host_id', 'vm_uuid', name=op.f('pk_unassigned_vms'))
    )
    op.create_table('cvm_drifts',
    sa.Column('id', sa.BigInteger(), sa.Identity(always=True), nullable=False),
    sa.Column('cvm_id', sa.BigInteger(), nullable=False),
    sa.Column('stop_task_id', sa.UUID(), nullable=False),
    sa.Column('vm_host_id', sa.UUID(), nullable=False),
    sa.Column('noticed_at', sa.DateTime(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.Column('ended_at', sa.DateTime(timezone=True), nullable=True),
    sa.ForeignKeyConstraint(['cvm_id'], ['cvms.id'], name=op.f('fk_cvm_drifts_cvm_id')),
    sa.ForeignKeyConstraint(['stop_task_id'], ['stop_tasks.id'], name=op.f('fk_cvm_drifts_stop_task_id')),
    sa.ForeignKeyConstraint(['vm_host_id'], ['vm_hosts.id'], name=op.f('fk_cvm_drifts_vm_host_id')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_cvm_drifts'))
    )
    op.create_index('uq_cvm_drifts_open', 'cvm_drifts', ['cvm_id'], unique=True, postgresql_where=sa.text('ended_at IS NULL'))
    op.create_index(op.f('ix_cvm_drifts_cvm_id'), 'cvm_drifts', ['cvm_id'])
    op.create_index(op.f('ix_cvm_drifts_stop_task_id'), 'cvm_drifts', ['stop_task_id'])
    op.create_index(op.f('ix_cvm_drifts_vm_host_id'), 'cvm_drifts', ['vm_host_id'])


def downgrade() -> None:
    """Take back."""
    op.drop_table('cvm_drifts')
    op.drop_table('unassigned_vms')
    op.drop_column('cvms', 'vanished_at')
    op.drop_column('cvms', 'seen_at')
    op.drop_constraint(op.f('fk_vm_hosts_adopts_into'), 'vm_hosts', type_='foreignkey')
    op.drop_column('vm_hosts', 'sync_error')
    op.drop_column('vm_hosts', 'synced_at')
    op.drop_column('vm_hosts', 'next_sync_at')
    op.drop_column('vm_hosts', 'adopts_into')
