"""Every service of `docker-compose.yml` as a local process, and a batch through them."""

from __future__ import annotations

import os
import re
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import psycopg
import pytest
import yaml
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError
from redis.retry import Retry

from tests.support.compose import COMPOSE_FILE, REQUIRED, ROOT, read
from tests.support.compose_processes import PATIENCE, LocalServices
from tests.support.ports import free_port
from tests.support.scraped import TOKEN, scrape


if TYPE_CHECKING:
    from collections.abc import Iterator

NO_RETRY = Retry(NoBackoff(), retries=0)


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServices]:
    """Start every service of the file as a local process, those of the profiles included."""
    variables = {
        **REQUIRED,
        "CVMSTOP_API_PORT": str(free_port()),
        "CVMSTOP_FLOWER_PORT": str(free_port()),
        "CVMSTOP_METRICS_TOKEN": TOKEN,
    }
    directory = tmp_path_factory.mktemp("compose")
    with LocalServices(read(COMPOSE_FILE, variables), directory) as made:
        made.up()
        yield made
        made.require_running()
        assert made.down() == []
        for name in made.services:
            log = made.log(name)
            assert not [secret for secret in (*REQUIRED.values(), TOKEN) if secret in log], name


@pytest.fixture(scope="module")
def keys(local: LocalServices) -> dict[str, str]:
    """Give the API keys that `demo-data` prints."""
    return dict(re.findall(r"^(\w+_key)=(\S+)$", local.log("demo-data"), re.MULTILINE))


def test_a_batch_goes_through_the_services(local: LocalServices, keys: dict[str, str]) -> None:
    with httpx.Client(
        base_url=f"http://127.0.0.1:{local.port('api', 8000)}",
        headers={"X-API-Key": keys["admin_key"]},
        timeout=PATIENCE,
    ) as api:
        local.await_health("api")
        ids = [f"cvm_demo{number:03}" for number in range(50)]
        answer = api.post("/api/v1/cvms/batch-stop", json={"cvm_ids": ids})
        assert answer.status_code == 200, answer.text
        assert answer.json()["stopped"] == 50
        end = time.monotonic() + PATIENCE
        while True:
            states = api.get(answer.headers["Location"]).json()
            if states["counts"].get("succeeded") == 50:
                break
            local.require_running()
            assert time.monotonic() < end, (states, local.log("worker"))
            time.sleep(0.1)


def test_the_demos_user_sees_one_workspace(local: LocalServices, keys: dict[str, str]) -> None:
    local.await_health("api")
    answer = httpx.post(
        f"http://127.0.0.1:{local.port('api', 8000)}/api/v1/cvms/batch-stop?dry_run=true",
        json={"cvm_ids": ["cvm_demo058", "cvm_demo059"]},
        headers={"X-API-Key": keys["user_key"]},
        timeout=PATIENCE,
    )
    assert (answer.json()["stopped"], len(answer.json()["errors"])) == (1, 1), answer.text


def test_demo_data_may_run_again(local: LocalServices) -> None:
    again = subprocess.run(
        local.commands["demo-data"],
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=local._environment("demo-data"),
    )
    assert again.returncode == 0, again.stderr
    assert "_key=" not in again.stdout


@pytest.mark.parametrize("name", ["api", "worker", "housekeeping"])
def test_prometheus_gets_metrics_where_it_looks_for_them(local: LocalServices, name: str) -> None:
    jobs = yaml.safe_load((ROOT / "monitoring/prometheus.yml").read_text())["scrape_configs"]
    (port,) = (
        found["port"] for job in jobs for found in job["dns_sd_configs"] if found["names"] == [name]
    )
    local.await_health(name)
    page = scrape(f"http://127.0.0.1:{local.port(name, port)}")
    assert page.series("cvmstop_build_info")


def test_health_checks_pass(local: LocalServices) -> None:
    for name, service in local.services.items():
        if "healthcheck" in service:
            local.await_health(name)


@pytest.mark.parametrize("name", ["worker", "housekeeping"])
def test_health_checks_of_workers_fail_without_a_heartbeat(local: LocalServices, name: str) -> None:
    service = local.services[name]
    environment = {**service["environment"], "CVMSTOP_HEARTBEAT_FILE": "/tmp/other"}  # noqa: S108 - of a container
    document = {**local.document, "services": {name: {**service, "environment": environment}}}
    other = LocalServices(document, local.directory, _ports=local._ports)
    file = Path(other._environment(name)["CVMSTOP_HEARTBEAT_FILE"])
    assert not other.is_healthy(name)
    file.touch()
    assert other.is_healthy(name)
    two_minutes_ago = time.time() - 120
    os.utime(file, (two_minutes_ago, two_minutes_ago))
    assert not other.is_healthy(name)


def test_flower_asks_for_the_password(local: LocalServices) -> None:
    local.await_health("flower")
    url = f"http://127.0.0.1:{local.port('flower', 5555)}/workers"
    for wrong in (None, ("cvmstop", "wrong"), ("cvmstop", "")):
        assert httpx.get(url, auth=wrong).status_code == 401
    right = ("cvmstop", REQUIRED["CVMSTOP_FLOWER_PASSWORD"])
    assert httpx.get(url, auth=right).status_code == 200


def test_database_and_broker_ask_for_their_passwords(local: LocalServices) -> None:
    port = local.port("postgresql", 5432)
    for given in ("", ":wrong"):
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(f"postgresql://cvmstop{given}@127.0.0.1:{port}/cvmstop")
    for password in (None, "wrong"):
        with (
            Redis(port=local.port("valkey", 6379), password=password, retry=NO_RETRY) as client,
            pytest.raises(AuthenticationError),
        ):
            client.ping()


def test_the_broker_keeps_what_it_takes(local: LocalServices) -> None:
    password = REQUIRED["CVMSTOP_BROKER_PASSWORD"]
    with Redis(port=local.port("valkey", 6379), password=password) as client:
        wanted = {"appendonly": "no", "maxmemory-policy": "noeviction", "save": ""}
        assert client.config_get(*wanted) == wanted


def test_no_secret_is_in_a_process_list(local: LocalServices) -> None:
    for name, command in local.commands.items():
        assert not [s for s in REQUIRED.values() if any(s in part for part in command)], name
