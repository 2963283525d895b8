"""The forms that stop, retry and cancel, without a browser's help."""

from __future__ import annotations

import re
from html import unescape
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import func, select, text

from api.pages.chosen_ids import batches_of
from shared.database import driver_transaction, transaction
from shared.exceptions import NotFoundError
from shared.models.batches import BatchRequest
from shared.services.authentication import authenticate
from shared.services.batch_stop import preview_batch
from shared.services.previews import Verdict, preview_cvms
from shared.services.retries import retry_some
from shared.tables import Cvm
from tests.support.seeds import make_host


if TYPE_CHECKING:
    from sqlalchemy import Engine

    from shared.settings import Settings
    from tests.api.conftest import World
    from tests.api.pages.conftest import Browser

FIELD = re.compile(r'<input type="hidden" name="([a-z_]+)" value="([^"]*)">')


def fields_of(page: str, action: str) -> dict[str, list[str]]:
    """Read what a form on a page would send."""
    form = page[page.index(f'action="{action}"') :]
    found: dict[str, list[str]] = {}
    for name, value in FIELD.findall(form[: form.index("</form>")]):
        found.setdefault(name, []).append(unescape(value))
    return found


def rows(engine: Engine, query: str) -> list[tuple[Any, ...]]:
    with transaction(engine) as session:
        return [tuple(row) for row in session.execute(text(query))]


def test_a_batch_is_shown_first_and_then_accepted(
    member: Browser, clean: Engine, world: World
) -> None:
    ids = [*world.ours[:3], world.busy, world.rented, world.without_vm, world.theirs[0], "nonsense"]
    page = member.post("/new/preview", {"ids": "; ".join(ids)}).text
    assert "Stop 3 CVMs" in page
    for reason in ("in progress", "GPU rental", "no VM", "CVM not found"):
        assert reason in page
    assert rows(clean, "SELECT count(*) FROM stop_batches") == [(0,)]
    answer = member.post("/new", fields_of(page, "/new"))
    [(batch_id, total, stopped, skipped)] = rows(
        clean, "SELECT id, total, stopped, skipped FROM stop_batches"
    )
    assert (total, stopped, skipped) == (8, 3, 3)
    assert answer.headers["location"] == f"/batches/{batch_id}?accepted=3"
    assert "3 stops accepted" in member.get(answer.headers["location"]).text


def test_sent_twice_it_is_accepted_once(member: Browser, clean: Engine, world: World) -> None:
    page = member.post("/new/preview", {"cvm": world.ours[:55]}).text
    fields = fields_of(page, "/new")
    answers = [member.post("/new", fields) for _ in range(3)]
    assert {answer.headers["location"] for answer in answers} == {"/batches?accepted=55"}
    assert rows(clean, "SELECT total FROM stop_batches ORDER BY total") == [(5,), (50,)]
    assert rows(clean, "SELECT count(*) FROM stop_tasks") == [(55,)]


def test_its_key_serves_no_other_ids(member: Browser, world: World) -> None:
    once = str(uuid4())
    assert member.post("/new", {"ids": world.ours[0], "once": once}).status_code == 303
    answer = member.post("/new", {"ids": world.ours[1], "once": once})
    assert answer.status_code == 422
    assert member.post("/new", {"ids": world.ours[1], "once": "x"}).status_code == 400


@pytest.mark.parametrize(
    "pasted",
    [
        "cvm_a,cvm_b",
        "cvm_a\r\ncvm_b\r\n",
        '["cvm_a", "cvm_b"]',
        "cvm_a;cvm_b|cvm_a\tcvm_b",
        "cvm_a # the first; not cvm_c\ncvm_b",
        "'cvm_a'  \u00a0 <cvm_b>",
    ],
)
def test_ids_are_separated_by_anything(member: Browser, pasted: str) -> None:
    page = member.post("/new/preview", {"ids": pasted}).text
    assert page.count("CVM not found") == 2
    assert "<bdi>cvm_a</bdi>" in page
    assert "<bdi>cvm_b</bdi>" in page


def test_none_and_too_many(member: Browser) -> None:
    assert member.post("/new/preview", {"ids": " , # cvm_a"}).status_code == 422
    answer = member.post("/new/preview", {"ids": " ".join(f"cvm_{n}" for n in range(1001))})
    assert answer.status_code == 422
    assert "1,001 CVMs in one form; at most 1,000" in answer.text
    assert [len(part) for part in batches_of(["x"] * 120)] == [50, 50, 20]


@pytest.mark.parametrize("who", ["member_key", "admin_key", "stranger_key"])
def test_the_preview_says_what_the_api_would(clean: Engine, world: World, who: str) -> None:
    with transaction(clean) as session:
        off = make_host(session, name="off")
        off.disabled_at = func.now()
        cvm = session.scalars(select(Cvm).where(Cvm.hash_id == world.ours[9])).one()
        cvm.vm_host_id = off.id
    ids = [*world.ours[:10], *world.theirs, world.busy, world.rented, world.without_vm, "cvm_no"]
    with driver_transaction(clean) as connection:
        caller = authenticate(connection, getattr(world, who))
        answer = preview_batch(
            connection, caller, BatchRequest(cvm_ids=tuple(ids), request_id="a test")
        )
    with transaction(clean) as session:
        previewed = preview_cvms(session, caller, ids)
    counts = [sum(each.verdict is verdict for each in previewed) for verdict in Verdict]
    assert counts == [answer.stopped, answer.skipped, len(answer.errors)]
    refused = {each.cvm_id: each for each in previewed if each.verdict is Verdict.REFUSE}
    for error in answer.errors:
        obstacle = refused[error.cvm_id].obstacle
        assert obstacle is not None
        assert obstacle.message == error.error


@pytest.fixture
def failed(member: Browser, clean: Engine, world: World) -> list[str]:
    """Two batches, of which all stops have failed; gives the ids of the stops."""
    for ids in (world.ours[:3], world.ours[3:5]):
        member.post("/new", {"ids": " ".join(ids), "once": str(uuid4())})
    with transaction(clean) as session:
        session.execute(
            text(
                "UPDATE stop_tasks SET state = 'failed', finished_at = now(), attempt = 1,"
                " error_code = 'host_unreachable', error_message = 'no route';"
                "UPDATE cvms SET in_progress = false WHERE id IN (SELECT cvm_id FROM stop_tasks)"
            )
        )
    return [str(each) for (each,) in rows(clean, "SELECT id FROM stop_tasks ORDER BY id")]


def test_failures_are_grouped_and_all_that_are_shown_tried_again(
    member: Browser, clean: Engine, failed: list[str]
) -> None:
    page = member.get("/failures?host=node-1").text
    assert re.search(
        r"5 .</span><span><code class=\"code\">host_unreachable</code>: .*node-1", page
    )
    assert "Try all 5 shown again" in page
    fields = fields_of(page, "/failures/retry")
    assert sorted(fields["stop"]) == sorted(failed)
    confirm = member.post("/failures/retry", fields).text
    assert "Try 5 stops again?" in confirm
    assert rows(clean, "SELECT count(*) FROM stop_batches") == [(2,)]
    done = member.post("/failures/retry", fields_of(confirm, "/failures/retry"))
    assert "5 of 5 stops tried again" in done.text
    retries = rows(clean, "SELECT total FROM stop_batches WHERE retry_of IS NOT NULL ORDER BY 1")
    assert retries == [(2,), (3,)]
    assert "No stop has failed" in member.get("/failures").text
    assert member.get("/failures?retried=yes").text.count("What was tried") == 5
    again = member.post("/failures/retry", fields_of(confirm, "/failures/retry"))
    assert "0 of 5 stops tried again" in again.text
    assert "in progress" in again.text
    assert len(rows(clean, "SELECT id FROM stop_batches")) == 4


def test_stops_that_one_may_not_see_are_not_tried(
    stranger: Browser, clean: Engine, failed: list[str]
) -> None:
    answer = stranger.post("/failures/retry", {"stop": [*failed, str(uuid4())], "confirmed": "yes"})
    assert answer.text.count("no stop task") == 6
    assert rows(clean, "SELECT count(*) FROM stop_batches") == [(2,)]
    for wrong in ([], ["x"], [str(uuid4()) for _ in range(51)]):
        assert stranger.post("/failures/retry", {"stop": wrong}).status_code == 422


def test_the_way_back_leads_nowhere_else(stranger: Browser) -> None:
    for back in ("//evil.example", "javascript:alert(1)", "https://evil.example"):
        for confirmed in ("yes", ""):
            fields = {"stop": str(uuid4()), "back": back, "confirmed": confirmed}
            page = stranger.post("/failures/retry", fields)
            assert page.status_code == 200
            assert back not in page.text


def test_stops_of_another_batch_are_not_tried_with_one(
    clean: Engine, failed: list[str], world: World, settings: Settings
) -> None:
    with driver_transaction(clean) as connection:
        caller = authenticate(connection, world.member_key)
    [(small,)] = rows(clean, "SELECT id FROM stop_batches WHERE total = 2")
    with pytest.raises(NotFoundError), transaction(clean) as session:
        ids = [UUID(failed[0])]
        retry_some(session, caller, small, ids, request_id="a test", settings=settings)
    assert rows(clean, "SELECT count(*) FROM stop_batches") == [(2,)]


def test_a_batch_says_why_its_stops_wait(member: Browser, clean: Engine, failed: list[str]) -> None:
    with transaction(clean) as session:
        session.execute(text("UPDATE stop_tasks SET state = 'scheduled', finished_at = NULL"))
    [(batch_id,)] = rows(clean, "SELECT id FROM stop_batches WHERE total = 3")
    page = member.get(f"/batches/{batch_id}").text
    assert len(failed) == 5
    assert "Will be tried again" in page
    assert re.search("<strong>3 .</strong> <code class=.code.>host_unreachable</code>", page)
    assert "Cancel what no worker has yet" in page


def test_filters_that_cannot_be(member: Browser) -> None:
    for query in ("error_code=x", "accepted_from=yesterday", "accepted_before=2026-13-01T00:00"):
        answer = member.get(f"/failures?{query}")
        assert answer.status_code == 422
        assert "is wanted" in answer.text
    assert member.get("/cvms?drifted=maybe").status_code == 422
    assert member.get("/batches?cursor=nonsense").status_code == 400
    assert member.get("/failures?error_code=&host=&accepted_from=&retried=x").status_code == 200


def test_a_batch_and_a_stop_are_tried_again_and_canceled(
    member: Browser, clean: Engine, failed: list[str]
) -> None:
    [(batch_id,)] = rows(clean, "SELECT id FROM stop_batches WHERE total = 3")
    page = member.get(f"/batches/{batch_id}").text
    assert "Try 3 failed stops again" in page
    answer = member.post(f"/batches/{batch_id}/retry")
    [(retry_id,)] = rows(clean, "SELECT id FROM stop_batches WHERE retry_of IS NOT NULL")
    assert answer.headers["location"] == f"/batches/{retry_id}?retried=3"
    assert "0 of 3 stops tried again" in member.post(f"/batches/{batch_id}/retry").text
    answer = member.post(f"/batches/{retry_id}/cancel")
    assert "3 stops canceled" in member.get(answer.headers["location"]).text
    stop_id = failed[-1]
    assert "Try again" in member.get(f"/stops/{stop_id}").text
    answer = member.post(f"/stops/{stop_id}/retry")
    assert answer.headers["location"].endswith("?retried=1")
    assert "tried again by" in member.get(f"/stops/{stop_id}").text.lower()
    [(newest,)] = rows(clean, "SELECT id FROM stop_tasks ORDER BY accepted_at DESC LIMIT 1")
    answer = member.post(f"/stops/{newest}/cancel")
    assert "Canceled." in member.get(answer.headers["location"]).text
    answer = member.post(f"/stops/{newest}/cancel")
    assert "Not canceled" in member.get(answer.headers["location"]).text


def test_lists_go_on_from_page_to_page(member: Browser, clean: Engine, world: World) -> None:
    with transaction(clean) as session:
        workspace_id = session.scalars(
            select(Cvm.workspace_id).where(Cvm.hash_id == world.ours[0])
        ).one()
        session.add_all(
            Cvm(hash_id=f"cvm_more_{n}", name="more", workspace_id=workspace_id, status="unknown")
            for n in range(150)
        )
    seen: list[str] = []
    path = "/cvms?status=unknown&host="
    while path:
        page = member.get(path).text
        seen += re.findall(r'href="/cvms/(cvm_more_\d+)"', page)
        following = re.search(r'href="([^"]+)" rel="next"', page)
        path = unescape(following[1]) if following else ""
    assert len(seen) == len(set(seen)) == 150
