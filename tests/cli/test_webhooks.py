"""`cvmstop webhooks` against a real API on a real port."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text
from structlog.testing import capture_logs

from api.main import create_app
from shared.database import transaction
from tests.cli.conftest import Cvmstop
from tests.support.seeds import make_key, make_user, make_workspace
from tests.support.served_api import served_api


if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Engine

    from shared.settings import Settings

URL = "http://127.0.0.1:9999/told"


@pytest.fixture(scope="module")
def api_url(settings: Settings) -> Iterator[str]:
    """Serve the API on a port; its log lines must not get into the commands' output."""
    allowed = {"webhook_allowed_networks": "127.0.0.0/8", "webhook_allow_http": True}
    app = create_app(settings.model_copy(update=allowed))
    with capture_logs(), served_api(app) as url:
        yield url


@pytest.fixture
def run(clean: Engine, api_url: str, monkeypatch: pytest.MonkeyPatch) -> Cvmstop:
    """Run commands as a member."""
    with transaction(clean) as session:
        workspace = make_workspace(session, "acme")
        key = make_key(session, make_user(session, workspace), workspace)[1]
    monkeypatch.setenv("CVMSTOP_API_URL", api_url)
    monkeypatch.setenv("CVMSTOP_API_KEY", key)
    return Cvmstop()


def added(run: Cvmstop, *options: str) -> dict[str, Any]:
    made: dict[str, Any] = json.loads(run.must("webhooks", "add", URL, *options, "--json").out)
    return made


def test_from_adding_to_removing(run: Cvmstop, clean: Engine) -> None:
    outcome = run.must("webhooks", "add", URL)
    secret = outcome.out.strip()
    assert secret.startswith("whsec_")
    (row,) = run.must("webhooks", "list", "--json").rows()
    assert secret not in run.must("webhooks", "list").out
    run.must("webhooks", "test", row["id"])
    (delivery,) = run.must("webhooks", "deliveries", row["id"], "--json").rows()
    assert delivery["event"] == "webhook.test"
    assert "webhook.test" in run.must("webhooks", "deliveries", row["id"]).out
    assert run("webhooks", "redeliver", row["id"], delivery["id"]).status == 1
    with transaction(clean) as session:
        session.execute(text("UPDATE webhook_deliveries SET state = 'failed', last_error = 'no'"))
    failed = run.must("webhooks", "deliveries", row["id"], "--state", "failed").out
    assert delivery["id"] in failed
    out = run.must("webhooks", "redeliver", row["id"], delivery["id"]).out
    assert out == "to be sent again: 1\n"
    run.must("webhooks", "disable", row["id"])
    assert run.must("webhooks", "list", "--json").rows()[0]["enabled"] is False
    run.must("webhooks", "enable", row["id"])
    run.must("webhooks", "remove", row["id"])
    assert run.must("webhooks", "list").err == "there are no webhooks for this key\n"


def test_json_of_what_was_added(run: Cvmstop) -> None:
    made = added(run, "--event", "batch.finished", "--workspace", "acme")
    assert made["events"] == ["batch.finished"]
    assert made["secret"].startswith("whsec_")
    out = run.must("webhooks", "test", made["id"], "--json").out
    assert json.loads(out)["state"] == "pending"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("add", "https://10.0.0.1/"), "answered 400: the URL cannot be used"),
        (("add", URL, "--event", "nonsense"), "answered 422: events"),
        (("add", URL, "--workspace", "other"), "answered 404: no workspace other"),
        (("remove", "nonsense"), "'nonsense' is not the id of a webhook; `cvmstop webhooks list`"),
        (("deliveries", "00000000-0000-4000-8000-000000000000"), "answered 404: no webhook"),
    ],
)
def test_what_is_refused_is_told_in_a_line(
    run: Cvmstop, arguments: tuple[str, ...], words: str
) -> None:
    outcome = run("webhooks", *arguments)
    assert outcome.status == 1
    assert words in outcome.err
    assert outcome.err.count("\n") == 1
