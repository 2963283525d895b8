"""What tests of workers share."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from shared.broker import make_celery
from tests.shared.conftest import yard
from workers.parts import WorkerProcess
from workers.tasks import register_tasks


if TYPE_CHECKING:
    from shared.settings import Settings

__all__ = ["yard"]


@pytest.fixture(scope="session")
def idle_parts(settings: Settings) -> SimpleNamespace:
    """Give parts of a worker that nobody uses; `syncs` says which host it was asked for."""
    return SimpleNamespace(
        engine=None, broker=None, settings=settings, syncs=SimpleNamespace(run_if_room=str)
    )


@pytest.fixture(scope="session")
def idle_tasks(settings: Settings, idle_parts: SimpleNamespace) -> Any:
    """Give the tasks of a worker with those parts, by name.

    Once: Celery gives the tasks of one app to every other one of the process.
    """
    app = make_celery(settings)
    process = WorkerProcess()
    process._parts = idle_parts  # type: ignore[assignment] # as said
    register_tasks(app, process)
    return app.tasks
