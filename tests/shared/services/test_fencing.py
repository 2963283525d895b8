"""What must not happen to a stop, whoever tries."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from sqlalchemy import func, select, text

from shared.database import transaction
from shared.models.errors import Fate
from shared.models.turns import Claim, TurnResult
from shared.tables import Cvm, StopTask
from tests.shared.services.steps import DOWN, NOT_YET, alter, failure, got, settle


if TYPE_CHECKING:
    from tests.shared.conftest import Yard


class TestFencing:
    """I4: a late or repeated worker changes nothing."""

    def assert_nothing_changes(self, yard: Yard, late: Claim, result: TurnResult) -> None:
        with transaction(yard.engine) as session:
            before = session.execute(text("SELECT * FROM stop_tasks, stop_attempts, cvms")).all()
        assert settle(yard, late, result) is None
        with transaction(yard.engine) as session:
            after = session.execute(text("SELECT * FROM stop_tasks, stop_attempts, cvms")).all()
        assert before == after

    def test_settled_twice(self, yard: Yard) -> None:
        (task,) = yard.accept()
        claimed = got(yard, task)
        settle(yard, claimed, failure(Fate.FINAL))
        self.assert_nothing_changes(yard, claimed, DOWN)

    def test_claimed_anew(self, yard: Yard) -> None:
        (task,) = yard.accept()
        late = got(yard, task)
        alter(yard, task, "state = 'scheduled', lease_expires_at = NULL")
        got(yard, task)
        self.assert_nothing_changes(yard, late, DOWN)

    def test_lease_ran_out(self, yard: Yard) -> None:
        (task,) = yard.accept()
        late = got(yard, task)
        alter(yard, task, "lease_expires_at = now() - interval '1 second'")
        self.assert_nothing_changes(yard, late, DOWN)


class TestTheSchemaItself:
    """What code may get wrong, the database refuses."""

    def test_no_second_open_stop_on_a_cvm(self, yard: Yard) -> None:
        (task,) = yard.accept()
        with (
            pytest.raises(Exception, match="uq_stop_tasks_open_cvm"),
            transaction(yard.engine) as session,
        ):
            session.execute(
                text(
                    "INSERT INTO stop_tasks (batch_id, cvm_id, workspace_id, vm_host_id, vm_uuid,"
                    " request_id, deadline_at) SELECT batch_id, cvm_id, workspace_id, vm_host_id,"
                    " vm_uuid, request_id, deadline_at FROM stop_tasks WHERE id = :task"
                ),
                {"task": task},
            )

    def test_in_progress_exactly_while_open(self, yard: Yard) -> None:
        tasks = yard.accept(4)
        settle(yard, got(yard, tasks[0]), DOWN)
        settle(yard, got(yard, tasks[1]), failure(Fate.FINAL))
        settle(yard, got(yard, tasks[2]), NOT_YET)
        with transaction(yard.engine) as session:
            differing = session.scalar(
                select(func.count())
                .select_from(StopTask)
                .join(Cvm)
                .where(Cvm.in_progress != StopTask.finished_at.is_(None))
            )
        assert differing == 0
