"""Claiming: who gets a stop, and when."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import TYPE_CHECKING

from sqlalchemy import select

from shared.database import driver_transaction, transaction
from shared.exceptions import HostBusyError
from shared.models.states import StopState
from shared.models.turns import Claim, Refusal
from shared.storage.claims import claim_row, lock_host_of
from shared.tables import StopTask, VmHost
from tests.shared.services.steps import alter, claim, got, row


if TYPE_CHECKING:
    from uuid import UUID

    from tests.shared.conftest import Yard


class TestClaiming:
    def test_once(self, yard: Yard) -> None:
        (task,) = yard.accept()
        claimed = got(yard, task)
        assert (claimed.attempt, claimed.seconds_since_force_stop) == (1, None)
        assert row(yard, task).state == StopState.STOPPING
        assert claim(yard, task) is Refusal.NOT_WAITING

    def test_by_many_at_once(self, yard: Yard) -> None:
        (task,) = yard.accept()
        results: list[Claim | Refusal] = []
        threads = [
            threading.Thread(target=lambda: results.append(claim(yard, task))) for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(isinstance(result, Claim) for result in results) == 1

    def test_unknown(self, yard: Yard) -> None:
        (task,) = yard.accept()
        alter(yard, task, "id = gen_random_uuid()")
        assert claim(yard, task) is Refusal.NOT_WAITING

    def test_not_due(self, yard: Yard) -> None:
        (task,) = yard.accept()
        alter(yard, task, "due_at = now() + interval '1 minute'")
        assert claim(yard, task) is Refusal.NOT_DUE

    def test_not_due_any_more_once_it_is_locked(self, yard: Yard) -> None:
        """Another worker may have had a turn while the lock was waited for."""
        (task,) = yard.accept()
        with driver_transaction(yard.engine) as connection:
            host = lock_host_of(connection, task)
            assert host is not None
            alter(yard, task, "due_at = now() + interval '1 minute'")
            claimed = claim_row(
                connection,
                task,
                host,
                worker="w1",
                lease=timedelta(seconds=9),
                breaker_threshold=3,
            )
            assert claimed is None

    def test_never_more_than_the_cap(self, yard: Yard) -> None:
        """Without the host's lock, claims that run at once each see a free place."""
        tasks = yard.accept(24, cap=3)
        barrier = threading.Barrier(len(tasks))
        results: list[Claim | Refusal] = []

        def try_one(task: UUID) -> None:
            barrier.wait()
            results.append(claim(yard, task))

        threads = [threading.Thread(target=try_one, args=(task,)) for task in tasks]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(isinstance(result, Claim) for result in results) == 3
        assert set(results) - {r for r in results if isinstance(r, Claim)} == {Refusal.HOST_AT_CAP}

    def test_a_row_that_somebody_holds_is_not_waited_for_long(self, yard: Yard) -> None:
        """Each claim that waits has one of the few connections that all hosts share."""
        (held,), (free,) = yard.accept(), yard.accept()
        with transaction(yard.engine) as holder:
            host = holder.get_one(StopTask, held).vm_host_id
            holder.execute(select(VmHost).where(VmHost.id == host).with_for_update())
            results: list[Claim | Refusal | Exception] = []

            def try_held() -> None:
                try:
                    results.append(claim(yard, held))
                except HostBusyError as error:
                    results.append(error)

            threads = [threading.Thread(target=try_held) for _ in range(40)]
            for thread in threads:
                thread.start()
            got(yard, free)  # with the pool of 20 all taken by those that wait at first
            for thread in threads:
                thread.join()
        assert {type(result) for result in results} == {HostBusyError}
        got(yard, held)

    def test_hosts_do_not_share_their_caps(self, yard: Yard) -> None:
        first, second = yard.accept(2, cap=1), yard.accept(2, cap=1)
        got(yard, first[0])
        assert claim(yard, first[1]) is Refusal.HOST_AT_CAP
        got(yard, second[0])
