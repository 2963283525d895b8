from __future__ import annotations

import io
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import func, select, text

from shared.database import transaction
from shared.engine import make_engine
from shared.exceptions import ImportRefusedError
from shared.services.cvm_file import CvmFile, FileFormat, read_cvm_file
from shared.services.cvm_import import import_cvms
from shared.storage.cvm_records import IMPORT_LOCK
from shared.tables import Cvm, VmHost
from tests.support.seeds import make_cvm, make_host, make_workspace
from tests.support.waiting import eventually


if TYPE_CHECKING:
    from sqlalchemy import Engine
    from sqlalchemy.orm import Session

    from shared.settings import Settings


def line(
    number: int | str, vm: str | None = None, host: str = "h1", **fields: Any
) -> dict[str, Any]:
    place = {} if vm is None else {"host": host, "vm_uuid": vm}
    return {"id": f"cvm_{number}", "name": f"n{number}", "workspace": "blue", **place, **fields}


def file_of(*lines: dict[str, Any]) -> CvmFile:
    raw = "\n".join(json.dumps(one) for one in lines).encode()
    return read_cvm_file(io.BytesIO(raw), FileFormat.JSONL)


def problems_of(session: Session, *lines: dict[str, Any]) -> list[str]:
    with pytest.raises(ImportRefusedError) as refused:
        import_cvms(session, file_of(*lines))
    return refused.value.problems


def place_of(session: Session, number: int | str) -> tuple[str | None, str | None]:
    host, vm_uuid = session.execute(
        select(VmHost.name, Cvm.vm_uuid)
        .select_from(Cvm)
        .outerjoin(VmHost, VmHost.id == Cvm.vm_host_id)
        .where(Cvm.hash_id == f"cvm_{number}")
    ).one()
    return host, vm_uuid


LIBVIRT_UUID = "4c4c4544-0042-3510-8051-b7c04f4a4d32"


def test_a_uuid_is_written_as_libvirt_lists_it(seeded: Session) -> None:
    """A sync would take the CVM for vanished, and the VM for one that nobody knows."""
    make_host(seeded, name="kvm").driver = "libvirt"
    place = {"workspace": "blue", "host": "kvm", "name": "x"}
    written = LIBVIRT_UUID.upper().replace("-", "")
    import_cvms(seeded, file_of({"id": "cvm_9", **place, "vm_uuid": written}))
    assert place_of(seeded, 9) == ("kvm", LIBVIRT_UUID)
    assert problems_of(
        seeded,
        {"id": "cvm_7", **place, "vm_uuid": LIBVIRT_UUID.upper()},
        {"id": "cvm_8", **place, "vm_uuid": written},
        {"id": "cvm_6", **place, "vm_uuid": "vm-6"},
    ) == [
        f"line 1: vm_uuid {LIBVIRT_UUID} on host kvm belongs to cvm_9 already",
        f"line 2: vm_uuid {LIBVIRT_UUID} on host kvm is in line 1 already",
        f"line 2: vm_uuid {LIBVIRT_UUID} on host kvm belongs to cvm_9 already",
        "line 3: vm_uuid vm-6 is no UUID, as those of host kvm are",
    ]


@pytest.fixture
def seeded(session: Session) -> Session:
    """A workspace `blue`, hosts `h1` and `h2`, CVMs 1 and 2 on `h1`."""
    blue = make_workspace(session, "blue")
    make_workspace(session, "red")
    h1 = make_host(session, name="h1")
    make_host(session, name="h2")
    make_cvm(session, blue, h1, hash_id="cvm_1", vm_uuid="a", gpu_rental_order="order")
    make_cvm(session, blue, h1, hash_id="cvm_2", vm_uuid="b", status="exited")
    session.commit()
    return session


def cvm(session: Session, number: int | str) -> Cvm:
    session.expire_all()
    return session.scalars(select(Cvm).where(Cvm.hash_id == f"cvm_{number}")).one()


def test_new_and_known(seeded: Session) -> None:
    moved = line(1, "z", "h2", workspace="red", name="moved", status="stopped")
    counts = import_cvms(seeded, file_of(moved, line(3), line(4, "d")))
    assert (counts.added, counts.updated) == (2, 1)
    row = cvm(seeded, 1)
    assert (row.name, row.status, row.in_progress) == ("moved", "stopped", False)
    assert place_of(seeded, 1) == ("h2", "z")
    assert place_of(seeded, 3) == (None, None)
    assert place_of(seeded, 4) == ("h1", "d")
    assert cvm(seeded, 4).status == "unknown"


def test_what_is_left_out(seeded: Session) -> None:
    """A lost rental order would let a rented CVM be stopped; a lost host would only spare it."""
    import_cvms(seeded, file_of(line(1), line(2, "b")))
    assert cvm(seeded, 1).gpu_rental_order == "order"
    assert cvm(seeded, 2).status == "exited"
    assert place_of(seeded, 1) == (None, None)
    import_cvms(seeded, file_of(line(1, gpu_rental_order=None), line(2, gpu_rental_order="other")))
    assert cvm(seeded, 1).gpu_rental_order is None
    assert cvm(seeded, 2).gpu_rental_order == "other"


def test_same_again_writes_nothing(seeded: Session) -> None:
    file = file_of(line(1, "a"), line(3, "c"))
    import_cvms(seeded, file)
    seeded.commit()
    versions = select(Cvm.hash_id, text("xmin::text"), Cvm.updated_at).order_by(Cvm.id)
    before = seeded.execute(versions).all()
    seeded.commit()
    assert import_cvms(seeded, file).updated == 2
    seeded.commit()
    # Locking sets xmax, only writing sets xmin.
    assert seeded.execute(versions).all() == before


def test_vms_change_hands(seeded: Session) -> None:
    import_cvms(seeded, file_of(line(1, "b"), line(2, "c"), line(3, "a")))
    assert [place_of(seeded, number)[1] for number in (1, 2, 3)] == ["b", "c", "a"]
    import_cvms(seeded, file_of(line(1, "c"), line(2, "b")))
    assert [place_of(seeded, number)[1] for number in (1, 2)] == ["c", "b"]
    import_cvms(seeded, file_of(line(4, "c"), line(1)))
    assert [place_of(seeded, number) for number in (1, 4)] == [(None, None), ("h1", "c")]


def test_vm_of_a_cvm_that_is_not_in_the_file(seeded: Session) -> None:
    assert problems_of(seeded, line(3, "a"), line(4, "x")) == [
        "line 1: vm_uuid a on host h1 belongs to cvm_1 already"
    ]


def test_all_kinds_of_problems_in_the_order_of_the_lines(seeded: Session) -> None:
    bad = {"id": "cvm_7"}
    assert problems_of(
        seeded, line(3, "a"), bad, line(5, "x", "h9"), line(6, workspace="green")
    ) == [
        "line 1: vm_uuid a on host h1 belongs to cvm_1 already",
        "line 2: name is missing; workspace is missing",
        "line 3: there is no host h9",
        "line 4: there is no workspace green",
    ]


def test_in_progress_keeps_its_vm(seeded: Session) -> None:
    cvm(seeded, 1).in_progress = True
    seeded.commit()
    told = ["line 1: cvm_1 has an operation in progress: its host and vm_uuid cannot change"]
    for changed in (line(1), line(1, "z"), line(1, "a", "h2")):
        found = problems_of(seeded, changed)
        assert [problem[: len(told[0])] for problem in found] == told
        seeded.rollback()
    import_cvms(seeded, file_of(line(1, "a", name="renamed", status="stopped")))
    row = cvm(seeded, 1)
    assert (row.name, row.status, row.in_progress) == ("renamed", "stopped", True)


def test_nothing_is_half_imported(seeded: Session, clean: Engine) -> None:
    bad = line(5, workspace="green")
    with pytest.raises(ImportRefusedError), transaction(clean) as own:
        import_cvms(own, file_of(line(1, "z"), line(3), bad))
    assert place_of(seeded, 1) == ("h1", "a")
    assert seeded.scalars(select(Cvm.hash_id).order_by(Cvm.id)).all() == ["cvm_1", "cvm_2"]


def test_an_empty_file(seeded: Session) -> None:
    counts = import_cvms(seeded, file_of())
    assert (counts.added, counts.updated) == (0, 0)


def test_two_imports_take_turns(seeded: Session, clean: Engine) -> None:
    """The second waits for the first, sees what it wrote, and neither fails."""
    del seeded
    forwards = [line(f"n{number}", f"u{number}") for number in range(500)]
    files = [file_of(*forwards), file_of(*reversed(forwards))]
    added: list[int] = []

    def run(file: CvmFile) -> None:
        with transaction(clean) as own:
            added.append(import_cvms(own, file).added)

    threads = [threading.Thread(target=run, args=[file]) for file in files]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(added) == [0, 500]


def test_waiting_longer_than_the_time_outs(
    seeded: Session, clean: Engine, settings: Settings
) -> None:
    """1.5 s is behind PostgreSQL's time-outs (0.2 s) and the driver's (1 s more)."""
    waiting = text(
        "SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid)"
        " WHERE locktype = 'advisory' AND NOT granted"
        " AND clock_timestamp() - query_start > interval '1.5 seconds'"
    )
    hurried = make_engine(
        settings.model_copy(update={"database_timeout": 0.2}), application="tests"
    )

    def run() -> int:
        with transaction(hurried) as own:
            return import_cvms(own, file_of(line(3))).added

    del seeded
    with clean.connect().execution_options(isolation_level="AUTOCOMMIT") as holder:
        holder.execute(select(func.pg_advisory_lock(IMPORT_LOCK)))
        with ThreadPoolExecutor(1) as pool:
            importing = pool.submit(run)
            try:
                eventually(lambda: importing.done() or holder.scalar(waiting))
            finally:
                holder.execute(select(func.pg_advisory_unlock(IMPORT_LOCK)))
            assert importing.result() == 1
    hurried.dispose()


def test_a_large_file(seeded: Session) -> None:
    lines = [line(f"n{number}", f"u{number}") for number in range(20_000)]
    assert import_cvms(seeded, file_of(*lines)).added == 20_000
    assert import_cvms(seeded, file_of(*lines)).updated == 20_000
