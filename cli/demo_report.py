"""What the demo shows at its end: a summary, the failures with their reasons, and checks."""

from __future__ import annotations

import json
import shlex
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from cli.program import program
from cli.stack.data_dir import ENVIRONMENT_FILE
from shared.models.states import StopState


if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cli.api_client import ApiClient
    from cli.stack.stack import Stack
    from cli.stack.stack_file import StackFacts

Task = dict[str, Any]
"""A stop task, as the API gives it."""


@dataclass(kw_only=True)
class PostedBatch:
    """A batch that the demo has posted."""

    number: int
    caller: str
    id: str
    answer: dict[str, Any]
    tasks: list[Task] = field(default_factory=list)
    """As they were when `read` was last called."""

    @property
    def headline(self) -> str:
        """The API's answer in a line."""
        counts = [f"{self.answer[name]} {name}" for name in ("stopped", "skipped")]
        errors = f"{len(self.answer['errors'])} errors"
        return f"batch {self.number} of {self.caller}: {', '.join([*counts, errors])}"

    @property
    def adds_up(self) -> bool:
        """Whether each id was counted exactly once."""
        counted = self.answer["stopped"] + self.answer["skipped"] + len(self.answer["errors"])
        return bool(self.answer["total"] == counted and self.answer["stopped"] == len(self.tasks))

    def read(self, client: ApiClient) -> None:
        """Ask how the batch stands."""
        self.tasks = client.batch(self.id)["tasks"]


def show_report(stack: Stack, batches: Sequence[PostedBatch]) -> bool:
    """Show everything; gives whether all is as it should be.

    Parameters
    ----------
    stack
        It must still run.
    batches
        As they were at the end.
    """
    console = Console(soft_wrap=True)
    tasks = [task for batch in batches for task in batch.tasks]
    console.print("\n[bold]Summary[/]")
    Console().print(_summary(batches, [host.name for host in stack.inventory.hosts]))
    failed = [task for task in tasks if task["state"] == StopState.FAILED]
    console.print(f"\n[bold]Failures[/] ({len(failed)})")
    for line in _reasons(failed):
        console.print(Text(line))
    console.print("\n[bold]Checks[/]")
    checks = list(_checks(stack, batches, tasks))
    for good, what in checks:
        console.print(Text(f"{'ok ' if good else 'NOT SO'}  {what}"))
    return all(good for good, _ in checks)


def show_commands(facts: StackFacts, logs: Path, batches: Sequence[PostedBatch]) -> None:
    """Show what can be tried while the stack stays up.

    Parameters
    ----------
    facts
        How the stack is reached.
    logs
        Where its logs are.
    batches
        A stop that failed is the example, if there is one.
    """
    console = Console(soft_wrap=True)
    tasks = [task for batch in batches for task in batch.tasks]
    failed = [task for task in tasks if task["state"] == StopState.FAILED]
    console.print("\n[bold]To look further[/], in another terminal")
    for line in _commands(facts, logs, failed or tasks):
        console.print(Text(f"  {line}"))


def _summary(batches: Sequence[PostedBatch], hosts: Sequence[str]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("batch")
    table.add_column("host")
    for column in ("accepted", "succeeded", "failed", "median time", "most tries"):
        table.add_column(column, justify="right")
    for batch in batches:
        for host in hosts:
            tasks = [task for task in batch.tasks if task["host"] == host]
            states = Counter(task["state"] for task in tasks)
            times = [_seconds(task) for task in tasks if task["state"] == StopState.SUCCEEDED]
            table.add_row(
                f"{batch.number} ({batch.caller})",
                host,
                str(len(tasks)),
                str(states[StopState.SUCCEEDED]),
                str(states[StopState.FAILED]),
                f"{median(times):.1f} s" if times else "-",
                str(max((task["attempts"] for task in tasks), default=0)),
            )
    return table


def _reasons(failed: Sequence[Task]) -> Iterator[str]:
    """Group failures by reason, with an example of each."""
    groups: dict[tuple[str, str], list[Task]] = defaultdict(list)
    for task in failed:
        groups[task["host"], task["error_code"]].append(task)
    for (host, code), tasks in sorted(groups.items(), key=lambda group: -len(group[1])):
        yield f"{len(tasks)} on {host}: {code}"
        # The one that was tried most often says most.
        yield f"  such as: {max(tasks, key=lambda task: task['attempts'])['error_message']}"


def _checks(
    stack: Stack, batches: Sequence[PostedBatch], tasks: Sequence[Task]
) -> Iterator[tuple[bool, str]]:
    """Check what must hold, against the simulated hosts' own logs too."""
    yield (
        all(batch.adds_up for batch in batches),
        "in each answer, total == stopped + skipped + errors",
    )
    yield all(task["finished_at"] for task in tasks), "every accepted stop has ended"
    succeeded = {task["vm_uuid"] for task in tasks if task["state"] == StopState.SUCCEEDED}
    healthy = {task["vm_uuid"] for task in tasks if task["host"] == "healthy"}
    dead = {task["vm_uuid"] for task in tasks if task["host"] == "dead"}
    yield healthy <= succeeded, "the healthy host's stops have all succeeded"
    yield (
        all(task["error_code"] for task in tasks if task["host"] == "dead")
        and succeeded.isdisjoint(dead),
        "the dead host's stops have all failed, each with its reason",
    )
    killed = {vm for host in stack.facts.hosts for vm in _killed(Path(host["log_file"]))}
    yield (
        succeeded <= killed <= {task["vm_uuid"] for task in tasks},
        "by the hosts' own logs, each VM that counts as stopped was killed, and no other",
    )


def _killed(journal: Path) -> Iterator[str]:
    """Read from a simulated host's log which VMs it has killed."""
    for line in journal.read_text().splitlines():
        entry = json.loads(line)
        if entry["killed"]:
            yield entry["vm_id"]


def _commands(facts: StackFacts, logs: Path, examples: Sequence[Task]) -> Iterator[str]:
    """Give lines for a new terminal, in whatever directory: nothing in them is relative."""
    called = program(shortened=False)
    environment = Path(facts.data_dir) / ENVIRONMENT_FILE
    yield f". {shlex.quote(str(environment))}"
    yield f"{called} hosts list"
    yield f"{called} cvms list"
    yield f"{called} failures list"
    for task in examples[:1]:
        yield f"{called} failures show {task['id']}"
        yield (
            f'curl -H "X-API-Key: $CVMSTOP_API_KEY" $CVMSTOP_API_URL/api/v1/stop-tasks/{task["id"]}'
        )
    yield f"page: {facts.api_url}/  sign in with {facts.admin_key}"
    yield f"Flower: {facts.flower_url}  user {facts.flower_user}, password {facts.flower_password}"
    yield f"logs: {logs}"


def _seconds(task: Task) -> float:
    ended = datetime.fromisoformat(task["finished_at"])
    return (ended - datetime.fromisoformat(task["accepted_at"])).total_seconds()
