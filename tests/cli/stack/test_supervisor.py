from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING

import psutil
import pytest

from cli.stack import supervisor as module
from cli.stack.child import ProcessSpec
from cli.stack.supervisor import Supervisor, ToldToStopError
from shared.exceptions import StackError
from tests.support.waiting import wait_until


if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

READY_THEN_WAIT = """
import pathlib, signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
pathlib.Path(sys.argv[1]).touch()
print("I wait", flush=True)
while True: signal.pause()
"""
DEAF = READY_THEN_WAIT.replace("lambda *_: sys.exit(0)", "signal.SIG_IGN")


class Bench:
    """A supervisor whose events are kept, and specs of small processes."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.events: list[str] = []
        self.changes = 0
        self.supervisor = Supervisor(report=self.events.append, on_change=self._count)

    def _count(self) -> None:
        self.changes += 1

    def spec(
        self, name: str, program: str = READY_THEN_WAIT, *, grace: float = 20, after: str = ""
    ) -> ProcessSpec:
        ready = self.directory / f"{name}.ready"
        return ProcessSpec(
            name=name,
            command=[sys.executable, "-c", program, str(ready)],
            environment=dict(os.environ),
            log_file=self.directory / f"{name}.log",
            is_ready=ready.exists,
            grace=grace,
            ends_after=(after,),
        )

    def tick_until(self, condition: Callable[[], bool]) -> None:
        def tick() -> bool:
            self.supervisor.tick()
            return condition()

        wait_until(tick, what="the processes are as wanted")


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.supervisor.stop()


def test_starts_and_waits_until_ready(bench: Bench) -> None:
    bench.supervisor.start([bench.spec("one"), bench.spec("two")])
    bench.supervisor.wait_until_ready()
    assert sorted(bench.events) == ["one ready", "two ready"]
    assert bench.supervisor.pids.keys() == {"one", "two"}
    assert (bench.directory / "one.log").read_text() == "I wait\n"


def test_what_dies_is_started_again(bench: Bench) -> None:
    bench.supervisor.start([bench.spec("one")])
    bench.supervisor.wait_until_ready()
    first = bench.supervisor.pids["one"]
    os.kill(first, signal.SIGKILL)
    bench.tick_until(lambda: "one ready again" in bench.events)
    assert bench.supervisor.pids["one"] != first
    assert "one died (signal 9); it is started again" in bench.events
    assert bench.changes == 2


def test_what_dies_at_once_waits_longer_and_longer(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RESTART_DELAY", 0.01)
    once = "import pathlib, sys; f = pathlib.Path(sys.argv[1])\nif f.exists(): sys.exit(3)\n"
    bench.supervisor.start([bench.spec("one", once + READY_THEN_WAIT)])
    bench.supervisor.wait_until_ready()
    os.kill(bench.supervisor.pids["one"], signal.SIGKILL)
    bench.tick_until(lambda: any("in 0.04 s" in event for event in bench.events))
    delays = [event for event in bench.events if "died (status 3)" in event]
    assert [" in 0.01 s" in delays[0], " in 0.02 s" in delays[1]] == [True, True]


def test_what_ends_before_it_is_ready_is_told_with_its_last_words(bench: Bench) -> None:
    program = "import sys; print('first'); print('no such thing'); print(); sys.exit(2)"
    bench.supervisor.start([bench.spec("one", program)])
    with pytest.raises(StackError, match=r"one ended before .*status 2.*it said: no such thing$"):
        bench.supervisor.wait_until_ready()


def test_what_is_never_ready_is_given_up(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "START_TIMEOUT", 0.1)
    bench.supervisor.start([bench.spec("one", "import signal; signal.pause()")])
    with pytest.raises(StackError, match=r"one is not ready yet.*it said: nothing$"):
        bench.supervisor.wait_until_ready()


def test_a_program_that_is_not_there(bench: Bench) -> None:
    spec = bench.spec("one")
    missing = ProcessSpec(**{**vars(spec), "command": ["/no/such/program"]})
    with pytest.raises(StackError, match="one cannot be started"):
        bench.supervisor.start([missing])


def test_ends_in_order(bench: Bench) -> None:
    bench.supervisor.start([bench.spec("server", after="client"), bench.spec("client")])
    bench.supervisor.wait_until_ready()
    ended: list[str] = []
    processes = {name: psutil.Process(pid) for name, pid in bench.supervisor.pids.items()}
    os.kill(bench.supervisor.pids["client"], signal.SIGSTOP)
    # The server is not told to end while the client lives, and that cannot end while frozen.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cli.stack.supervisor.time.sleep", lambda _: _thaw(processes, ended))
        bench.supervisor.stop()
    assert ended == ["server lived"]
    assert not any(process.is_running() for process in processes.values())


def _thaw(processes: dict[str, psutil.Process], ended: list[str]) -> None:
    if not ended:
        ended.append("server lived" if processes["server"].is_running() else "server ended")
        processes["client"].send_signal(signal.SIGCONT)


def test_what_does_not_end_in_time_is_killed(bench: Bench) -> None:
    bench.supervisor.start([bench.spec("deaf", DEAF, grace=0)])
    bench.supervisor.wait_until_ready()
    pid = bench.supervisor.pids["deaf"]
    bench.supervisor.stop()
    assert bench.events[-1] == "deaf did not end in time and is killed"
    assert not psutil.pid_exists(pid)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it(bench: Bench, number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with bench.supervisor.minding_signals():
        signal.raise_signal(number)
        with pytest.raises(ToldToStopError):
            bench.supervisor.run()
    assert signal.getsignal(number) is before


def test_a_second_signal_kills(bench: Bench) -> None:
    bench.supervisor.start([bench.spec("deaf", DEAF, grace=1_000)])
    bench.supervisor.wait_until_ready()
    with bench.supervisor.minding_signals():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        bench.supervisor.stop()
    assert bench.events[-1] == "deaf did not end in time and is killed"
