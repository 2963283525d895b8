"""Pages' words for how things stand: none that reads as well what is not."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from uuid import uuid4

from sqlalchemy import text, update

from shared.database import transaction
from shared.tables import VmHost
from tests.api.pages.conftest import Reader


if TYPE_CHECKING:
    from sqlalchemy import Engine

    from tests.api.conftest import World
    from tests.api.pages.conftest import Browser


def said(browser: Browser, path: str) -> str:
    answer = browser.get(path)
    assert answer.status_code == 200
    return " ".join(Reader(answer.text).text.split()).replace(" ,", ",")


def stop(browser: Browser, *cvm_ids: str) -> str:
    """Give where its batch is."""
    answer = browser.post("/new", {"ids": " ".join(cvm_ids), "once": str(uuid4())})
    assert answer.status_code == 303
    return answer.headers["location"].partition("?")[0]


def test_a_batch_of_which_all_was_refused(clean: Engine, member: Browser) -> None:  # noqa: ARG001 - emptied
    batch = stop(member, "cvm_none", "cvm_neither")
    for path in ("/", "/batches"):
        assert "2 refused, nothing to stop" in said(member, path)
    assert "All that were asked for were refused" in said(member, batch)


def test_each_end_has_its_word_and_each_cvm_is_counted(
    clean: Engine, member: Browser, world: World
) -> None:
    batch = stop(member, *world.ours[:3], "cvm_none")
    with transaction(clean) as session:
        stop_id = session.execute(text("SELECT id FROM stop_tasks LIMIT 1")).scalar_one()
    member.post(f"/stops/{stop_id}/cancel")
    for path in ("/", "/batches"):
        assert re.search(r"1 canceled, 2 open 4 3 \u2013 1\b", said(member, path))
    assert "4: 3 accepted, 0 skipped, 1 refused" in said(member, batch)
    member.post(f"{batch}/cancel")
    assert "3 canceled" in said(member, "/batches")


def test_a_stop_that_ended_before_a_worker_took_it(
    clean: Engine, member: Browser, world: World
) -> None:
    stop(member, *world.ours[:1])
    with transaction(clean) as session:
        stop_id = session.execute(text("SELECT id FROM stop_tasks")).scalar_one()
    assert "No worker has taken it yet." in said(member, f"/stops/{stop_id}")
    member.post(f"/stops/{stop_id}/cancel")
    page = said(member, f"/stops/{stop_id}")
    assert "No worker took it before it ended: it was canceled" in page
    assert "yet" not in page
    with transaction(clean) as session:
        session.execute(
            text(
                "UPDATE stop_tasks SET state = 'failed', error_code = 'deadline_exceeded',"
                " error_message = 'not tried before its deadline'"
            )
        )
    page = said(member, f"/stops/{stop_id}")
    assert "No worker took it before it ended: not tried before its deadline" in page
    overview = said(member, "/")
    assert re.search(r"\b1 failed, not tried again", overview)
    assert "accepted last" in said(member, "/failures")


def test_a_host_that_answers_again_has_no_old_error(clean: Engine, boss: Browser) -> None:
    def become(**values: object) -> str:
        with transaction(clean) as session:
            session.execute(update(VmHost).values(**values))
        return said(boss, "/")

    away = {"unreachable_since": text("now()"), "unreachable_count": 5}
    assert "no route" in become(last_error="no route", **away)
    back = {"unreachable_since": None, "unreachable_count": 0}
    assert "no route" not in become(**back)
    page = become(sync_error="not asked: its breaker is open", synced_at=text("now()"))
    assert "the last reading of its VM list failed: not asked" in page


def test_a_preview_marks_what_is_down(clean: Engine, member: Browser, world: World) -> None:
    with transaction(clean) as session:
        session.execute(text("UPDATE cvms SET status = 'running'"))
        session.execute(
            text("UPDATE cvms SET status = 'stopped' WHERE hash_id = :id"), {"id": world.ours[0]}
        )
    answer = member.post("/new/preview", {"ids": " ".join(world.ours[:3])})
    page = " ".join(Reader(answer.text).text.split())
    assert "1 of those to stop was not running when last seen." in page
    assert page.count("not running") == 2
