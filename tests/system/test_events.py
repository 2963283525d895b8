"""A batch followed over server-sent events: real workers stop it, and its connection is cut."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from pydantic import SecretStr

from shared.settings import ApiSettings
from tests.support.api_process import ApiProcess, api_process
from tests.support.event_reader import EventReader


if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.system.running_stack import RunningStack

SIZE = 50


@pytest.fixture
def other_api(stack: RunningStack, tmp_path: Path) -> Iterator[ApiProcess]:
    """Run a second process of the API on the stack's database."""
    facts = stack.facts
    settings = ApiSettings(
        database_url=SecretStr(facts["database_url"]), broker_url=SecretStr(facts["broker_url"])
    )
    with api_process(settings, tmp_path) as running:
        yield running


def test_every_change_arrives_once_though_the_connection_is_cut(
    stack: RunningStack, other_api: ApiProcess
) -> None:
    cvm_ids = stack.cvm_ids("acme")[:SIZE]
    stack.start_vms(cvm_ids)
    stack.change_hosts(stop_seconds=1.0)
    try:
        batch_id, answer = stack.batch_stop(cvm_ids, "user_key")
        assert answer["stopped"] == SIZE
        reader = EventReader(stack.facts["user_key"], batch_id)
        # Cut while it is told what was, amid changes, and late; every other one goes elsewhere.
        for number, most in enumerate((SIZE - 13, 40, 29, None)):
            api_url = other_api.url if number % 2 else stack.facts["api_url"]
            ended = reader.follow(api_url, most=most)
            assert ended is (most is None)
    finally:
        stack.change_hosts(stop_seconds=0.05)
    assert reader.ended
    assert reader.events[-1].data["counts"]["succeeded"] == SIZE
    rows = stack.rows(
        "SELECT stop_task_id::text, state, attempt, error_code FROM stop_changes"
        " WHERE batch_id = %s ORDER BY id",
        batch_id,
    )
    accepted = stack.rows(
        "SELECT id::text, 'scheduled', 0, NULL FROM stop_tasks WHERE batch_id = %s", batch_id
    )
    assert len(accepted) == SIZE
    assert len(rows) >= 2 * SIZE
    assert sorted(reader.steps, key=str) == sorted([*rows, *accepted], key=str)
    for task, *_ in accepted:
        assert [step for step in reader.steps if step[0] == task][1:] == [
            row for row in rows if row[0] == task
        ]
    # Whoever has seen the end is told that there is nothing more.
    assert reader.follow(other_api.url)
    assert reader.statuses == [200, 200, 200, 200, 204]
