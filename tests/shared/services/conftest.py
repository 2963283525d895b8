"""Two workspaces, of which one has nothing to learn of the other."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import func

from shared.models.callers import Caller
from shared.models.states import StopState
from shared.tables import ApiKey, VmHost
from tests.support.seeds import make_caller, make_cvm, make_ended_stop, make_host, make_workspace


if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from shared.tables import Cvm, StopTask


@dataclass
class Town:
    """Two workspaces on two hosts: ours is on one of them."""

    session: Session
    member: Caller
    admin: Caller
    ours: Cvm
    theirs: Cvm
    """On the same host as ours."""
    shared: VmHost
    other: VmHost

    def stop(self, cvm: Cvm, *, ago: float = 0.0, took: float = 10.0, **columns: Any) -> StopTask:
        """Add a stop of a CVM that ended so many seconds ago."""
        key = self.session.get_one(ApiKey, self.admin.api_key_id)
        ended = func.now() - timedelta(seconds=ago)
        times = {"finished_at": ended, "accepted_at": ended - timedelta(seconds=took)}
        return make_ended_stop(self.session, cvm, key, **{**times, **columns})

    def begin(self, cvm: Cvm, state: StopState = StopState.SCHEDULED, **columns: Any) -> StopTask:
        """Add a stop of a CVM that has not ended."""
        if state is StopState.STOPPING:
            columns["lease_expires_at"] = func.now()
        return self.stop(cvm, state=state, **{"finished_at": None, **columns})


@pytest.fixture
def town(session: Session) -> Town:
    ours, theirs = make_workspace(session), make_workspace(session)
    shared, other = make_host(session, name="node-1"), make_host(session, name="node-2")
    make_cvm(session, theirs, other)
    return Town(
        session=session,
        member=make_caller(session, ours)[0],
        admin=make_caller(session, ours, admin=True)[0],
        ours=make_cvm(session, ours, shared),
        theirs=make_cvm(session, theirs, shared),
        shared=shared,
        other=other,
    )
