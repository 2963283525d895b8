"""operations of other control planes; hosts that are taken out."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = '0005'
down_revision = '0004'
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply. The new column is null everywhere: no row is rewritten."""
    op.create_table('cvm_operations',
    sa.Column('cvm_id', sa.BigInteger(), autoincrement=False, nullable=False),
    sa.Column('name', sa.Text(), nullable=False),
    sa.Column('user_id', sa.UUID(), nullable=False),
    sa.Column('api_key_id', sa.UUID(), nullable=False),
    sa.Column('started_at', sa.DateTime(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.Column('expires_at', sa.DateTime(timezone=True), nullable=False),
    sa.ForeignKeyConstraint(['api_key_id'], ['api_keys.id'], name=op.f('fk_cvm_operations_api_key_id')),
    sa.ForeignKeyConstraint(['cvm_id'], ['cvms.id'], name=op.f('fk_cvm_operations_cvm_id')),
    sa.ForeignKeyConstraint(['user_id'], ['users.id'], name=op.f('fk_cvm_operations_user_id')),
    sa.PrimaryKeyConstraint('cvm_id', name=op.f('pk_cvm_operations')),
    postgresql_with={'autovacuum_vacuum_scale_factor': 0.02}
    )
    op.create_index(op.f('ix_cvm_operations_expires_at'), 'cvm_operations', ['expires_at'], unique=False)
    op.add_column('vm_hosts', sa.Column('disabled_at', sa.DateTime(timezone=True), nullable=True))
    op.create_index('ix_vm_hosts_disabled', 'vm_hosts', ['id'], unique=False, postgresql_where=sa.text('disabled_at IS NOT NULL'))


def downgrade() -> None:
    """Take back. What was in progress only for another control plane is so no longer."""
    op.execute("UPDATE cvms SET in_progress = false FROM cvm_operations WHERE cvm_operations.cvm_id = cvms.id")
    op.drop_index('ix_vm_hosts_disabled', table_name='vm_hosts', postgresql_where=sa.text('disabled_at IS NOT NULL'))
    op.drop_column('vm_hosts', 'disabled_at')
    op.drop_index(op.f('ix_cvm_operations_expires_at'), table_name='cvm_operations')
    op.drop_table('cvm_operations')
