"""One real worker process, with settings of its own and its log."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from pydantic import SecretStr

from shared.broker import make_celery
from shared.settings import BrokerSettings
from tests.support.compose import ROOT
from tests.support.waiting import eventually


if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from celery import Celery

    from shared.settings import Settings


@dataclass(frozen=True, kw_only=True)
class WorkerUnderTest:
    """A worker process, seen from outside."""

    process: subprocess.Popen[bytes]
    node: str
    log_file: Path
    app: Celery

    @property
    def log(self) -> str:
        return self.log_file.read_text()

    def wait_for_log(self, text: str, *, count: int = 1) -> None:
        """Wait until the log has a text so many times; fails when the process ends before."""
        eventually(lambda: self.log.count(text) >= count or self.process.poll() is not None)
        assert self.log.count(text) >= count, f"ended with {self.process.poll()}:\n{self.log}"

    def stop_consuming(self) -> None:
        """Make it a worker that lives, answers pings and takes no message."""
        cancel_consumers(self.app, self.node)
        assert self.app.control.ping([self.node], timeout=5)

    def require_alive(self, *, seconds: float = 0) -> None:
        """Fail when it has ended, or ends within some seconds."""
        with suppress(subprocess.TimeoutExpired):
            status = self.process.wait(seconds)
            pytest.fail(f"ended with {status}:\n{self.log}")


def cancel_consumers(app: Celery, node: str) -> None:
    """Make a worker take no message any more, and answer all the same."""
    (queues,) = (app.control.inspect([node], timeout=5).active_queues() or {}).values()
    for queue in queues:
        app.control.cancel_consumer(queue["name"], destination=[node], reply=True)


@contextmanager
def running_worker(
    settings: Settings, broker_url: str, log_file: Path, *options: str, **environment: str
) -> Iterator[WorkerUnderTest]:
    """Run a worker until the block ends; it has begun to consume.

    Parameters
    ----------
    settings
        Give the database and the sealing keys.
    broker_url
        Where the worker finds its broker.
    log_file
        Gets what it logs.
    options
        Of `celery worker`; `-Q` among them.
    environment
        Further variables.
    """
    named = dict(pairwise(options)).get("-n")
    node = named or f"under-test@{os.getpid()}"
    with log_file.open("ab") as log:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "celery", "-A", "workers.app", "worker", "-n", node),
                *("--without-gossip", "--without-mingle", *options),
            ],
            cwd=ROOT,
            env={
                **os.environ,
                "CVMSTOP_DATABASE_URL": settings.database_url.get_secret_value(),
                "CVMSTOP_SEALING_KEYS": settings.sealing_keys.get_secret_value(),
                "CVMSTOP_BROKER_URL": broker_url,
                **environment,
            },
            stdout=log,
            stderr=log,
        )
    app = make_celery(BrokerSettings(broker_url=SecretStr(broker_url)))
    worker = WorkerUnderTest(process=process, node=node, log_file=log_file, app=app)
    try:
        worker.wait_for_log(f"{node} ready.")
        yield worker
    finally:
        process.kill()
        process.wait()
        app.close()
