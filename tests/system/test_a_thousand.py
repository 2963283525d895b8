"""`cvmstop stop --wait` on 1,000 CVMs, in a terminal: what it shows, says and ends with is true."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from collections import Counter
from typing import TYPE_CHECKING

import psycopg
import pytest

from tests.support.ports import free_port
from tests.system.running_stack import RunningStack, started_up


if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CVMS = 1_000
ON_THE_DEAD_HOST = 30

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
BAR = re.compile(r"(all|batch \d+) +\S+ +(\d+)/(\d+)")
"""A bar as rich draws it: name, bar, count."""


class Screen:
    """What a command draws, frame by frame, and whether the rows said so."""

    def __init__(self, stack: RunningStack) -> None:
        self._database = psycopg.connect(stack.facts["database_url"], autocommit=True)
        self._rest = ""
        self.text = ""
        self.shown: dict[str, list[int]] = {}
        self.totals: dict[str, set[int]] = {}

    def take(self, drawn: str) -> None:
        """Take some output; what is shown as ended must have ended by now."""
        self.text += drawn
        *lines, self._rest = re.split(r"[\r\n]", ESCAPES.sub("", self._rest + drawn))
        bars = [found for line in lines for found in BAR.findall(line)]
        if not bars:
            return
        ended = self._ended()
        for name, count, total in bars:
            assert int(count) <= ended
            self.shown.setdefault(name, []).append(int(count))
            self.totals.setdefault(name, set()).add(int(total))

    def _ended(self) -> int:
        query = "SELECT count(*) FROM stop_tasks WHERE finished_at IS NOT NULL"
        row = self._database.execute(query).fetchone()
        assert row is not None
        return int(row[0])

    def close(self) -> None:
        self._database.close()


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[RunningStack]:
    """Give a stack of quick hosts, and one that is dead."""
    options = ("--simulate", str(CVMS))
    with started_up(tmp_path / "stack", *options, output=tmp_path / "up.log") as (running, _):
        running.change_hosts(stop_seconds=0.05, latency=0)
        with psycopg.connect(running.facts["database_url"]) as connection:
            connection.execute("UPDATE vm_hosts SET max_concurrent_stops = 16")
            connection.execute(
                "INSERT INTO vm_hosts (name, driver, address, max_concurrent_stops)"
                " VALUES ('dead', 'dstack', %s, 8)",
                [f"http://127.0.0.1:{free_port()}"],
            )
            connection.execute(
                "UPDATE cvms SET vm_host_id = (SELECT id FROM vm_hosts WHERE name = 'dead')"
                " WHERE id IN (SELECT id FROM cvms ORDER BY id LIMIT %s)",
                [ON_THE_DEAD_HOST],
            )
        yield running


def give_up_on_the_dead_host(stack: RunningStack) -> None:
    """Let its stops be past their deadline, without waiting for that."""
    with psycopg.connect(stack.facts["database_url"]) as connection:
        connection.execute(
            "UPDATE stop_tasks SET deadline_at = now() - interval '1 minute' FROM vm_hosts"
            " WHERE vm_hosts.id = vm_host_id AND name = 'dead' AND finished_at IS NULL"
        )


def test_what_is_shown_and_said_is_what_the_rows_say(stack: RunningStack, tmp_path: Path) -> None:
    ids = [hash_id for (hash_id,) in stack.rows("SELECT hash_id FROM cvms ORDER BY id")]
    assert len(ids) == CVMS
    file = tmp_path / "ids"
    file.write_text("\n".join(ids))
    facts = stack.facts
    report_file = tmp_path / "report.json"
    terminal, side = pty.openpty()
    screen = Screen(stack)
    given_up = False
    with (
        report_file.open("wb") as output,
        subprocess.Popen(
            [
                sys.executable,
                "-m",
                "cli",
                "stop",
                "--from-file",
                str(file),
                "--yes",
                "--wait",
                "--json",
            ],
            env={
                **os.environ,
                "CVMSTOP_API_URL": facts["api_url"],
                "CVMSTOP_API_KEY": facts["admin_key"],
                "TERM": "xterm",
                "COLUMNS": "100",
            },
            stdout=output,
            stderr=side,
        ) as command,
    ):
        os.close(side)
        try:
            while drawn := read(terminal):
                screen.take(drawn)
                if not given_up and screen.shown:  # then all were accepted
                    give_up_on_the_dead_host(stack)
                    given_up = True
            status = command.wait()
        finally:
            command.kill()  # one that is found to be wrong is not waited for
    report = json.loads(report_file.read_text())
    os.close(terminal)
    screen.close()

    for name, counts in screen.shown.items():
        assert counts == sorted(counts), name
    assert screen.totals.pop("all") == {CVMS}
    assert set().union(*screen.totals.values()) == {50}
    every = screen.shown["all"]
    assert every[-1] == CVMS
    assert len({count for count in every if 0 < count < CVMS}) > 2  # it moved meanwhile
    for number in range(1, CVMS // 50 + 1):
        assert screen.shown.get(f"batch {number}", [50])[-1] <= 50
    assert "Traceback" not in screen.text

    rows = dict(stack.rows("SELECT id::text, state FROM stop_tasks"))
    assert (report["total"], report["stopped"], report["problem"]) == (CVMS, CVMS, None)
    outcome = report["outcome"]
    assert {task["id"]: task["state"] for task in outcome["tasks"]} == rows
    ends = Counter(rows.values())
    assert ends == {"succeeded": CVMS - ON_THE_DEAD_HOST, "failed": ON_THE_DEAD_HOST}
    assert {state: outcome[state] for state in ends} == ends
    failed = {task["host"] for task in outcome["tasks"] if task["state"] == "failed"}
    assert (failed, status) == ({"dead"}, 1)


def read(terminal: int) -> str:
    """Read what was drawn; nothing when the command has ended."""
    try:
        return os.read(terminal, 65_536).decode(errors="replace")
    except OSError:  # EIO: nobody has its other end any more (pty(7))
        return ""
