"""`/api/v1/webhooks` over HTTP: who may add what, what is shown, and what is refused."""

from __future__ import annotations

import hashlib
import hmac
import json
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import httpx
import pytest
from pydantic import SecretStr
from sqlalchemy import select, text

from api.main import create_app
from shared.database import transaction
from shared.exceptions import SettingsError, UnusableUrlError
from shared.models.webhooks import EVENTS, sign
from shared.services.webhooks import TESTS_A_MINUTE
from shared.settings import ApiSettings
from shared.tables import Webhook, WebhookDelivery
from tests.support.served_api import served_api


if TYPE_CHECKING:
    from sqlalchemy import Engine

    from shared.settings import Settings
    from tests.api.conftest import World

PATH = "/api/v1/webhooks"
URL = "http://127.0.0.1:9999/told?token=t"


def add(client: httpx.Client, **body: Any) -> dict[str, Any]:
    answer = client.post(PATH, json={"url": URL, **body})
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


@pytest.fixture
def stranger(api_url: str, world: World) -> Any:
    with httpx.Client(base_url=api_url, headers={"X-API-Key": world.stranger_key}) as made:
        yield made


def test_the_secret_is_shown_once_and_stored_sealed(client: httpx.Client, clean: Engine) -> None:
    made = add(client)
    secret = made.pop("secret")
    assert secret.startswith("whsec_")
    assert len(secret) > 40
    assert made["events"] == list(EVENTS)
    assert (made["workspace"], made["user"], made["enabled"]) == ("acme", "alice", True)
    one = client.get(f"{PATH}/{made['id']}")
    assert one.json() == made
    assert client.get(PATH).json() == {"items": [made], "next_cursor": None}
    with transaction(clean) as session:
        (row,) = session.scalars(select(Webhook))
        assert secret.encode() not in row.sealed_secret


def test_each_has_a_secret_of_its_own(client: httpx.Client) -> None:
    assert add(client)["secret"] != add(client)["secret"]


def test_signatures_are_as_documented() -> None:
    """By another computation than the product's."""
    body = '{"a": "ü"}'
    wanted = hmac.new(b"whsec_x", b"1700000000." + body.encode(), hashlib.sha256).hexdigest()
    assert sign(SecretStr("whsec_x"), 1_700_000_000, body) == f"sha256={wanted}"


@pytest.mark.parametrize(
    "url",
    [
        "https://10.0.0.1/",
        "https://169.254.169.254/latest/meta-data",
        "https://[::1]/",
        "https://[::ffff:10.0.0.1]/",
        "https://2852039166/",
        "ftp://127.0.0.1/",
        "https://user:pass@127.0.0.1/",
        "https://127.0.0.1:22/",
        "nonsense",
    ],
)
def test_urls_that_are_refused(client: httpx.Client, url: str) -> None:
    made = add(client)
    for answer in (
        client.post(PATH, json={"url": url}),
        client.patch(f"{PATH}/{made['id']}", json={"url": url}),
    ):
        assert answer.status_code == 400, answer.text
        assert answer.json()["error"] == "unusable_url"
        assert url not in answer.text


def test_without_the_settings_neither_http_nor_this_machine(settings: Settings) -> None:
    """The API of the other tests is let through to it."""
    app = create_app(settings)
    targets = app.state.parts.webhook_targets
    for url in (URL, "https://127.0.0.1:9999/"):
        with pytest.raises(UnusableUrlError, match=r"https://|public"):
            targets.check(url)
    app.state.parts.close()


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"url": 5},
        {"url": ""},
        {"url": "https://" + "a" * 3000},
        {"url": URL, "events": []},
        {"url": URL, "events": ["cvm.started"]},
        {"url": URL, "events": ["webhook.test"]},
        {"url": URL, "secret": "mine"},
    ],
)
def test_bodies_that_are_refused(client: httpx.Client, body: dict[str, Any]) -> None:
    assert client.post(PATH, json=body).status_code == 422


def test_a_workspace_has_so_many(client: httpx.Client, admin: httpx.Client) -> None:
    """Also when they come at once; admins' are counted by themselves."""
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: client.post(PATH, json={"url": URL}), range(14)))
    assert [answer.status_code for answer in answers].count(201) == 10
    refused = next(answer for answer in answers if answer.status_code != 201)
    assert (refused.status_code, refused.json()["error"]) == (409, "webhook_refused")
    assert "10 webhooks" in refused.json()["detail"]
    add(admin)


def test_changes(client: httpx.Client) -> None:
    made = add(client, events=["batch.finished"])
    path = f"{PATH}/{made['id']}"
    events = ["cvm.stop.failed", "cvm.stop.failed"]
    changed = client.patch(path, json={"events": events, "url": "http://127.0.0.2:8000/"})
    assert changed.json()["events"] == ["cvm.stop.failed"]
    assert changed.json()["url"] == "http://127.0.0.2:8000/"
    off = client.patch(path, json={"enabled": False}).json()
    assert (off["enabled"], off["events"]) == (False, ["cvm.stop.failed"])
    assert off["disabled_at"] is not None
    assert client.post(f"{path}/test").status_code == 409
    assert client.patch(path, json={"enabled": True}).json()["disabled_at"] is None
    assert client.patch(path, json={}).status_code == 200
    assert client.patch(path, json={"enabled": "yes"}).status_code == 422
    assert client.delete(path).status_code == 204
    assert client.delete(path).status_code == 404


class TestWhoSeesWhat:
    def test_an_admin_sees_all_and_may_name_a_workspace(
        self, client: httpx.Client, admin: httpx.Client, stranger: httpx.Client
    ) -> None:
        ids = [add(client)["id"], add(stranger)["id"], add(admin, workspace="globex")["id"]]
        assert [each["id"] for each in admin.get(PATH).json()["items"]] == ids[::-1]
        only = admin.get(PATH, params={"workspace": "globex"}).json()["items"]
        assert [each["id"] for each in only] == ids[:0:-1]
        assert [each["id"] for each in client.get(PATH).json()["items"]] == ids[:1]

    def test_an_admins_is_shown_to_admins_only(
        self, client: httpx.Client, admin: httpx.Client
    ) -> None:
        """It is told of admins' batches (decision 0007)."""
        path = f"{PATH}/{add(admin)['id']}"
        assert client.get(PATH).json()["items"] == []
        for method, rest in (
            ("GET", ""),
            ("PATCH", ""),
            ("DELETE", ""),
            ("GET", "/deliveries"),
            ("POST", "/test"),
        ):
            body = {"enabled": False} if method == "PATCH" else None
            assert client.request(method, path + rest, json=body).status_code == 404
        assert admin.get(path).json()["enabled"] is True

    @pytest.mark.parametrize("name", ["globex", "nowhere"])
    def test_a_member_names_no_other_workspace(self, client: httpx.Client, name: str) -> None:
        answer = client.post(PATH, json={"url": URL, "workspace": name})
        assert answer.status_code == 404
        assert answer.json()["detail"] == f"no workspace {name}"
        assert add(client, workspace="acme")["workspace"] == "acme"

    def test_a_foreign_webhooks_delivery_is_not_sent_again(
        self, client: httpx.Client, stranger: httpx.Client, clean: Engine
    ) -> None:
        mine, theirs = add(client)["id"], add(stranger)["id"]
        delivery = stranger.post(f"{PATH}/{theirs}/test").json()["id"]
        with transaction(clean) as session:
            session.execute(text("UPDATE webhook_deliveries SET state = 'failed'"))
        for webhook in (mine, theirs):
            path = f"{PATH}/{webhook}/deliveries/{delivery}/redeliver"
            assert client.post(path).status_code == 404
        with transaction(clean) as session:
            assert session.scalars(select(WebhookDelivery.state)).one() == "failed"


class TestDeliveries:
    def test_pages_and_states(self, client: httpx.Client, clean: Engine) -> None:
        path = f"{PATH}/{add(client)['id']}"
        ids = [client.post(f"{path}/test").json()["id"] for _ in range(5)]
        with transaction(clean) as session:
            session.execute(
                text("UPDATE webhook_deliveries SET state = 'failed' WHERE id = :id"),
                {"id": ids[2]},
            )
        found: list[str] = []
        cursor: dict[str, str] = {}
        while True:
            page = client.get(f"{path}/deliveries", params={"limit": 2, **cursor}).json()
            found += [each["id"] for each in page["items"]]
            if page["next_cursor"] is None:
                break
            cursor = {"cursor": page["next_cursor"]}
        assert found == ids[::-1]
        failed = client.get(f"{path}/deliveries", params={"state": "failed"}).json()["items"]
        assert [each["id"] for each in failed] == [ids[2]]
        assert client.get(f"{path}/deliveries", params={"cursor": "x"}).status_code == 400
        assert client.get(f"{path}/deliveries", params={"state": "x"}).status_code == 422

    def test_a_test(self, client: httpx.Client) -> None:
        made = add(client)
        sent = client.post(f"{PATH}/{made['id']}/test").json()
        body = json.loads(sent["body"])
        assert (body["event"], body["id"]) == ("webhook.test", sent["event_id"])
        assert body["data"] == {"webhook_id": made["id"]}
        assert body["workspace"]["name"] == "acme"
        assert (sent["state"], sent["attempts"], sent["batch_id"]) == ("pending", 0, None)

    def test_so_many_a_minute(self, client: httpx.Client, clean: Engine) -> None:
        path = f"{PATH}/{add(client)['id']}/test"
        with ThreadPoolExecutor(4) as several:
            asked = range(TESTS_A_MINUTE + 4)
            statuses = list(several.map(lambda _: client.post(path).status_code, asked))
        assert sorted(statuses) == [200] * TESTS_A_MINUTE + [409] * 4
        assert client.post(f"{PATH}/{add(client)['id']}/test").status_code == 200
        with transaction(clean) as session:
            moved = "UPDATE webhook_deliveries SET created_at = now() - interval '1 minute'"
            session.execute(text(moved))
        assert client.post(path).status_code == 200

    def test_only_what_has_ended_is_sent_again(self, client: httpx.Client, clean: Engine) -> None:
        path = f"{PATH}/{add(client)['id']}"
        delivery = client.post(f"{path}/test").json()
        again = f"{path}/deliveries/{delivery['id']}/redeliver"
        assert client.post(again).status_code == 409
        with transaction(clean) as session:
            session.execute(text("UPDATE webhook_deliveries SET state = 'failed', failures = 4"))
        sent = client.post(again).json()
        assert (sent["state"], sent["event_id"], sent["body"]) == (
            "pending",
            delivery["event_id"],
            delivery["body"],
        )
        assert client.post(f"{path}/deliveries/{uuid4()}/redeliver").status_code == 404


def test_where_webhooks_are_off(api_settings: Settings, world: World) -> None:
    settings = api_settings.model_copy(update={"webhook_keys": None})
    with (
        served_api(create_app(settings)) as url,
        httpx.Client(base_url=url, headers={"X-API-Key": world.member_key}) as client,
    ):
        answer = client.post(PATH, json={"url": URL})
        assert answer.status_code == 409
        assert "CVMSTOP_WEBHOOK_KEYS is not set" in answer.json()["detail"]
        assert client.get(PATH).json()["items"] == []


def test_keys_that_are_none(settings: Settings) -> None:
    wrong = settings.model_copy(update={"webhook_keys": SecretStr("not-a-key")})
    with pytest.raises(SettingsError, match="CVMSTOP_WEBHOOK_KEYS: not a Fernet key") as caught:
        create_app(wrong)
    assert "not-a-key" not in str(caught.value)


@pytest.mark.parametrize("networks", ["10.0.0.1/8", "nowhere", "10.0.0.0/33"])
def test_networks_that_are_none(monkeypatch: pytest.MonkeyPatch, networks: str) -> None:
    monkeypatch.setenv("CVMSTOP_DATABASE_URL", "postgresql://host/name")
    monkeypatch.setenv("CVMSTOP_BROKER_URL", "redis://host/0")
    monkeypatch.setenv("CVMSTOP_WEBHOOK_ALLOWED_NETWORKS", networks)
    with pytest.raises(SettingsError, match="CVMSTOP_WEBHOOK_ALLOWED_NETWORKS: not networks"):
        ApiSettings.load()


def test_empty_keys_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CVMSTOP_DATABASE_URL", "postgresql://host/name")
    monkeypatch.setenv("CVMSTOP_BROKER_URL", "redis://host/0")
    monkeypatch.setenv("CVMSTOP_WEBHOOK_KEYS", " ")
    assert ApiSettings.load().webhook_keys is None
