"""Syncs, requests, turns, imports and purges of the same CVMs at once: nobody waits in a circle."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import TYPE_CHECKING

from sqlalchemy import select, text

from shared.database import driver_transaction, transaction
from shared.models.batches import BatchRequest
from shared.models.inventory import CvmRecord, ListedVm
from shared.models.states import PowerState
from shared.models.turns import TurnResult
from shared.services.batch_stop import accept_batch
from shared.services.cvm_file import CvmFile
from shared.services.cvm_import import import_cvms
from shared.services.inventory_sync import write_list
from shared.services.stops import ClaimedStop, claim_stop, settle_stop
from shared.storage.purging import delete_oldest
from shared.tables import Cvm, StopTask, VmHost
from tests.support.seeds import make_caller, make_cvm, make_host, make_workspace


if TYPE_CHECKING:
    from collections.abc import Callable
    from uuid import UUID

    from sqlalchemy import Engine

    from shared.models.callers import Caller
    from shared.settings import Settings

CVMS = 30
"""On each of two hosts."""

ROUNDS = 25
"""Of each actor."""

DOWN = TurnResult(power_state=PowerState.STOPPED, is_down=True, force_stopped=True)


class Actors:
    """Each does one thing, once, to rows that the others are at too."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self.engine = engine
        self.settings = settings
        self.caller: Caller
        with transaction(engine) as session:
            workspace = make_workspace(session, "blue")
            self.caller, _ = make_caller(session, workspace, admin=True)
            self.hosts: list[UUID] = []
            self.cvms: list[str] = []
            for name in ("h1", "h2"):
                host = make_host(session, name=name, cap=100)
                host.adopts_into = workspace.id
                self.hosts.append(host.id)
                self.cvms += [
                    make_cvm(session, workspace, host, vm_uuid=f"vm-{number}").hash_id
                    for number in range(CVMS)
                ]

    def sync(self, chance: random.Random) -> None:
        with transaction(self.engine) as session:
            asked_at = session.execute(text("SELECT clock_timestamp()")).scalar_one()
        names = [f"vm-{number}" for number in range(CVMS + 20) if chance.random() < 0.9]
        states = (PowerState.RUNNING, PowerState.STOPPED, PowerState.EXITED)
        vms = [
            ListedVm(vm_uuid=name, name=name, power_state=chance.choice(states)) for name in names
        ]
        with transaction(self.engine) as session:
            write_list(session, chance.choice(self.hosts), vms, asked_at=asked_at)

    def accept(self, chance: random.Random) -> None:
        request = BatchRequest(cvm_ids=tuple(chance.sample(self.cvms, 20)), request_id="test")
        with driver_transaction(self.engine) as connection:
            accept_batch(connection, self.caller, request, self.settings)

    def turns(self, chance: random.Random) -> None:
        with transaction(self.engine) as session:
            query = select(StopTask.id).where(StopTask.state == "scheduled").limit(20)
            found = list(session.scalars(query))
        for stop in chance.sample(found, len(found)):
            with driver_transaction(self.engine) as connection:
                claimed = claim_stop(connection, stop, worker="w", settings=self.settings)
            if isinstance(claimed, ClaimedStop):
                with driver_transaction(self.engine) as connection:
                    settle_stop(connection, claimed.claim, DOWN, settings=self.settings)

    def import_(self, chance: random.Random) -> None:
        """Bring CVMs that hosts list, too; those that others have made are refused as a whole."""
        with transaction(self.engine) as session:
            names = {host.id: host.name for host in session.scalars(select(VmHost))}
            free = session.execute(
                select(Cvm.hash_id, Cvm.vm_host_id, Cvm.vm_uuid).where(Cvm.in_progress.is_(False))
            ).all()
            records = [
                CvmRecord(
                    line=number,
                    hash_id=row.hash_id,
                    name=f"imported {chance.random()}",
                    workspace="blue",
                    host=names[row.vm_host_id],
                    vm_uuid=row.vm_uuid,
                    status=None,
                    gpu_rental_order=None,
                    keeps_gpu_rental_order=True,
                )
                for number, row in enumerate(chance.sample(free, min(len(free), 20)), start=1)
            ]
        with transaction(self.engine) as session:
            import_cvms(session, CvmFile(records=records, problems=[]))

    def purge(self, chance: random.Random) -> None:
        del chance
        with transaction(self.engine) as session:
            delete_oldest(session.connection(), older_than=timedelta(), limit=5, attempts=1_000)


def test_nobody_waits_in_a_circle(clean: Engine, settings: Settings) -> None:
    actors = Actors(clean, settings)

    def act(what: Callable[[random.Random], None], seed: int) -> None:
        chance = random.Random(seed)  # noqa: S311 - makes up what is tried
        for _ in range(ROUNDS):
            what(chance)

    parts = [*[actors.sync] * 3, *[actors.accept] * 2, *[actors.turns] * 2]
    parts += [actors.import_, actors.purge]
    with ThreadPoolExecutor(len(parts)) as pool:
        running = [pool.submit(act, what, seed) for seed, what in enumerate(parts)]
        for one in running:
            one.result()
    with transaction(clean) as session:
        query = text(
            "SELECT count(*) FROM cvms WHERE in_progress <> EXISTS ("
            " SELECT FROM stop_tasks WHERE cvm_id = cvms.id AND finished_at IS NULL)"
        )
        assert session.execute(query).scalar_one() == 0
        drifts = text(
            "SELECT count(*) FROM cvm_drifts JOIN cvms ON cvms.id = cvm_id"
            " WHERE ended_at IS NULL AND status IN ('stopped', 'absent') AND NOT in_progress"
        )
        assert session.execute(drifts).scalar_one() == 0
