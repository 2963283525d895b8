from __future__ import annotations

import json
import re
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import func, select

from cli.stack.data_dir import DataDir
from cli.stack.simulation import EMPTY, cvm_id, ensure_key, provision, simulated, write_vms
from shared.database import driver_of
from shared.exceptions import StackError
from shared.sealing import Sealer
from shared.services.access import revoke_key, revoke_user
from shared.services.authentication import authenticate
from shared.tables import Cvm, User, VmHost, Workspace


if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy.orm import Session

    from shared.settings import Settings


def test_ids_are_alike_and_never_the_same() -> None:
    ids = [cvm_id(number) for number in range(50_000)]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"cvm_[0-9a-z]{8}", each) for each in ids)
    assert cvm_id(0) == ids[0]


def test_half_of_them_each_workspace_and_a_third_each_host() -> None:
    records = list(simulated(200).records())
    assert Counter(record.workspace for record in records) == {"acme": 100, "globex": 100}
    by_host = Counter(record.host for record in records)
    assert sorted(by_host.values()) == [66, 66, 68]


def test_a_larger_number_only_adds() -> None:
    assert list(simulated(200).records())[:50] == list(simulated(50).records())


def test_hosts_get_their_vms(tmp_path: Path) -> None:
    directory, inventory = DataDir(tmp_path), simulated(7)
    directory.prepare()
    write_vms(directory, inventory)
    written = {
        host.name: [
            json.loads(line)["id"] for line in host.vms_file(directory).read_text().splitlines()
        ]
        for host in inventory.hosts
    }
    expected: dict[str, list[str | None]] = {host.name: [] for host in inventory.hosts}
    for record in inventory.records():
        expected[str(record.host)].append(record.vm_uuid)
    assert written == expected


def test_provisioning_again_changes_only_addresses(session: Session, settings: Settings) -> None:
    inventory, sealer = simulated(12), Sealer(settings.sealing_keys)
    for port in (1, 2):
        addresses = {host.name: f"http://127.0.0.1:{port}" for host in inventory.hosts}
        provision(session, sealer, inventory, addresses)
    counts = [
        session.scalar(select(func.count()).select_from(table))
        for table in (Workspace, User, VmHost, Cvm)
    ]
    assert counts == [2, 2, 3, 12]
    assert set(session.scalars(select(VmHost.address))) == {"http://127.0.0.1:2"}
    assert set(session.scalars(select(Cvm.status))) == {"running"}


def test_keys_are_kept_as_long_as_they_work(session: Session, settings: Settings) -> None:
    provision(session, Sealer(settings.sealing_keys), EMPTY, {})
    label, key = ensure_key(session, {}, user="user", workspace="default")
    assert label == "user@default"
    holder = session.get_one(User, authenticate(driver_of(session), key).user_id)
    assert holder.name == "user"
    assert ensure_key(session, {label: key}, user="user", workspace="default") == (label, key)
    revoke_key(session, key[:12])
    assert ensure_key(session, {label: key}, user="user", workspace="default")[1] != key


def test_a_revoked_user_gets_no_key(session: Session, settings: Settings) -> None:
    provision(session, Sealer(settings.sealing_keys), EMPTY, {})
    revoke_user(session, "user")
    with pytest.raises(StackError, match=r"user user, .* begin anew with another --data-dir"):
        ensure_key(session, {}, user="user", workspace="default")
