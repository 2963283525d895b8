from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
import typer
from typer.testing import CliRunner

from cli.simulate_host import TRANSIENT_TEXT, simulate_host
from tests.support.simulated_host import make_tls_files


ROOT = Path(__file__).parents[2]

PROGRAM = "import typer; from cli.simulate_host import simulate_host; typer.run(simulate_host)"


@contextmanager
def running(
    ready: Path, *options: str, env: dict[str, str] | None = None
) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Run the command until its ready file is there; gives the URL and the process."""
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "--ready-file", str(ready), *options],
        cwd=ROOT,
        env={**os.environ, **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            wait_for(lambda: ready.exists() or process.poll() is not None)
            assert process.poll() is None, process.stderr and process.stderr.read()
            yield ready.read_text().strip(), process
        finally:
            process.kill()


def wait_for(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def rpc(url: str, method: str, vm_id: str = "", **headers: str) -> httpx.Response:
    return httpx.post(f"{url}/prpc/{method}?json", json={"id": vm_id}, headers=headers)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_runs_says_its_url_and_ends_at_once_with_hung_requests(
    tmp_path: Path, number: signal.Signals
) -> None:
    log = tmp_path / "log.jsonl"
    options = ("--vms", "2", "--vm-prefix", "box", "--dead", "--log-file", str(log))
    with running(tmp_path / "ready", *options) as (url, process):
        state = httpx.get(f"{url}/simulator/state").json()
        assert [vm["name"] for vm in state["vms"]] == ["box-0", "box-1"]
        address = urlsplit(url)
        with socket.create_connection((address.hostname, address.port or 0)) as hung:
            hung.sendall(b"GET /prpc/Version HTTP/1.1\r\nHost: h\r\n\r\n")
            wait_for(lambda: httpx.get(f"{url}/simulator/log").json())
            process.send_signal(number)
            out, err = process.communicate(timeout=20)
            with suppress(ConnectionResetError):
                assert hung.recv(1) == b""
        assert (process.returncode, out, err) == (0, f"{url}\n", "")
    assert [json.loads(line)["fault"] for line in log.read_text().splitlines()] == ["dead"]
    assert list(tmp_path.glob("*.partial")) == []


def test_secrets_from_the_environment(tmp_path: Path) -> None:
    env = {
        "CVMSTOP_SIMULATED_TOKEN": "s3cret",
        "CVMSTOP_SIMULATED_USER": "ann",
        "CVMSTOP_SIMULATED_PASSWORD": "pass",
    }
    with running(tmp_path / "ready", env=env) as (url, _):
        assert rpc(url, "Version").status_code == 401
        assert rpc(url, "Version", authorization="Bearer s3cret").status_code == 200
        assert httpx.get(f"{url}/prpc/Version", auth=("ann", "pass")).status_code == 200


def test_vms_from_a_file_and_behaviour(tmp_path: Path) -> None:
    vms = tmp_path / "vms.jsonl"
    vms.write_text(
        '{"id": "one", "name": "first", "status": "stopped"}\n\n'
        '{"id": "two", "behaviour": {"never_stops": true}}\n'
    )
    options = ("--vms-file", str(vms), "--error-rate", "1", "--latency", "0.001")
    with running(tmp_path / "ready", *options, "--stop-seconds", "7") as (url, _):
        state = httpx.get(f"{url}/simulator/state").json()
        assert [(vm["id"], vm["name"], vm["status"]) for vm in state["vms"]] == [
            ("one", "first", "stopped"),
            ("two", "two", "running"),
        ]
        assert state["vms"][1]["behaviour"] == {"never_stops": True}
        assert (state["behaviour"]["latency"], state["behaviour"]["stop_seconds"]) == (0.001, 7)
        for method in ("StopVm", "GetInfo"):
            assert rpc(url, method, "one").json() == {"error": TRANSIENT_TEXT}
        assert rpc(url, "Version").status_code == 200


def test_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "vmm.sock"
    with running(tmp_path / "ready", "--unix", str(path), "--auth") as (url, process):
        assert url == f"unix:{path}"
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(path))) as client:
            assert client.get("http://localhost/prpc/Version").status_code == 401
        process.terminate()
        assert process.wait(20) == 0
    assert not path.exists()


def test_tls(tmp_path: Path) -> None:
    files = make_tls_files(tmp_path)
    options = ("--tls-cert", str(files.server_cert), "--tls-key", str(files.server_key))
    ready = tmp_path / "ready"
    with running(ready, *options, "--tls-client-ca", str(files.ca)) as (url, _):
        answer = httpx.get(f"{url}/prpc/Version", verify=files.client_context())
        assert answer.status_code == 200


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--user", "ann"], "--user and --password go together"),
        (["--tls-key", "k.pem"], "--tls-cert and --tls-key go together"),
        (["--tls-client-ca", "c.pem"], "--tls-client-ca needs"),
        (["--tls-cert", "none.pem", "--tls-key", "none.pem"], "cannot start"),
        (["--vms-file", "none.jsonl"], "none.jsonl"),
        (["--host", "192.0.2.1"], "cannot start"),
    ],
)
def test_bad_options_are_told_plainly(options: list[str], words: str) -> None:
    assert words in refusal(options)


def test_bad_lines_of_a_file_are_told_with_their_numbers(tmp_path: Path) -> None:
    vms = tmp_path / "vms.jsonl"
    vms.write_text('{"id": "one"}\n{"id": "a b"}\nnonsense\n{"id": "two", "power": 1}\n')
    text = refusal(["--vms-file", str(vms)])
    for number in (2, 3, 4):
        assert f"vms.jsonl, line {number}: " in text
    assert "line 1:" not in text
    vms.write_text('{"id": "one"}\n{"id": "one"}\n')
    assert "already" in refusal(["--vms-file", str(vms)])


def test_a_port_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        text = refusal(["--port", str(taken.getsockname()[1])])
    assert text.startswith("cvmstop: port ")
    assert "is taken: give another --port" in text


def refusal(options: list[str]) -> str:
    app = typer.Typer()
    app.command()(simulate_host)
    result = CliRunner().invoke(app, options)
    assert result.exit_code == 2
    assert isinstance(result.exception, SystemExit)
    return result.stderr
