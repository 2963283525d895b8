"""What the demo says can be tried; tests/system has the demo itself."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from cli.demo_report import PostedBatch, show_commands
from cli.stack.stack_file import StackFacts


def test_what_can_be_tried(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["/elsewhere/bin/cvmstop"])
    facts = StackFacts(
        api_url="http://127.0.0.1:1",
        flower_url="http://127.0.0.1:2",
        flower_user="operator",
        flower_password="word",
        database_url="",
        broker_url="",
        admin_key="cvmstop_key",
        user_key="",
        data_dir="/data",
    )
    tasks = [{"id": "good", "state": "succeeded"}, {"id": "bad", "state": "failed"}]
    batch = PostedBatch(number=1, caller="alice", id="b", answer={}, tasks=tasks)
    show_commands(facts, Path("/data/logs"), [batch])
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert ". /data/cvmstop.env" in lines
    for command in ("hosts list", "cvms list", "failures list"):
        assert f"/elsewhere/bin/cvmstop {command}" in lines
    assert "/elsewhere/bin/cvmstop failures show bad" in lines
    assert "Flower: http://127.0.0.1:2  user operator, password word" in lines
    assert "logs: /data/logs" in lines
