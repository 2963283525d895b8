"""Alembic's migrations. Make one with `alembic revision --autogenerate`; see docs/operations.md."""
