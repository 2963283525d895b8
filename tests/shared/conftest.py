"""Stops in every state, on hosts that nobody contacts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from shared.database import driver_transaction, transaction
from shared.models.batches import BatchRequest
from shared.models.callers import Caller
from shared.services.batch_stop import accept_batch
from tests.support.seeds import make_caller, make_cvm, make_host, make_workspace


if TYPE_CHECKING:
    from uuid import UUID

    from sqlalchemy import Engine

    from shared.settings import Settings


@dataclass
class Yard:
    """Makes accepted stops."""

    engine: Engine
    settings: Settings
    caller: Caller

    def accept(self, count: int = 1, *, cap: int = 8, host: str | None = None) -> list[UUID]:
        """Accept a batch of new CVMs on one new host; give its stop tasks."""
        with transaction(self.engine) as session:
            workspace = make_workspace(session)
            vm_host = make_host(session, name=host, cap=cap)
            cvms = [make_cvm(session, workspace, vm_host).hash_id for _ in range(count)]
        request = BatchRequest(cvm_ids=tuple(cvms), request_id="test")
        with driver_transaction(self.engine) as connection:
            answer = accept_batch(connection, self.caller, request, self.settings)
        return [stop.stop_task_id for stop in answer.to_send]


@pytest.fixture
def yard(clean: Engine, settings: Settings) -> Yard:
    """Make accepted stops on an emptied database."""
    with transaction(clean) as session:
        caller, _ = make_caller(session, make_workspace(session), admin=True)
    return Yard(clean, settings, caller)
