"""`stack.json`: how a running stack is reached, for programs; `cvmstop.env`: for a shell."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from cli.stack.private_files import write_private


if TYPE_CHECKING:
    from collections.abc import Mapping

    from cli.stack.data_dir import DataDir


@dataclass(frozen=True, kw_only=True)
class StackFacts:
    """What does not change while a stack runs."""

    api_url: str
    flower_url: str
    flower_user: str
    flower_password: str = field(repr=False)
    database_url: str = field(repr=False)
    broker_url: str = field(repr=False)
    admin_key: str = field(repr=False)
    user_key: str = field(repr=False)
    """Key of a member of the first workspace."""
    data_dir: str
    hosts: tuple[dict[str, str], ...] = ()
    """Simulated hosts: `name`, `url`, `log_file`."""


def write_stack_file(data_dir: DataDir, facts: StackFacts, processes: Mapping[str, int]) -> None:
    """Write `stack.json` (mode 0600), whole or not at all.

    Parameters
    ----------
    data_dir
        Where it goes.
    facts
        How the stack is reached.
    processes
        Number of each process, by name.
    """
    content: dict[str, Any] = {**asdict(facts), "processes": dict(processes)}
    write_private(data_dir.stack_file, json.dumps(content, indent=2) + "\n")


def write_environment_file(data_dir: DataDir, variables: Mapping[str, str]) -> None:
    """Write settings (mode 0600) so that a shell can read them, for cvmstop's other commands."""
    lines = [f"export {name}={shlex.quote(value)}\n" for name, value in variables.items()]
    write_private(data_dir.environment_file, "".join(lines))
