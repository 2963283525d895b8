"""stop changes: how each stop went, step by step."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = '0008'
down_revision = '0007'
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply. What stops went through before is not written down afterwards."""
    op.create_table('batch_watches',
    sa.Column('batch_id', sa.UUID(), nullable=False),
    sa.Column('watcher', sa.UUID(), nullable=False),
    sa.Column('expires_at', sa.DateTime(timezone=True), nullable=False),
    sa.PrimaryKeyConstraint('batch_id', 'watcher', name=op.f('pk_batch_watches')),
    postgresql_with={'autovacuum_vacuum_scale_factor': 0.02}
    )
    op.create_index(op.f('ix_batch_watches_expires_at'), 'batch_watches', ['expires_at'], unique=False)
    op.create_table('stop_changes',
    sa.Column('transaction', sa.BigInteger(), autoincrement=False, server_default=sa.text('pg_current_xact_id()::text::bigint'), nullable=False),
    sa.Column('id', sa.BigInteger(), sa.Identity(always=True), nullable=False),
    sa.Column('batch_id', sa.UUID(), nullable=False),
    sa.Column('stop_task_id', sa.UUID(), nullable=False),
    sa.Column('state', sa.Text(), nullable=False),
    sa.Column('attempt', sa.Integer(), nullable=False),
    sa.Column('error_code', sa.Text(), nullable=True),
    sa.Column('at', sa.DateTime(timezone=True), server_default=sa.text('clock_timestamp()'), nullable=False),
    sa.PrimaryKeyConstraint('transaction', 'id', name=op.f('pk_stop_changes')),
    postgresql_with={'autovacuum_vacuum_scale_factor': 0.02}
    )
    op.create_index(op.f('ix_stop_changes_batch_id'), 'stop_changes', ['batch_id'], unique=False)
    op.execute("""
CREATE FUNCTION record_stop_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO stop_changes (batch_id, stop_task_id, state, attempt, error_code)
    VALUES (NEW.batch_id, NEW.id, NEW.state, NEW.attempt, NEW.error_code);
    IF EXISTS (SELECT FROM batch_watches WHERE batch_id = NEW.batch_id) THEN
        PERFORM pg_notify('stop_changes', NEW.batch_id::text);
    END IF;
    RETURN NULL;
END
$$
""")
    op.execute("""
CREATE TRIGGER stop_changes AFTER UPDATE OF state ON stop_tasks
FOR EACH ROW WHEN (OLD.state IS DISTINCT FROM NEW.state) EXECUTE FUNCTION record_stop_change()
""")


def downgrade() -> None:
    """Take back, with all that was written down."""
    op.execute("DROP TRIGGER stop_changes ON stop_tasks")
    op.execute("DROP FUNCTION record_stop_change()")
    op.drop_index(op.f('ix_stop_changes_batch_id'), table_name='stop_changes')
    op.drop_table('stop_changes')
    op.drop_index(op.f('ix_batch_watches_expires_at'), table_name='batch_watches')
    op.drop_table('batch_watches')
