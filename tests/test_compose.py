"""`docker-compose.yml`, as far as it can be proved without Docker."""

from __future__ import annotations

import fnmatch
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import psycopg
import pytest
import yaml
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError
from redis.retry import Retry

from shared.sealing import new_sealing_key
from shared.settings import Settings
from tests.support.compose import (
    PATIENCE,
    ROOT,
    ComposeError,
    LocalServices,
    container_ports,
    read,
    read_env_file,
)
from tests.support.postgresql import free_port


if TYPE_CHECKING:
    from collections.abc import Iterator

COMPOSE_FILE = ROOT / "docker-compose.yml"

REQUIRED = {
    "CVMSTOP_POSTGRES_PASSWORD": "postgres-s3cret",
    "CVMSTOP_BROKER_PASSWORD": "broker-s3cret",
    "CVMSTOP_FLOWER_PASSWORD": "flower-s3cret",
    "CVMSTOP_SEALING_KEYS": new_sealing_key(),
}
"""What nobody else may choose."""

SECRET_NAME = re.compile("PASSWORD|AUTH|TOKEN|KEYS|_URL")
"""Environment variables whose values are secrets, or hold one."""

FOREIGN = {"postgresql", "valkey"}

NO_RETRY = Retry(NoBackoff(), retries=0)

ONE_SHOTS = {"migrate", "cli", "demo-data"}


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return read(COMPOSE_FILE, REQUIRED)


@pytest.fixture(scope="module")
def services(document: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = document["services"]
    return found


def test_fits_the_schema_of_the_compose_specification() -> None:
    done = subprocess.run(
        [
            Path(sys.executable).with_name("check-jsonschema"),
            "--builtin-schema",
            "vendor.compose-spec",
            COMPOSE_FILE,
        ],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("missing", REQUIRED)
@pytest.mark.parametrize("value", [None, ""])
def test_secrets_are_required(missing: str, value: str | None) -> None:
    variables = {name: given for name, given in REQUIRED.items() if name != missing}
    if value is not None:
        variables[missing] = value
    with pytest.raises(ComposeError, match=rf"{missing}.*\.env\.example"):
        read(COMPOSE_FILE, variables)


def test_the_example_names_what_is_required_and_has_no_secret() -> None:
    assert read_env_file(ROOT / ".env.example") == dict.fromkeys(REQUIRED, "")


def test_the_demos_secrets_come_with_its_profile_and_a_project_of_its_own() -> None:
    demo = read_env_file(ROOT / "demo.env")
    assert demo["COMPOSE_PROFILES"] == "demo"
    assert demo["COMPOSE_PROJECT_NAME"] != yaml.safe_load(COMPOSE_FILE.read_text())["name"]
    assert demo["CVMSTOP_API_BIND"] == "127.0.0.1"
    assert demo.keys() >= REQUIRED.keys()
    read(COMPOSE_FILE, demo)
    text = COMPOSE_FILE.read_text()
    assert not [name for name in REQUIRED if demo[name] in text]


def test_no_secret_outside_the_demo_has_a_default(services: dict[str, Any]) -> None:
    for name, service in services.items():
        if service.get("profiles") == ["demo"]:
            continue
        for variable, value in service["environment"].items():
            if SECRET_NAME.search(variable):
                assert any(secret in value for secret in REQUIRED.values()), (name, variable)


def test_each_service_gets_only_the_secrets_that_it_needs(services: dict[str, Any]) -> None:
    def holders(variable: str) -> set[str]:
        secret = REQUIRED[variable]
        return {name for name, service in services.items() if secret in str(service)}

    database = {"migrate", "api", "worker", "housekeeping", "cli", "demo-data"}
    broker = {"valkey", "beat", "flower"} | database
    assert holders("CVMSTOP_POSTGRES_PASSWORD") == {"postgresql"} | database
    assert holders("CVMSTOP_SEALING_KEYS") == database
    assert holders("CVMSTOP_BROKER_PASSWORD") == broker
    assert holders("CVMSTOP_FLOWER_PASSWORD") == {"flower"}
    for name, service in services.items():
        assert "database" not in service["networks"] or name in {"postgresql"} | database
        assert "broker" not in service["networks"] or name in broker


def test_nothing_but_the_api_and_flower_can_be_reached_from_outside(
    document: dict[str, Any], services: dict[str, Any]
) -> None:
    published = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert published == {"api": ["127.0.0.1:8000:8000"], "flower": ["127.0.0.1:5555:5555"]}
    assert {name for name, network in document["networks"].items() if network.get("internal")} == {
        "database",
        "broker",
    }
    assert "hosts" not in services["api"]["networks"]
    moved = {**REQUIRED, "CVMSTOP_API_BIND": "0.0.0.0", "CVMSTOP_API_PORT": "80"}  # noqa: S104 - on purpose
    moved["CVMSTOP_FLOWER_PORT"] = "81"
    changed = read(COMPOSE_FILE, moved)["services"]
    assert changed["api"]["ports"] == ["0.0.0.0:80:8000"]
    assert changed["flower"]["ports"] == ["127.0.0.1:81:5555"]


def test_what_should_run_is_kept_running_and_watched(services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert service["restart"] == ("no" if name in ONE_SHOTS else "unless-stopped"), name
        # Beat answers nobody: see its comment.
        assert ("healthcheck" in service) == (name not in ONE_SHOTS | {"beat"}), name
        if name not in FOREIGN:
            assert service["read_only"], name
            assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name


def test_any_number_of_workers_and_each_may_end_its_turns(services: dict[str, Any]) -> None:
    worker = services["worker"]
    assert worker.keys().isdisjoint({"container_name", "hostname", "ports"})
    assert (
        float(worker["stop_grace_period"].removesuffix("s"))
        > Settings.model_fields["turn_limit"].get_default()
    )


def test_one_service_builds_the_image_of_all_and_none_pulls_it(services: dict[str, Any]) -> None:
    ours = {name: service for name, service in services.items() if name not in FOREIGN}
    assert {service["image"] for service in ours.values()} == {"cvmstop:local"}
    assert [name for name, service in ours.items() if "build" in service] == ["migrate"]
    assert {service["pull_policy"] for service in ours.values()} == {"build", "never"}


def test_what_the_dockerfile_copies_is_in_the_build_context() -> None:
    ignore = (ROOT / ".dockerignore").read_text().splitlines()
    kept = [line[1:] for line in ignore if line.startswith("!")]
    copied = [
        source
        for line in (ROOT / "Dockerfile").read_text().splitlines()
        if line.startswith("COPY ")
        for source in line.split()[1:-1]
    ]
    assert "*" in ignore
    assert copied
    for source in copied:
        assert (ROOT / source).exists(), source
        assert any(fnmatch.fnmatch(source, pattern) for pattern in kept), source
    assert not [name for name in (".env", "demo.env", ".git", "tests") if name in kept]


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServices]:
    """Start every service of the file as a local process, those of the profiles included."""
    variables = {
        **REQUIRED,
        "CVMSTOP_API_PORT": str(free_port()),
        "CVMSTOP_FLOWER_PORT": str(free_port()),
    }
    directory = tmp_path_factory.mktemp("compose")
    with LocalServices(read(COMPOSE_FILE, variables), directory) as made:
        made.up()
        yield made
        made.require_running()
        assert made.down() == []
        for name in made.services:
            log = made.log(name)
            assert not [secret for secret in REQUIRED.values() if secret in log], name


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


def test_health_checks_pass(local: LocalServices) -> None:
    for name, service in local.services.items():
        if "healthcheck" in service:
            local.await_health(name)


def test_health_checks_of_workers_fail_for_one_that_does_not_answer(local: LocalServices) -> None:
    nobody = {**local.services["worker"]["environment"], "HOSTNAME": "nobody"}
    document = {**local.document, "services": {**local.services}}
    document["services"]["worker"] = {**local.services["worker"], "environment": nobody}
    other = LocalServices(document, local.directory, _ports=local._ports)
    assert not other.is_healthy("worker")


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
        wanted = {"appendonly": "yes", "maxmemory-policy": "noeviction", "save": ""}
        assert client.config_get(*wanted) == wanted


def test_no_secret_is_in_a_process_list(local: LocalServices) -> None:
    for name, command in local.commands.items():
        assert not [s for s in REQUIRED.values() if any(s in part for part in command)], name


def test_every_port_of_the_file_is_spoken_for(services: dict[str, Any]) -> None:
    listening = {name for name, service in services.items() if container_ports(service)}
    hosts = {f"simulated-host-{number}" for number in (1, 2, 3)}
    assert listening == FOREIGN | {"api", "flower"} | hosts
