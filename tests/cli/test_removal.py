"""`cvmstop hosts remove` and `cvmstop cvms remove`."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.support.seeds import (
    make_cvm,
    make_ended_stop,
    make_host,
    make_key,
    make_user,
    make_workspace,
)


if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from tests.cli.conftest import Cvmstop


class There(NamedTuple):
    """What a test begins with."""

    cvmstop: Cvmstop
    session: Session

    def hosts(self) -> list[str]:
        return [row["name"] for row in self.cvmstop.must("hosts", "list", "--json").rows()]

    def cvms(self) -> list[str]:
        return [row["id"] for row in self.cvmstop.must("cvms", "list", "--json").rows()]


@pytest.fixture
def there(cvmstop: Cvmstop, session: Session) -> There:
    """Hosts `empty`, `used` and `past`; CVMs of which one is busy and one was stopped on `past`."""
    workspace = make_workspace(session, "blue")
    user = make_user(session, workspace)
    key, _ = make_key(session, user, workspace)
    used, past = make_host(session, name="used"), make_host(session, name="past")
    make_host(session, name="empty")
    make_cvm(session, workspace, used, hash_id="cvm_free")
    make_cvm(session, workspace, used, hash_id="cvm_busy", in_progress=True)
    stopped = make_cvm(session, workspace, used, hash_id="cvm_stopped")
    make_ended_stop(session, stopped, key, host=past)
    session.commit()
    return There(cvmstop, session)


def test_an_unused_host_goes(there: There) -> None:
    assert there.cvmstop.must("hosts", "remove", "empty").out == "removed host empty\n"
    assert there.hosts() == ["past", "used"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("used", "host used was not removed: CVMs on it: 3;"),
        ("past", "stops on it stay on record (1), and so does it; CVMs on it: 0;"),
        ("none", "there is no host none"),
        ("no name", "host name 'no name'"),
    ],
)
def test_a_host_that_cannot_go(there: There, name: str, words: str) -> None:
    outcome = there.cvmstop("hosts", "remove", name)
    assert outcome.status == 1
    assert words in outcome.err
    assert outcome.err.count("\n") == 1
    assert there.hosts() == ["empty", "past", "used"]


def test_cvms_that_were_never_stopped_go(there: There) -> None:
    assert there.cvmstop.must("cvms", "remove", "cvm_free", "cvm_free").out == "removed 1\n"
    assert there.cvms() == ["cvm_busy", "cvm_stopped"]


@pytest.mark.parametrize(
    ("cvm_id", "words"),
    [
        ("cvm_busy", "an operation is in progress on cvm_busy"),
        ("cvm_stopped", "of cvm_stopped stops stay on record"),
        ("cvm_stopped", "import it without host and vm_uuid instead"),
        ("cvm_none", "there is no CVM cvm_none"),
        ("\udcff", "'\\udcff' is no CVM's id"),
    ],
)
def test_all_cvms_go_or_none(there: There, cvm_id: str, words: str) -> None:
    outcome = there.cvmstop("cvms", "remove", "cvm_free", cvm_id)
    assert outcome.status == 1
    assert words in outcome.err
    assert outcome.err.count("\n") == 1
    assert there.cvms() == ["cvm_busy", "cvm_free", "cvm_stopped"]
