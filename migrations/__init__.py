"""Alembic's migrations; there is no alembic.ini.

Make one with `alembic.command.revision(shared.schema.alembic_config(), "what",
autogenerate=True)`; see docs/operations.md.
"""
