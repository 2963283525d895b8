"""From a POST to the endpoint that is told, on a whole stack."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support.waiting import eventually
from tests.support.webhook_receiver import webhook_receiver


if TYPE_CHECKING:
    from tests.system.running_stack import RunningStack


def test_members_and_admins_are_told_what_they_may_know(stack: RunningStack) -> None:
    ids = stack.cvm_ids("acme")[:5]
    stack.start_vms(ids)
    with webhook_receiver() as member, webhook_receiver() as admin:
        secrets = []
        for receiver, key in ((member, "user_key"), (admin, "admin_key")):
            with stack.api(key) as client:
                answer = client.post("/api/v1/webhooks", json={"url": receiver.url})
            assert answer.status_code == 201, answer.text
            secrets.append(answer.json()["secret"])
        batch, _ = stack.batch_stop(ids)
        eventually(lambda: len(admin.received) == 6 and len(member.received) == 5)
        assert member.kinds() == ["cvm.stop.succeeded"] * 5
        assert admin.kinds() == ["batch.finished", *member.kinds()]
        own, _ = stack.batch_stop([stack.cvm_ids("acme")[5]], "user_key")
        eventually(lambda: len(admin.received) == len(member.received) + 1 == 8)
    told = {each.body["data"]["cvm_id"] for each in member.received if "cvm" in each.body["event"]}
    assert told == {*ids, stack.cvm_ids("acme")[5]}
    for receiver, secret in ((member, secrets[0]), (admin, secrets[1])):
        assert all(each.is_signed_with(secret) for each in receiver.received)
        assert len(set(receiver.ids())) == len(receiver.received)
    finished = {
        each.body["data"]["batch_id"]
        for each in (*admin.received, *member.received)
        if each.body["event"] == "batch.finished"
    }
    assert finished == {batch, own}
    logs = "".join(path.read_text() for path in (stack.root / "logs").iterdir())
    assert not [secret for secret in secrets if secret in logs]
    assert "in-the-url" not in logs
    assert not stack.rows("SELECT FROM webhook_deliveries WHERE state <> 'delivered'")
    with stack.api() as client:  # or all that follows on this stack would be told
        for each in client.get("/api/v1/webhooks").json()["items"]:
            assert client.delete(f"/api/v1/webhooks/{each['id']}").status_code == 204
