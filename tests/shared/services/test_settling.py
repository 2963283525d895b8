"""Settling: what becomes of a stop after a turn."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from sqlalchemy import select

from shared.database import transaction
from shared.models.errors import ErrorCode, Fate
from shared.models.states import PowerState, StopState
from shared.models.turns import Exchange, Failure, Refusal, TurnResult
from shared.tables import Cvm, StopAttempt
from tests.shared.services.steps import (
    ASKED,
    DOWN,
    NOT_YET,
    alter,
    claim,
    failure,
    got,
    is_in_progress,
    row,
    settle,
)


if TYPE_CHECKING:
    from tests.shared.conftest import Yard


class TestSettling:
    def test_down_is_success(self, yard: Yard) -> None:
        (task,) = yard.accept()
        claimed = got(yard, task)
        assert is_in_progress(yard, task)
        settled = settle(yard, claimed, DOWN)
        assert settled is not None
        assert settled.state is StopState.SUCCEEDED
        assert not is_in_progress(yard, task)
        with transaction(yard.engine) as session:
            assert session.scalars(select(Cvm.status)).one() == "stopped"

    def test_an_accepted_force_stop_is_not(self, yard: Yard) -> None:
        (task,) = yard.accept()
        settle(yard, got(yard, task), NOT_YET)
        assert row(yard, task).state == StopState.CONFIRMING
        assert is_in_progress(yard, task)

    def test_confirming_is_claimed_again_and_knows_of_the_force_stop(self, yard: Yard) -> None:
        (task,) = yard.accept()
        settle(yard, got(yard, task), NOT_YET)
        assert claim(yard, task) is Refusal.NOT_DUE
        alter(yard, task, "due_at = now()")
        claimed = got(yard, task)
        assert claimed.attempt == 2
        assert claimed.seconds_since_force_stop is not None

    def test_a_transient_failure_is_tried_again_until_the_last(self, yard: Yard) -> None:
        (task,) = yard.accept()
        for number in range(1, yard.settings.stop_max_failures + 1):
            alter(yard, task, "due_at = now()")
            settle(yard, got(yard, task), failure(Fate.TRANSIENT))
            assert row(yard, task).failures == number
        final = row(yard, task)
        assert (final.state, final.error_code) == (StopState.FAILED, ErrorCode.HOST_ERROR)
        assert final.error_message == "it said no"
        assert not is_in_progress(yard, task)

    def test_a_final_failure_fails_now(self, yard: Yard) -> None:
        (task,) = yard.accept()
        settle(yard, got(yard, task), failure(Fate.FINAL, ErrorCode.CREDENTIALS_REFUSED))
        assert row(yard, task).state == StopState.FAILED

    def test_an_unknown_outcome_is_looked_at_again(self, yard: Yard) -> None:
        (task,) = yard.accept()
        settle(yard, got(yard, task), failure(Fate.UNKNOWN))
        assert row(yard, task).state == StopState.CONFIRMING

    @pytest.mark.parametrize("result", [NOT_YET, failure(Fate.TRANSIENT)])
    def test_past_the_deadline_it_fails_with_the_reason(
        self, yard: Yard, result: TurnResult
    ) -> None:
        (task,) = yard.accept()
        claimed = got(yard, task)
        alter(yard, task, "deadline_at = now() - interval '1 second'")
        settle(yard, claimed, result)
        final = row(yard, task)
        assert (final.state, final.error_code) == (StopState.FAILED, ErrorCode.DEADLINE_EXCEEDED)
        assert final.error_message is not None
        assert "deadline" in final.error_message

    def test_a_force_stop_that_was_not_sent_is_not_told_of(self, yard: Yard) -> None:
        """A VM that its host is removing is sent none."""
        (task,) = yard.accept()
        claimed = got(yard, task)
        alter(yard, task, "deadline_at = now() - interval '1 second'")
        settle(yard, claimed, TurnResult(power_state=PowerState.REMOVING, exchanges=ASKED))
        message = row(yard, task).error_message
        assert message == (
            "not confirmed before the deadline: the host still reports the VM removing"
        )

    def test_down_past_the_deadline_is_success_all_the_same(self, yard: Yard) -> None:
        (task,) = yard.accept()
        claimed = got(yard, task)
        alter(yard, task, "deadline_at = now() - interval '1 second'")
        settle(yard, claimed, DOWN)
        assert row(yard, task).state == StopState.SUCCEEDED

    def test_attempts_stay(self, yard: Yard) -> None:
        (task,) = yard.accept()
        exchange = Exchange(request="StopVm", answer="500 oops", seconds=0.1)
        first = TurnResult(
            power_state=PowerState.RUNNING,
            failure=Failure(code=ErrorCode.HOST_ERROR, fate=Fate.TRANSIENT, message="oops"),
            exchanges=(exchange,),
        )
        settle(yard, got(yard, task), first)
        alter(yard, task, "due_at = now()")
        settle(yard, got(yard, task), DOWN)
        with transaction(yard.engine) as session:
            query = select(StopAttempt).order_by(StopAttempt.number)
            attempts = session.scalars(query).all()
            outcomes = [(each.number, each.outcome, each.error_code) for each in attempts]
            assert attempts[0].exchanges == [exchange.as_json()]
        assert outcomes == [(1, "retry", "host_error"), (2, "succeeded", None)]
