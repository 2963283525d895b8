from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from cryptography.fernet import Fernet
from sqlalchemy import select, update

from shared.database import driver_of, transaction
from shared.exceptions import AuthenticationError
from shared.services.authentication import authenticate
from shared.tables import ApiKey


if TYPE_CHECKING:
    from sqlalchemy import Engine

    from tests.cli.conftest import Cvmstop, Outcome


@pytest.fixture
def alice(cvmstop: Cvmstop) -> Cvmstop:
    """A workspace `blue` with a member `alice`, and a workspace `red`."""
    cvmstop.must("workspaces", "create", "blue")
    cvmstop.must("workspaces", "create", "red")
    cvmstop.must("users", "create", "alice", "--workspace", "blue")
    return cvmstop


def make_key(cvmstop: Cvmstop, *options: str, user: str = "alice") -> str:
    arguments = ["keys", "create", "--user", user, "--workspace", "blue", *options]
    return cvmstop.must(*arguments).out.removesuffix("\n")


def works(engine: Engine, key: str) -> bool:
    with transaction(engine) as session:
        try:
            authenticate(driver_of(session), key)
        except AuthenticationError:
            return False
        return True


def is_told(outcome: Outcome, *, status: int, text: str) -> bool:
    return outcome.status == status and text in outcome.err and outcome.out == ""


def test_a_key_from_scratch(alice: Cvmstop, clean: Engine) -> None:
    outcome = alice.must("keys", "create", "--user", "alice", "--workspace", "blue")
    key = outcome.out.removesuffix("\n")
    assert key.startswith("cvmstop_")
    assert key not in outcome.err
    assert works(clean, key)
    with transaction(clean) as session:
        row = session.scalars(select(ApiKey)).one()
        assert row.expires_at is not None
        assert timedelta(days=89) < row.expires_at - row.created_at <= timedelta(days=90)


def test_key_as_json(alice: Cvmstop, clean: Engine) -> None:
    arguments = ["--json", "--name", "for CI", "--expires-in", "12h"]
    outcome = alice.must("keys", "create", "--user", "alice", "--workspace", "blue", *arguments)
    shown = json.loads(outcome.out)
    assert set(shown) == {"key", "id", "hint", "user", "workspace", "name", "expires_at"}
    assert works(clean, shown["key"])
    expires_at = datetime.fromisoformat(shown["expires_at"])
    assert timedelta(hours=11) < expires_at - datetime.now(UTC) <= timedelta(hours=12)
    assert shown["expires_at"].endswith("Z")


def test_list_shows_no_key(alice: Cvmstop) -> None:
    key = make_key(alice, "--never-expires", "--name", "eternal")
    (row,) = alice.must("keys", "list", "--json").rows()
    assert row["hint"] == key[:12]
    assert (row["user"], row["workspace"], row["name"]) == ("alice", "blue", "eternal")
    assert (row["state"], row["expires_at"], row["revoked_at"]) == ("valid", None, None)
    for listing in (alice.must("keys", "list").out, alice.must("keys", "list", "--json").out):
        assert key[:12] in listing
        assert key not in listing


@pytest.mark.parametrize("duration", ["30", "d", "0d", "-1h", "1y", "99999d", "1.5h", "٣d", ""])
def test_bad_duration(alice: Cvmstop, duration: str) -> None:
    arguments = ["keys", "create", "--user", "alice", "--workspace", "blue"]
    outcome = alice(*arguments, f"--expires-in={duration}")
    assert outcome.status == 2
    assert alice.must("keys", "list", "--json").rows() == []


def test_expires_and_never(alice: Cvmstop) -> None:
    arguments = ["keys", "create", "--user", "alice", "--workspace", "blue"]
    assert alice(*arguments, "--never-expires", "--expires-in", "1d").status == 2


def test_only_members_get_keys(alice: Cvmstop) -> None:
    outcome = alice("keys", "create", "--user", "alice", "--workspace", "red")
    assert is_told(outcome, status=1, text="run `cvmstop users add-to alice red` first")
    alice.must("users", "add-to", "alice", "red")
    alice.must("users", "add-to", "alice", "red")
    alice.must("keys", "create", "--user", "alice", "--workspace", "red")


def test_an_admin_needs_no_membership(alice: Cvmstop, clean: Engine) -> None:
    alice.must("users", "create", "root", "--admin")
    assert works(clean, make_key(alice, user="root"))


def test_leaving_a_workspace(alice: Cvmstop, clean: Engine) -> None:
    key = make_key(alice)
    alice.must("users", "remove-from", "alice", "blue")
    assert not works(clean, key)
    assert alice.must("keys", "list", "--json").rows()[0]["state"] == "not_a_member"
    outcome = alice("users", "remove-from", "alice", "blue")
    assert is_told(outcome, status=1, text="alice is not a member of workspace blue")


def test_revoke_a_key_by_id_and_by_hint(alice: Cvmstop, clean: Engine) -> None:
    first, second = make_key(alice), make_key(alice)
    alice.must("keys", "revoke", first[:12])
    assert (works(clean, first), works(clean, second)) == (False, True)
    rows = alice.must("keys", "list", "--json").rows()
    (key_id,) = [row["id"] for row in rows if row["state"] == "valid"]
    alice.must("keys", "revoke", key_id)
    assert not works(clean, second)
    assert alice.must("keys", "revoke", key_id).out == f"revoked API key {key_id}\n"


def test_ambiguous_hint(alice: Cvmstop, clean: Engine) -> None:
    keys = [make_key(alice), make_key(alice)]
    with transaction(clean) as session:
        session.execute(update(ApiKey).values(hint="cvmstop_same"))
    outcome = alice("keys", "revoke", "cvmstop_same")
    assert is_told(outcome, status=1, text="more than one API key begins with cvmstop_same")
    assert all(works(clean, key) for key in keys)
    row, other = alice.must("keys", "list", "--json").rows()
    assert row["id"] in outcome.err
    alice.must("keys", "revoke", row["id"])
    assert alice.must("keys", "revoke", "cvmstop_same").out == f"revoked API key {other['id']}\n"
    assert not any(works(clean, key) for key in keys)


@pytest.mark.parametrize(
    "key", ["cvmstop_none", "", "\udcff", "3f1c0000-0000-4000-8000-000000000000"]
)
def test_no_such_key(alice: Cvmstop, key: str) -> None:
    outcome = alice("keys", "revoke", key)
    assert outcome.status == 1
    assert outcome.err.startswith("cvmstop: the")


def test_revoke_a_user(alice: Cvmstop, clean: Engine) -> None:
    key = make_key(alice)
    alice.must("users", "revoke", "alice")
    alice.must("users", "revoke", "alice")
    assert not works(clean, key)
    (user,) = alice.must("users", "list", "--json").rows()
    assert user["revoked_at"] is not None
    assert user["valid_keys"] == 0
    assert alice.must("keys", "list", "--json").rows()[0]["state"] == "revoked"
    outcome = alice("keys", "create", "--user", "alice", "--workspace", "blue")
    assert is_told(outcome, status=1, text="user alice is revoked")


def test_revoke_the_keys_of_a_workspace(alice: Cvmstop, clean: Engine) -> None:
    alice.must("users", "add-to", "alice", "red")
    blue = make_key(alice)
    red = alice.must("keys", "create", "--user", "alice", "--workspace", "red").out.strip()
    assert (
        alice.must("workspaces", "revoke", "blue").out
        == "revoked the API keys of workspace blue: 1\n"
    )
    assert (works(clean, blue), works(clean, red)) == (False, True)
    assert (
        alice.must("workspaces", "revoke", "blue").out
        == "revoked the API keys of workspace blue: 0\n"
    )


def test_lists(alice: Cvmstop) -> None:
    alice.must("users", "create", "root", "--admin")
    make_key(alice)
    blue, red = alice.must("workspaces", "list", "--json").rows()
    assert {k: v for k, v in blue.items() if k != "created_at"} == {
        "name": "blue",
        "members": 1,
        "cvms": 0,
        "valid_keys": 1,
    }
    assert (red["name"], red["members"], red["valid_keys"]) == ("red", 0, 0)
    first, second = alice.must("users", "list", "--json").rows()
    assert (first["name"], first["role"], first["workspaces"]) == ("alice", "user", ["blue"])
    assert (second["name"], second["role"], second["workspaces"]) == ("root", "admin", [])
    assert "alice" in alice.must("users", "list").out
    assert "blue" in alice.must("workspaces", "list").out


def test_names_taken_and_missing(alice: Cvmstop) -> None:
    for arguments, text in (
        (["workspaces", "create", "blue"], "there is a workspace blue already"),
        (["users", "create", "alice"], "there is a user alice already"),
        (["users", "create", "bob", "--workspace", "green"], "there is no workspace green"),
        (["users", "revoke", "bob"], "there is no user bob"),
        (["users", "add-to", "alice", "green"], "there is no workspace green"),
        (["keys", "create", "--user", "bob", "--workspace", "blue"], "there is no user bob"),
    ):
        assert is_told(alice(*arguments), status=1, text=text)
    assert [row["name"] for row in alice.must("users", "list", "--json").rows()] == ["alice"]


@pytest.mark.parametrize("name", ["", "a b", "a" * 64, "\udcff", "é", "a\n", "a/b", "*"])
@pytest.mark.parametrize(
    "command", [("workspaces", "create"), ("users", "create"), ("users", "revoke")]
)
def test_bad_names(cvmstop: Cvmstop, command: tuple[str, ...], name: str) -> None:
    outcome = cvmstop(*command, name)
    assert is_told(outcome, status=1, text="1 to 63 of letters, digits, '.', '_' and '-'")


def test_bad_key_name(alice: Cvmstop) -> None:
    arguments = ["keys", "create", "--user", "alice", "--workspace", "blue", "--name"]
    assert is_told(alice(*arguments, "a\udcff"), status=1, text="is not valid UTF-8")
    assert is_told(alice(*arguments, "a\x1b[2J"), status=1, text="has a control character")
    assert is_told(alice(*arguments, "a" * 201), status=1, text="at most 200 are allowed")


def test_sealing_key_needs_no_settings(cvmstop_without_settings: Cvmstop) -> None:
    Fernet(cvmstop_without_settings.must("keys", "sealing-key").out.strip())


def test_empty_lists(cvmstop: Cvmstop) -> None:
    for kind in ("workspaces", "users", "keys", "hosts", "cvms"):
        outcome = cvmstop.must(kind, "list")
        assert outcome.out == ""
        assert outcome.err.startswith("there are no ")
        assert cvmstop.must(kind, "list", "--json").rows() == []
