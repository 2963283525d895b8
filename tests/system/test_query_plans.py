"""With a million CVMs and a million stops on record, no statement goes through a large table.

Every statement is caught as the program runs it, planned both ways, and run.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import SecretStr
from sqlalchemy import text, update
from sqlalchemy.orm import Session

from bench.loading import LARGE_TABLES, PER_BATCH
from shared.broker import Broker, make_celery
from shared.database import driver_of
from shared.exceptions import NotFoundError
from shared.models.batches import BatchRequest
from shared.models.errors import ErrorCode, Fate
from shared.models.inventory import ListedVm
from shared.models.pages import CvmFilter, StopFilter
from shared.models.states import PowerState, StopState, UserRole
from shared.models.turns import Failure, Refusal, TurnResult
from shared.services.authentication import authenticate
from shared.services.batch_stop import accept_batch, preview_batch
from shared.services.canceling import cancel_batch, cancel_stop
from shared.services.cvms import find_cvm, page_of_cvms
from shared.services.failures import group_failures
from shared.services.inventory_sync import write_list
from shared.services.operations import clear_operation, put_operation
from shared.services.overview import host_health, open_stops, pace, times_to_stopped
from shared.services.retries import retry_batch, retry_stop
from shared.services.stop_records import find_batch, find_stop, list_batches, list_stops
from shared.services.stops import ClaimedStop, claim_stop, settle_stop
from shared.services.webhook_events import consume_changes
from shared.storage import sync_schedule
from shared.storage.cvm_views import LOOKED_THROUGH
from shared.storage.failures import MOST_READ as MOST_GROUPED
from shared.storage.inventory import find_hosts, read_standings
from shared.storage.monitoring import read_host_gauges, read_oldest_due_delivery
from shared.storage.operations import end_expired
from shared.storage.stop_changes import count_changes, read_history
from shared.storage.stop_conditions import BATCHES_OF_A_REQUEST
from shared.storage.webhook_deliveries import (
    Outcome,
    delete_old,
    find_due,
    give_up_stale,
    settle,
)
from shared.storage.webhook_deliveries import claim as claim_deliveries
from shared.tables import StopChange, StopTask, User, WebhookProgress, Workspace
from tests.support.explained import Explained, explaining
from tests.support.seeds import make_webhook
from tests.system.archive import ROWS, Archive, made_archives
from workers.dispatcher import run_round


if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from uuid import UUID

    from shared.settings import Settings
    from tests.support.postgresql import PostgresqlServer

ON_HOST = ROWS.cvms // ROWS.hosts
"""CVMs of one host."""

A_PAGE = 51
"""Rows that a page of 50 reads."""

DOWN = TurnResult(power_state=PowerState.STOPPED, is_down=True, force_stopped=True)
UNREACHABLE = TurnResult(
    power_state=None,
    failure=Failure(code=ErrorCode.HOST_UNREACHABLE, fate=Fate.UNREACHABLE, message="no answer"),
)


@pytest.fixture(scope="module")
def archives(postgresql: PostgresqlServer, settings: Settings) -> Iterator[dict[str, Archive]]:
    with made_archives(postgresql, settings) as made:
        yield made


@pytest.fixture(params=["before", "since"])
def archive(archives: dict[str, Archive], request: pytest.FixtureRequest) -> Archive:
    return archives[request.param]


def look(archive: Archive, run: Callable[[Session], object]) -> list[Explained]:
    """Explain what is run in a transaction that is taken back."""
    with Session(archive.engine) as session, explaining() as explained:
        run(session)
    return explained


def require_quick(explained: list[Explained], *, statements: int, examined: int) -> None:
    """Fail for statements that go through a large table, look at too many rows or are compiled."""
    assert len(explained) >= 2 * statements
    slow = [
        str(one)
        for one in explained
        if one.scanned_whole(LARGE_TABLES) or one.examined(LARGE_TABLES) > examined or one.jit
    ]
    assert not slow, "\n".join(slow)


def test_authentication(archive: Archive) -> None:
    explained = look(archive, lambda session: authenticate(driver_of(session), archive.api_key))
    require_quick(explained, statements=1, examined=10)


@pytest.mark.parametrize("key", [None, "a key"])
@pytest.mark.parametrize("role", UserRole)
def test_accept(archive: Archive, role: UserRole, key: str | None) -> None:
    caller = archive.admin if role is UserRole.ADMIN else archive.member
    ids = archive.next_batch()
    request = BatchRequest(cvm_ids=ids, request_id="test", idempotency_key=key)

    def accept_twice(session: Session) -> None:
        answer = accept_batch(driver_of(session), caller, request, archive.settings)
        assert answer.stopped == 50
        accept_batch(driver_of(session), caller, request, archive.settings)

    require_quick(look(archive, accept_twice), statements=4, examined=500)


@pytest.mark.parametrize("role", UserRole)
def test_preview(archive: Archive, role: UserRole) -> None:
    caller = archive.admin if role is UserRole.ADMIN else archive.member
    request = BatchRequest(cvm_ids=archive.next_batch(), request_id="test")

    def preview(session: Session) -> None:
        assert preview_batch(driver_of(session), caller, request).stopped == 50

    require_quick(look(archive, preview), statements=1, examined=500)


def claim(archive: Archive, session: Session, stop: UUID) -> ClaimedStop | Refusal:
    return claim_stop(driver_of(session), stop, worker="test", settings=archive.settings)


@pytest.mark.parametrize("result", [DOWN, UNREACHABLE])
def test_claim_settle_and_refusal(archive: Archive, result: TurnResult) -> None:
    stop = archive.one("id FROM stop_tasks WHERE state = 'scheduled' LIMIT 1")

    def take_a_turn(session: Session) -> None:
        claimed = claim(archive, session, stop)
        assert isinstance(claimed, ClaimedStop)
        assert isinstance(claim(archive, session, stop), Refusal)
        assert settle_stop(driver_of(session), claimed.claim, result, settings=archive.settings)

    require_quick(look(archive, take_a_turn), statements=6, examined=100)


def test_a_dispatchers_round(archive: Archive, valkey: str) -> None:
    app = make_celery(archive.settings.model_copy(update={"broker_url": SecretStr(valkey)}))
    with explaining() as explained:
        done = run_round(archive.engine, Broker(app), archive.settings)
    app.close()
    assert done.sent == 1_000
    # `take_due` visits every host.
    require_quick(explained, statements=3, examined=4 * (ROWS.hosts + ROWS.open))


def test_a_dispatchers_round_when_much_ran_out(archive: Archive, valkey: str) -> None:
    app = make_celery(archive.settings.model_copy(update={"broker_url": SecretStr(valkey)}))
    impatient = archive.settings.model_copy(update={"resend_after": -2 * 86_400.0})
    with archive.engine.connect() as connection, connection.begin():
        connection.execute(
            text("UPDATE stop_tasks SET lease_expires_at = now() WHERE state = 'stopping'")
        )
    with explaining() as explained:
        done = run_round(archive.engine, Broker(app), impatient)
    app.close()
    assert done.released > 200
    assert done.failed == 1_000
    require_quick(explained, statements=3, examined=4 * (ROWS.hosts + ROWS.open))


def test_operations_of_others(archive: Archive) -> None:
    """Beginning, renewing and clearing one, and ending those whose time is over: all or none."""
    cvm_ids = archive.next_batch()

    def work_on_them(session: Session) -> None:
        for cvm_id in (*cvm_ids, cvm_ids[0]):
            put_operation(
                session, archive.admin, cvm_id, name="resize", expires_in=timedelta(seconds=60)
            )
        clear_operation(session, cvm_ids[0])
        assert end_expired(session, limit=1_000) == 0
        session.execute(text("UPDATE cvm_operations SET expires_at = now()"))
        assert end_expired(session, limit=1_000) == 49

    require_quick(look(archive, work_on_them), statements=4, examined=500)


def test_webhooks(archive: Archive) -> None:
    """From ends of stops to a delivery that is settled, and the gauge."""
    with archive.engine.connect() as connection:
        # Rows that other tests have taken back would be looked at, too.
        connection.execution_options(isolation_level="AUTOCOMMIT").execute(
            text("VACUUM stop_changes")
        )
    with archive.engine.connect() as connection:
        ends = connection.execute(
            text(
                "SELECT batch_id, id FROM stop_tasks WHERE workspace_id = :workspace"
                " AND state = 'succeeded' ORDER BY accepted_at DESC LIMIT 100"
            ),
            {"workspace": archive.member.workspace_id},
        ).all()
    with Session(archive.engine) as session:
        workspace = session.get_one(Workspace, archive.member.workspace_id)
        webhook = make_webhook(session, workspace, session.get_one(User, archive.member.user_id))
        session.add(WebhookProgress(id=1, seen="3:3:"))
        session.add_all(
            StopChange(
                transaction=10, batch_id=batch, stop_task_id=stop, state="succeeded", attempt=1
            )
            for batch, stop in ends
        )
        session.flush()
        with explaining() as explained:
            assert consume_changes(session).told >= 100
            assert give_up_stale(session, limit=1_000) == 0
            (due,) = find_due(session, limit=64)
            claimed = claim_deliveries(session, due.id, limit=4)
            assert len(claimed) == 4
            for delivery in claimed:
                assert settle(session, delivery, Outcome(status=500, error="no"))
            assert read_oldest_due_delivery(session) >= 0
            assert delete_old(session, limit=1_000) == 0
        assert webhook.id == due.id
    require_quick(explained, statements=8, examined=2_000)


def test_standings_of_all_hosts(archive: Archive) -> None:
    still_open = archive.one("count(*) FROM stop_tasks WHERE finished_at IS NULL")

    def read(session: Session) -> None:
        hosts = [host.id for host in find_hosts(session, None)]
        standings = read_standings(session, hosts)
        assert sum(standing["stops_open"] for standing in standings.values()) == still_open

    require_quick(look(archive, read), statements=2, examined=2 * ROWS.open)


def test_a_scrape(archive: Archive) -> None:
    still_open = archive.one("count(*) FROM stop_tasks WHERE finished_at IS NULL")
    drifted = archive.one("count(*) FROM cvm_drifts WHERE ended_at IS NULL")

    def scrape(session: Session) -> None:
        hosts = read_host_gauges(session)
        assert sum(sum(host.open_stops.values()) for host in hosts) == still_open
        assert sum(host.drifted for host in hosts) == drifted

    examined = 4 * (ROWS.hosts + ROWS.open + ROWS.drifted)
    require_quick(look(archive, scrape), statements=2, examined=examined)


@pytest.mark.parametrize("role", UserRole)
def test_the_overview(archive: Archive, role: UserRole) -> None:
    """Hosts and open stops, and the charts of a day, in which one stop a minute has ended."""
    caller = archive.admin if role is UserRole.ADMIN else archive.member

    def read(session: Session) -> None:
        hosts = host_health(session, caller)
        assert sum(host.stopping + host.waiting for host in hosts)
        assert open_stops(session, caller).total
        minutes = pace(session, caller, hours=24, settings=archive.settings).minutes
        ended = sum(minute.succeeded + minute.failed for minute in minutes)
        assert ended > (1_400 if role is UserRole.ADMIN else 0)
        times_to_stopped(session, caller, hours=24, settings=archive.settings)

    # A member's hosts are each looked for once.
    require_quick(look(archive, read), statements=4, examined=2 * (ROWS.hosts + ROWS.open))


@pytest.mark.parametrize("role", UserRole)
def test_batches(archive: Archive, role: UserRole) -> None:
    caller = archive.admin if role is UserRole.ADMIN else archive.member
    batch = archive.one(
        f"id FROM stop_batches WHERE workspace_id = '{archive.member.workspace_id}'"
        " ORDER BY accepted_at OFFSET 100 LIMIT 1"
    )

    def read(session: Session) -> None:
        find_batch(session, caller, batch)
        page = list_batches(session, caller, cursor=None, limit=50)
        assert page.next_cursor
        list_batches(session, caller, cursor=page.next_cursor, limit=50)

    require_quick(look(archive, read), statements=6, examined=2_000)


@pytest.mark.parametrize("role", UserRole)
def test_one_stop(archive: Archive, role: UserRole) -> None:
    caller = archive.admin if role is UserRole.ADMIN else archive.member
    stop = archive.one(
        f"id FROM stop_tasks WHERE workspace_id = '{archive.member.workspace_id}' LIMIT 1"
    )
    explained = look(archive, lambda session: find_stop(session, caller, stop))
    require_quick(explained, statements=2, examined=10)


@pytest.mark.parametrize("state", [PowerState.RUNNING, PowerState.STOPPED])
@pytest.mark.parametrize("adopts", [False, True])
def test_a_sync(archive: Archive, state: PowerState, *, adopts: bool) -> None:
    """Of a host with a thousand CVMs, of which some have vanished, and as many others."""
    number = 7
    host = archive.one(f"id FROM vm_hosts WHERE name = 'host-{number:04d}'")
    names = [f"vm-{vm}" for vm in range(number, ROWS.cvms, ROWS.hosts)][100:]
    names += [f"new-{vm}" for vm in range(ON_HOST)]
    vms = [ListedVm(vm_uuid=name, name=name, power_state=state) for name in names]

    def sync(session: Session) -> None:
        if adopts:
            session.execute(
                text("UPDATE vm_hosts SET adopts_into = :workspace WHERE id = :host"),
                {"workspace": archive.member.workspace_id, "host": host},
            )
        asked_at = session.execute(text("SELECT clock_timestamp()")).scalar_one()
        counts = write_list(session, host, vms, asked_at=asked_at)
        assert counts is not None
        assert counts.vanished > 90
        assert (counts.adopted, counts.unassigned) == ((1_000, 0) if adopts else (0, 1_000))
        assert (counts.drifted > 800) == (state is PowerState.RUNNING)

    require_quick(look(archive, sync), statements=6, examined=12 * ON_HOST)


def test_a_round_of_syncs(archive: Archive) -> None:
    def take(session: Session) -> None:
        due = sync_schedule.take_due(session, every=60.0, limit=100)
        assert len(due) == 100
        assert sync_schedule.find_host(session, due[0])
        asked_at = archive.one("now()")
        sync_schedule.note_failure(session, due[0], "away", asked_at=asked_at, is_unreachable=True)

    require_quick(look(archive, take), statements=3, examined=0)


@pytest.mark.parametrize("role", UserRole)
def test_one_cvm(archive: Archive, role: UserRole) -> None:
    caller = archive.admin if role is UserRole.ADMIN else archive.member

    def read(session: Session) -> None:
        with suppress(NotFoundError):
            find_cvm(session, caller, A_CVM)

    require_quick(look(archive, read), statements=1, examined=10)


CVM_LISTS: dict[str, tuple[CvmFilter, int]] = {
    "all": (CvmFilter(), 10 * A_PAGE),
    "workspace": (CvmFilter(workspace="workspace-0001"), 10 * A_PAGE),
    "no workspace": (CvmFilter(workspace="nowhere"), 10 * A_PAGE),
    "host": (CvmFilter(host="host-0007"), 4 * ON_HOST),
    "drifted": (CvmFilter(drifted=True), 6 * ROWS.drifted),
    "not drifted": (CvmFilter(drifted=False), 6 * LOOKED_THROUGH),
    "in progress": (CvmFilter(in_progress=True), 6 * LOOKED_THROUGH),
    "rare status": (CvmFilter(status="absent"), 6 * LOOKED_THROUGH),
    "status on host": (CvmFilter(status="absent", host="host-0007"), 6 * ON_HOST),
}
"""Lists, and how many rows each may look at."""


@pytest.mark.parametrize("case", CVM_LISTS)
@pytest.mark.parametrize("role", UserRole)
def test_lists_of_cvms(archive: Archive, role: UserRole, case: str) -> None:
    caller = archive.admin if role is UserRole.ADMIN else archive.member
    wanted, examined = CVM_LISTS[case]

    def read(session: Session) -> None:
        page = page_of_cvms(session, caller, wanted, cursor=None, limit=50)
        if page.next_cursor:
            page_of_cvms(session, caller, wanted, cursor=page.next_cursor, limit=50)

    require_quick(look(archive, read), statements=1, examined=examined)


WAITING = (StopState.SCHEDULED, StopState.CONFIRMING)
OPEN = (*WAITING, StopState.STOPPING)
ENDED = (StopState.SUCCEEDED, StopState.FAILED, StopState.CANCELED)
FAILED = (StopState.FAILED,)
A_CVM = "cvm_00000005"
A_HOST = "host-0007"
A_WORKSPACE = "workspace-0001"
RARE = ErrorCode.BAD_HOST_CONFIGURATION
A_REQUEST = "bench"
"""All of them: it has more batches than are looked at."""
AT_ONCE: dict[str, dict[str, Any]] = {
    "all": {},
    "failed": {"states": FAILED},
    "canceled": {"states": (StopState.CANCELED,)},
    "CVM": {"cvm_id": A_CVM},
    "no CVM": {"cvm_id": "cvm_nowhere"},
    "failed of CVM": {"states": FAILED, "cvm_id": A_CVM},
    "no host": {"host": "nowhere"},
    "no workspace": {"workspace": "nowhere"},
}
"""Found at once, as rows that are wanted are next to each other in an index."""

BY_ADMIN_AT_ONCE: dict[str, dict[str, Any]] = {
    "host": {"host": A_HOST},
    "workspace": {"workspace": A_WORKSPACE},
    "failed in workspace": {"states": FAILED, "workspace": A_WORKSPACE},
    "failed on host": {"states": FAILED, "host": A_HOST},
    "error": {"error_code": ErrorCode.DEADLINE_EXCEEDED},
    "rare error": {"error_code": RARE},
    "failed with rare error": {"states": FAILED, "error_code": RARE},
}
"""The same; a member's workspace is one condition too many."""

BY_REQUEST: dict[str, dict[str, Any]] = {
    "request": {"request_id": A_REQUEST},
    "failed of request": {"states": FAILED, "request_id": A_REQUEST},
    "no request": {"request_id": "nobody's"},
}

SHARE = ROWS.finished // ROWS.workspaces
"""Stops of one workspace."""

PICKED: dict[str, dict[str, Any]] = {
    **BY_ADMIN_AT_ONCE,
    "succeeded": {"states": (StopState.SUCCEEDED,)},
    "ended": {"states": ENDED},
    "scheduled": {"states": (StopState.SCHEDULED,)},
    "stopping": {"states": (StopState.STOPPING,)},
    "open": {"states": OPEN},
    "failed or canceled": {"states": (StopState.FAILED, StopState.CANCELED)},
    "waiting on host": {"states": WAITING, "host": A_HOST},
}
"""Picked out of those that are open, or of those of a host or a workspace."""


def read_lists(archive: Archive, role: UserRole, wanted: dict[str, Any]) -> list[Explained]:
    """Read two pages, and one of a day of long ago."""
    caller = archive.admin if role is UserRole.ADMIN else archive.member
    then = archive.one("now() - interval '200 days'")
    within = {"accepted_from": then, "accepted_before": then + timedelta(days=1)}

    def read(session: Session) -> None:
        page = list_stops(session, caller, StopFilter(**wanted), cursor=None, limit=50)
        if page.next_cursor:
            list_stops(session, caller, StopFilter(**wanted), cursor=page.next_cursor, limit=50)
        list_stops(session, caller, StopFilter(**wanted, **within), cursor=None, limit=50)

    return look(archive, read)


@pytest.mark.parametrize("wanted", AT_ONCE.values(), ids=AT_ONCE)
@pytest.mark.parametrize("role", UserRole)
def test_lists_that_are_found_at_once(
    archive: Archive, role: UserRole, wanted: dict[str, Any]
) -> None:
    require_quick(read_lists(archive, role, wanted), statements=2, examined=10 * A_PAGE)


@pytest.mark.parametrize("wanted", BY_ADMIN_AT_ONCE.values(), ids=BY_ADMIN_AT_ONCE)
def test_lists_that_an_admin_finds_at_once(archive: Archive, wanted: dict[str, Any]) -> None:
    explained = read_lists(archive, UserRole.ADMIN, wanted)
    require_quick(explained, statements=2, examined=10 * A_PAGE)


@pytest.mark.parametrize("wanted", PICKED.values(), ids=PICKED)
@pytest.mark.parametrize("role", UserRole)
def test_lists_that_are_picked_out(
    archive: Archive, role: UserRole, wanted: dict[str, Any]
) -> None:
    explained = read_lists(archive, role, wanted)
    require_quick(explained, statements=2, examined=3 * (SHARE + ROWS.open))


GROUPED: dict[str, dict[str, Any]] = {
    "all": {},
    "host": {"host": A_HOST},
    "workspace": {"workspace": A_WORKSPACE},
    "no workspace": {"workspace": "nowhere"},
    "error": {"error_code": ErrorCode.DEADLINE_EXCEEDED},
    "rare error": {"error_code": RARE},
    "error on host": {"error_code": ErrorCode.DEADLINE_EXCEEDED, "host": A_HOST},
    "CVM": {"cvm_id": A_CVM},
    "not retried": {"retried": False},
    "request": {"request_id": A_REQUEST},
}
"""Failures in groups, of which there are 50,000."""


@pytest.mark.parametrize("wanted", GROUPED.values(), ids=GROUPED)
@pytest.mark.parametrize("role", UserRole)
def test_failures_in_groups(archive: Archive, role: UserRole, wanted: dict[str, Any]) -> None:
    caller = archive.admin if role is UserRole.ADMIN else archive.member
    explained = look(archive, lambda session: group_failures(session, caller, StopFilter(**wanted)))
    require_quick(explained, statements=1, examined=3 * MOST_GROUPED)


@pytest.mark.parametrize("wanted", BY_REQUEST.values(), ids=BY_REQUEST)
@pytest.mark.parametrize("role", UserRole)
def test_lists_by_request(archive: Archive, role: UserRole, wanted: dict[str, Any]) -> None:
    explained = read_lists(archive, role, wanted)
    examined = 4 * BATCHES_OF_A_REQUEST * PER_BATCH
    require_quick(explained, statements=2, examined=examined)


@pytest.mark.parametrize("role", UserRole)
def test_failures_that_were_not_retried(archive: Archive, role: UserRole) -> None:
    explained = read_lists(archive, role, {"states": FAILED, "retried": False})
    require_quick(explained, statements=2, examined=10 * A_PAGE)


@pytest.mark.parametrize("role", UserRole)
def test_a_stops_batch_is_listed(archive: Archive, role: UserRole) -> None:
    caller = archive.admin if role is UserRole.ADMIN else archive.member
    wanted = StopFilter(batch_id=archive.one("id FROM stop_batches LIMIT 1"))
    explained = look(
        archive, lambda session: list_stops(session, caller, wanted, cursor=None, limit=50)
    )
    require_quick(explained, statements=1, examined=4 * A_PAGE)


@pytest.mark.parametrize("whole", [False, True])
def test_cancel_and_retry(archive: Archive, *, whole: bool) -> None:
    """Fifty stops that wait: canceled, and one or all of them tried again."""
    request = BatchRequest(cvm_ids=archive.next_batch(), request_id="test")

    def act(session: Session) -> None:
        answer = accept_batch(driver_of(session), archive.member, request, archive.settings)
        assert answer.batch_id
        stop = answer.to_send[0].stop_task_id
        retry: dict[str, Any] = {"request_id": "test", "settings": archive.settings}
        assert cancel_stop(session, archive.member, stop).canceled == 1
        assert cancel_batch(session, archive.member, answer.batch_id).canceled == 49
        if whole:
            session.execute(
                update(StopTask)
                .where(StopTask.batch_id == answer.batch_id)
                .values(state=StopState.FAILED)
            )
            found = retry_batch(session, archive.member, answer.batch_id, **retry)
            assert found.retried == 50
        else:
            assert retry_stop(session, archive.member, stop, **retry).retried == 1
        session.expire_all()
        assert find_stop(session, archive.member, stop)[0].retried_by

    require_quick(look(archive, act), statements=12, examined=500)


def test_following_a_batch(archive: Archive) -> None:
    """Among many changes of other batches, which PostgreSQL has counted or not."""
    batch = archive.one("batch_id FROM stop_tasks LIMIT 1")
    with Session(archive.engine) as session:
        session.execute(
            text(
                "INSERT INTO stop_changes (batch_id, stop_task_id, state, attempt)"
                " SELECT batch_id, id, 'succeeded', 1 FROM stop_tasks LIMIT 100000"
            )
        )
        for is_counted in (False, True):
            if is_counted:
                session.execute(text("ANALYZE stop_changes"))
            with explaining() as explained:
                assert read_history(driver_of(session), batch)
                assert count_changes(session, [batch])
            require_quick(explained, statements=2, examined=200)
            assert not [one for one in explained if one.examined(["stop_changes"]) > 1_000]
