"""page sessions: who is signed in at the page."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = '0012'
down_revision = '0011'
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.create_table('page_sessions',
    sa.Column('digest', sa.LargeBinary(), nullable=False),
    sa.Column('api_key_id', sa.UUID(), nullable=False),
    sa.Column('created_at', sa.DateTime(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.Column('expires_at', sa.DateTime(timezone=True), nullable=False),
    sa.ForeignKeyConstraint(['api_key_id'], ['api_keys.id'], name=op.f('fk_page_sessions_api_key_id')),
    sa.PrimaryKeyConstraint('digest', name=op.f('pk_page_sessions'))
    )
    op.create_index(op.f('ix_page_sessions_api_key_id'), 'page_sessions', ['api_key_id'], unique=False)
    op.create_index(op.f('ix_page_sessions_expires_at'), 'page_sessions', ['expires_at'], unique=False)


def downgrade() -> None:
    """Take back. Whoever is signed in is not any more."""
    op.drop_table('page_sessions')
