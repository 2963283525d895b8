"""The database's clock: the only one that rows are compared with."""

from __future__ import annotations

from sqlalchemy import func


now = func.clock_timestamp()
"""This moment (PostgreSQL's `now()` is when the transaction began)."""
