from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.seeds import make_cvm, make_host, make_workspace


if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy.orm import Session

    from tests.cli.conftest import Cvmstop

CSV = """\
id,name,workspace,host,vm_uuid,status,gpu_rental_order
cvm_1,one,blue,h1,vm-1,running,
cvm_2,"two, with a comma",blue,h1,vm-2,,
cvm_3,three,red,,,,order-7
"""


@pytest.fixture
def inventory(cvmstop: Cvmstop, session: Session) -> Cvmstop:
    """Workspaces `blue` and `red`, hosts `h1` and `h2`."""
    make_workspace(session, "blue")
    make_workspace(session, "red")
    make_host(session, name="h1")
    make_host(session, name="h2")
    session.commit()
    return cvmstop


def listed(cvmstop: Cvmstop, *options: str) -> dict[str, dict[str, Any]]:
    return {row["id"]: row for row in cvmstop.must("cvms", "list", "--json", *options).rows()}


def test_csv_twice(inventory: Cvmstop, tmp_path: Path) -> None:
    file = tmp_path / "cvms.csv"
    file.write_text(CSV)
    assert inventory.must("cvms", "import", str(file)).out == "imported 3 (3 new, 0 updated)\n"
    rows = listed(inventory)
    two = rows["cvm_2"]
    assert {name: two[name] for name in two if name not in {"created_at", "updated_at"}} == {
        "id": "cvm_2",
        "name": "two, with a comma",
        "workspace": "blue",
        "host": "h1",
        "vm_uuid": "vm-2",
        "status": "unknown",
        "in_progress": False,
        "gpu_rental_order": None,
        "seen_at": None,
        "vanished_at": None,
        "drift_noticed_at": None,
        "drift_host": None,
        "drift_stop_task_id": None,
    }
    assert rows["cvm_3"]["host"] is None
    assert rows["cvm_3"]["gpu_rental_order"] == "order-7"
    assert inventory.must("cvms", "import", str(file)).out == "imported 3 (0 new, 3 updated)\n"
    assert listed(inventory) == rows
    assert "two, with a comma" in inventory.must("cvms", "list").out


def test_json_lines_from_stdin(inventory: Cvmstop) -> None:
    line = json.dumps({"id": "cvm_1", "name": "eins ✓", "workspace": "blue"})
    outcome = inventory.must("cvms", "import", "-", "--format", "jsonl", stdin=line)
    assert outcome.out == "imported 1 (1 new, 0 updated)\n"
    assert listed(inventory)["cvm_1"]["name"] == "eins ✓"


def test_bad_lines_and_nothing_imported(inventory: Cvmstop, tmp_path: Path) -> None:
    file = tmp_path / "cvms.csv"
    file.write_text(CSV + "cvm_4,four,green,h3,vm-4,,\ncvm 5,five,red,,,,\n")
    outcome = inventory("cvms", "import", str(file))
    assert outcome.status == 1
    assert outcome.out == ""
    assert outcome.err.splitlines() == [
        "line 5: there is no workspace green",
        "line 5: there is no host h3",
        "line 6: id 'cvm 5' must be 'cvm_' and 1 to 60 of letters, digits, '_' and '-'",
        "cvmstop: nothing was imported; problems: 3",
    ]
    assert listed(inventory) == {}


def test_very_many_bad_lines(inventory: Cvmstop, tmp_path: Path) -> None:
    file = tmp_path / "cvms.jsonl"
    file.write_text("[]\n" * 1000)
    outcome = inventory("cvms", "import", str(file))
    assert outcome.err.count("\n") == 101
    assert outcome.err.endswith("nothing was imported; problems: 1000 (the first 100 are above)\n")


def test_wrong_usage(inventory: Cvmstop, tmp_path: Path) -> None:
    file = tmp_path / "cvms.txt"
    file.write_text(CSV)
    assert inventory("cvms", "import", str(tmp_path / "none.csv")).status == 2
    assert inventory("cvms", "import", str(file)).status == 2
    assert inventory("cvms", "import", "-").status == 2
    assert inventory("cvms", "import", str(file), "--format", "xml").status == 2
    assert inventory("cvms", "import", str(tmp_path)).status == 2
    assert listed(inventory) == {}


def test_list_narrowed_down(inventory: Cvmstop, session: Session) -> None:
    green = make_workspace(session, "green")
    host = make_host(session, name="h3")
    make_cvm(session, green, host, hash_id="cvm_b", status="stopped")
    make_cvm(session, green, host, hash_id="cvm_a")
    make_cvm(session, make_workspace(session), hash_id="cvm_c", in_progress=True)
    session.commit()
    assert list(listed(inventory)) == ["cvm_a", "cvm_b", "cvm_c"]
    assert list(listed(inventory, "--workspace", "green")) == ["cvm_a", "cvm_b"]
    assert list(listed(inventory, "--host", "h3", "--status", "stopped")) == ["cvm_b"]
    assert list(listed(inventory, "--limit", "1")) == ["cvm_a"]
    assert listed(inventory, "--host", "h1") == {}
    assert listed(inventory)["cvm_c"]["in_progress"] is True


@pytest.mark.parametrize(
    "options", [["--workspace", "none"], ["--host", "none"], ["--status", "a\udcff"]]
)
def test_list_by_what_cannot_be(inventory: Cvmstop, options: list[str]) -> None:
    outcome = inventory("cvms", "list", *options)
    assert outcome.status == 1
    assert outcome.err.startswith("cvmstop: the")
