"""The directory in which a stack keeps its data, its secrets and its logs."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from cli.stack.private_files import write_private
from shared.exceptions import StackError


if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ENVIRONMENT_FILE = "cvmstop.env"
"""Name of the file that a shell reads to reach the stack."""

PASSWORD_BYTES = 24
"""192 random bits; base64url, so that a password needs no quoting anywhere."""


@dataclass(kw_only=True)
class Secrets:
    """What should stay the same when a stack is started again on its directory."""

    postgresql: str = field(repr=False)
    valkey: str = field(repr=False)
    flower: str = field(repr=False)
    sealing_keys: str = field(repr=False)
    webhook_keys: str = field(default="", repr=False)
    """Empty only in what was written before there were any."""
    api_keys: dict[str, str] = field(default_factory=dict, repr=False)
    """API keys by `user@workspace`; the database has only their digests."""
    ports: dict[str, int] = field(default_factory=dict)
    """Where each process that listens did so last, by its name."""
    simulated_cvms: int | None = None
    """How many there are on simulated hosts; None without such hosts."""


class DataDir:
    """Where everything of one stack is.

    Parameters
    ----------
    root
        Absolute path.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.stack_file = root / "stack.json"
        self.environment_file = root / ENVIRONMENT_FILE
        self.processes_file = root / "processes.json"
        self.secrets_file = root / "secrets.json"
        self.lock_file = root / "lock"
        self.valkey_configuration = root / "valkey.conf"
        self.postgresql = root / "postgresql"
        self.valkey = root / "valkey"
        self.logs = root / "logs"
        self.hosts = root / "hosts"

    def prepare(self) -> None:
        """Make the directories.

        An empty or new one becomes its owner's only (0700). The mode of one that a stack has used
        is left alone; the files with secrets are 0600 anyway.

        Raises
        ------
        StackError
            It cannot be made, or has other things in it and nothing of a stack.
        """
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not any(self.root.iterdir()):
                self.root.chmod(0o700)
            elif not (self.secrets_file.exists() or self.lock_file.exists()):
                msg = (
                    f"{self.root} has other things in it, and no data of a stack:"
                    " give --data-dir a new or an empty directory"
                )
                raise StackError(msg)
            for directory in (self.logs, self.hosts):
                directory.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            msg = f"the data directory {self.root} cannot be used: {error.strerror}"
            raise StackError(msg) from None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other stacks out; the lock goes with the process, however that ends.

        Raises
        ------
        StackError
            Another stack runs on this directory.
        """
        with self.lock_file.open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                file.seek(0)
                msg = (
                    f"{self.root} is in use by the stack of process {file.read().strip() or '?'}:"
                    " end that one first, or give another --data-dir"
                )
                raise StackError(msg) from None
            file.truncate(0)
            file.write(f"{os.getpid()}\n")
            file.flush()
            yield

    def load_secrets(self) -> Secrets:
        """Read the secrets; new ones are made and kept when there are none yet.

        Raises
        ------
        StackError
            Their file cannot be read.
        """
        from shared.sealing import new_sealing_key

        if self.secrets_file.exists():
            try:
                kept = Secrets(**json.loads(self.secrets_file.read_text()))
            except (OSError, ValueError, TypeError):
                msg = (
                    f"{self.secrets_file} cannot be read: put it back as it was, or begin anew"
                    " with another --data-dir"
                )
                raise StackError(msg) from None
            if not kept.webhook_keys:
                kept.webhook_keys = new_sealing_key()
                self.save_secrets(kept)
            return kept
        if self.postgresql.exists():
            msg = f"{self.root} has a database, but its {self.secrets_file.name} is gone"
            raise StackError(msg)
        made = Secrets(
            postgresql=secrets.token_urlsafe(PASSWORD_BYTES),
            valkey=secrets.token_urlsafe(PASSWORD_BYTES),
            flower=secrets.token_urlsafe(PASSWORD_BYTES),
            sealing_keys=new_sealing_key(),
            webhook_keys=new_sealing_key(),
        )
        self.save_secrets(made)
        return made

    def save_secrets(self, changed: Secrets) -> None:
        """Write the secrets (mode 0600)."""
        write_private(self.secrets_file, json.dumps(asdict(changed), indent=2) + "\n")

    def log_file(self, process: str) -> Path:
        """Say where a process's output goes."""
        return self.logs / f"{process}.log"
