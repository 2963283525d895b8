"""Rows of stops, as commands and workers leave them; no worker runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import func, select, update

from shared.database import transaction
from shared.tables import BatchWatch, Cvm, StopTask


if TYPE_CHECKING:
    from sqlalchemy import Engine

NO_BATCH_ID = "cvmstop: '../x' is not the id of a batch; `cvmstop batches list` shows them\n"


def count_stops(engine: Engine) -> int:
    with transaction(engine) as session:
        return session.scalar(select(func.count()).select_from(StopTask)) or 0


def count_watches(engine: Engine) -> int:
    with transaction(engine) as session:
        return session.scalar(select(func.count()).select_from(BatchWatch)) or 0


def end_all(engine: Engine, state: str = "failed") -> None:
    """End every open stop, as workers do."""
    code = "host_error" if state == "failed" else None
    with transaction(engine) as session:
        session.execute(
            update(StopTask)
            .where(StopTask.finished_at.is_(None))
            .values(state=state, finished_at=func.now(), error_code=code, error_message=code)
        )
        session.execute(update(Cvm).values(in_progress=False))
