"""Who gets what from every page, and that it is no more than the API gives."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import uuid4

import pytest
from fastapi.routing import iter_route_contexts
from sqlalchemy import text

from api.main import create_app
from api.pages.page_route import OpenPage
from shared.database import transaction


if TYPE_CHECKING:
    from sqlalchemy import Engine

    from shared.settings import Settings
    from tests.api.conftest import World
    from tests.api.pages.conftest import Browser

OPEN = {"GET /sign-in", "POST /sign-in", "GET /static/{name}"}
"""For everybody."""

OWN = {
    "GET /",
    "GET /batches",
    "GET /failures",
    "GET /cvms",
    "GET /new",
    "POST /new",
    "POST /new/preview",
    "POST /failures/retry",
    "POST /sign-out",
}
"""For whoever is signed in: each their own."""

ONE = {
    "GET /batches/{batch_id}",
    "GET /batches/{batch_id}/events",
    "GET /stops/{stop_task_id}",
    "GET /cvms/{cvm_id}",
    "POST /batches/{batch_id}/retry",
    "POST /batches/{batch_id}/cancel",
    "POST /stops/{stop_task_id}/retry",
    "POST /stops/{stop_task_id}/cancel",
}
"""Of one thing: 404 for who may not see it."""


@pytest.fixture
def ids(clean: Engine, member: Browser, world: World) -> dict[str, str]:
    """Let the member stop a CVM, by the form."""
    answer = member.post("/new", {"ids": world.ours[0], "once": str(uuid4())})
    assert answer.status_code == 303
    with transaction(clean) as session:
        [(batch_id, stop_id)] = session.execute(text("SELECT batch_id, id FROM stop_tasks"))
    return {"batch_id": str(batch_id), "stop_task_id": str(stop_id), "cvm_id": world.ours[0]}


def ask(browser: Browser, route: str, ids: dict[str, str]) -> tuple[int, str]:
    method, path = route.format(**ids).split(" ")
    answer = browser.get(path) if method == "GET" else browser.post(path)
    return answer.status_code, answer.text


def test_the_tables_have_every_page(settings: Settings) -> None:
    app = create_app(settings)
    app.state.parts.close()
    found = {
        f"{method} {route.path}"
        for route in iter_route_contexts(app.routes)
        for method in route.methods or ()
        if method != "HEAD" and isinstance(route.original_route, OpenPage)
    }
    assert found == OPEN | OWN | ONE


@pytest.mark.parametrize("route", sorted(OWN | ONE))
def test_nobody_is_asked_to_sign_in(nobody: Browser, ids: dict[str, str], route: str) -> None:
    method, path = route.format(**ids).split(" ")
    answer = nobody.get(path) if method == "GET" else nobody.post(path, token="")
    assert answer.status_code == 303
    assert answer.headers["location"].startswith("/sign-in")
    assert answer.text == ""


@pytest.mark.parametrize("route", sorted(ONE))
def test_a_foreign_thing_is_as_unknown_as_one_that_is_not(
    stranger: Browser, ids: dict[str, str], route: str
) -> None:
    nowhere = {name: str(uuid4()) for name in ids}
    answers = []
    for each in (ids, nowhere):
        status, page = ask(stranger, route, each)
        for value in each.values():
            page = page.replace(value, "the id that was asked for")
        answers.append((status, page))
    assert answers[0][0] == 404
    assert answers[0] == answers[1]


@pytest.mark.parametrize("route", sorted(route for route in ONE if "events" not in route))
@pytest.mark.parametrize("who", ["member", "boss"])
def test_who_may_see_it_does(
    request: pytest.FixtureRequest, ids: dict[str, str], route: str, who: str
) -> None:
    browser: Browser = request.getfixturevalue(who)
    status, _ = ask(browser, route, ids)
    assert status in {200, 303}


def test_members_do_not_see_batches_of_admins(
    member: Browser, boss: Browser, clean: Engine, world: World
) -> None:
    boss.post("/new", {"ids": f"{world.ours[1]} {world.theirs[0]}", "once": str(uuid4())})
    with transaction(clean) as session:
        batch_id = session.execute(text("SELECT id FROM stop_batches")).scalar_one()
    assert member.get(f"/batches/{batch_id}").status_code == 404
    assert boss.get(f"/batches/{batch_id}").status_code == 200
    assert world.theirs[0] in boss.get(f"/batches/{batch_id}").text


def test_lists_have_nothing_of_others(stranger: Browser, ids: dict[str, str], world: World) -> None:
    for path in ("/", "/batches", "/failures", "/cvms", "/cvms?workspace=acme"):
        page = stranger.get(path)
        assert page.status_code == 200
        for foreign in (*ids.values(), *world.ours[:5], "alice"):
            assert foreign not in page.text


def test_a_preview_tells_nothing_of_others(stranger: Browser, world: World) -> None:
    """Stoppable, busy, without a VM, rented, or not there: all the same."""
    asked = [world.ours[1], world.busy, world.without_vm, world.rented, "cvm_none"]
    pages = set()
    for cvm_id in asked:
        page = stranger.post("/new/preview", {"ids": cvm_id}).text
        pages.add(page.replace(cvm_id, "asked"))
    assert len(pages) == 1
    assert "CVM not found" in pages.pop()


def test_a_member_may_not_act_on_an_admins_stop(
    member: Browser, boss: Browser, clean: Engine, world: World
) -> None:
    boss.post("/new", {"ids": world.ours[1], "once": str(uuid4())})
    with transaction(clean) as session:
        stop_id = session.execute(text("SELECT id FROM stop_tasks")).scalar_one()
    assert member.get(f"/stops/{stop_id}").status_code == 200
    answer = member.post(f"/stops/{stop_id}/cancel")
    assert answer.status_code == 403
    assert "only an admin" in answer.text


def test_ids_that_are_none(member: Browser) -> None:
    for path in ("/batches/x", "/stops/%00", "/cvms/%00", "/cvms/cvm_%ff", "/stops/1"):
        assert member.get(path).status_code == 404
