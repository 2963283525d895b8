"""Rows for tests. Each function adds and flushes; the test commits when others must see them."""

from __future__ import annotations

from datetime import timedelta
from itertools import count
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from sqlalchemy import func

from shared import api_keys
from shared.models.callers import Caller
from shared.models.hosts import DEFAULT_CAP
from shared.models.states import UserRole
from shared.models.webhooks import EVENTS
from shared.sealing import Sealer
from shared.tables import (
    ApiKey,
    Cvm,
    Membership,
    StopBatch,
    StopTask,
    User,
    VmHost,
    Webhook,
    WebhookDelivery,
    Workspace,
)


if TYPE_CHECKING:
    from pydantic import SecretStr
    from sqlalchemy.orm import Session

    from shared.models.hosts import HostCredentials

numbers = count(1)
"""Makes names and addresses unique within a test run."""


def make_workspace(session: Session, name: str | None = None) -> Workspace:
    """Add a workspace."""
    workspace = Workspace(name=name or f"workspace-{next(numbers)}")
    session.add(workspace)
    session.flush()
    return workspace


def make_user(
    session: Session, *workspaces: Workspace, name: str | None = None, admin: bool = False
) -> User:
    """Add a user, a member of each of the workspaces."""
    role = UserRole.ADMIN if admin else UserRole.USER
    user = User(name=name or f"user-{next(numbers)}", role=role)
    session.add(user)
    session.flush()
    session.add_all(
        Membership(user_id=user.id, workspace_id=workspace.id) for workspace in workspaces
    )
    session.flush()
    return user


def make_key(
    session: Session,
    user: User,
    workspace: Workspace,
    *,
    expires_in: timedelta | None = None,
    revoked: bool = False,
) -> tuple[ApiKey, str]:
    """Add an API key; give its row and the key itself.

    Parameters
    ----------
    expires_in
        From the database's now; negative for a key that has expired. None never expires.
    """
    plain = api_keys.new_api_key()
    row = ApiKey(
        user_id=user.id,
        workspace_id=workspace.id,
        name="made for a test",
        hint=api_keys.hint(plain),
        digest=api_keys.digest(plain),
        expires_at=None if expires_in is None else func.now() + expires_in,
        revoked_at=func.now() if revoked else None,
    )
    session.add(row)
    session.flush()
    return row, plain


def make_caller(
    session: Session, workspace: Workspace, *, admin: bool = False
) -> tuple[Caller, str]:
    """Add somebody who asks: a member of the workspace with a key for it, or an admin; and the key.

    Parameters
    ----------
    admin
        Whether it is an admin, who then is a member of nothing.
    """
    user = make_user(session, *([] if admin else [workspace]), admin=admin)
    row, plain = make_key(session, user, workspace)
    caller = Caller(
        api_key_id=row.id,
        user_id=user.id,
        role=UserRole(user.role),
        workspace_id=workspace.id,
    )
    return caller, plain


def make_host(
    session: Session,
    *,
    name: str | None = None,
    address: str = "http://127.0.0.1:1",
    cap: int = DEFAULT_CAP,
    credentials: HostCredentials | None = None,
    sealing_keys: SecretStr | None = None,
) -> VmHost:
    """Add a VM host of the `dstack` driver. Credentials need `settings.sealing_keys`."""
    sealed = None
    if credentials is not None:
        assert sealing_keys is not None
        sealed = Sealer(sealing_keys).seal(credentials.to_bytes())
    host = VmHost(
        name=name or f"host-{next(numbers)}",
        driver="dstack",
        address=address,
        max_concurrent_stops=cap,
        sealed_credentials=sealed,
    )
    session.add(host)
    session.flush()
    return host


def make_cvm(
    session: Session,
    workspace: Workspace,
    host: VmHost | None = None,
    *,
    hash_id: str | None = None,
    vm_uuid: str | None = None,
    status: str = "running",
    in_progress: bool = False,
    gpu_rental_order: str | None = None,
) -> Cvm:
    """Add a CVM. One with a host gets a `vm_uuid`; one without has none, and cannot be stopped."""
    number = next(numbers)
    if host is not None and vm_uuid is None:
        vm_uuid = f"00000000-0000-4000-8000-{number:012d}"
    cvm = Cvm(
        hash_id=hash_id or f"cvm_{number:08d}",
        name=f"cvm {number}",
        workspace_id=workspace.id,
        vm_host_id=host.id if host else None,
        vm_uuid=vm_uuid,
        status=status,
        in_progress=in_progress,
        gpu_rental_order=gpu_rental_order,
    )
    session.add(cvm)
    session.flush()
    return cvm


def make_webhook(session: Session, workspace: Workspace, user: User) -> Webhook:
    """Add an endpoint whose secret nobody can open."""
    webhook = Webhook(
        workspace_id=workspace.id,
        user_id=user.id,
        by_admin=user.role == UserRole.ADMIN,
        url="https://127.0.0.1:8443/",
        events=list(EVENTS),
        sealed_secret=b"nothing",
    )
    session.add(webhook)
    session.flush()
    return webhook


def make_delivery(session: Session, webhook: Webhook, **columns: Any) -> WebhookDelivery:
    """Add a delivery that was given up, unless columns say otherwise."""
    subject = uuid4()
    values = {"state": "failed", "event": "cvm.stop.failed", "body": "{}", **columns}
    delivery = WebhookDelivery(
        webhook_id=webhook.id, event_id=f"evt_{subject.hex}", subject_id=subject, **values
    )
    session.add(delivery)
    session.flush()
    return delivery


def make_ended_stop(
    session: Session, cvm: Cvm, key: ApiKey, *, host: VmHost | None = None, **columns: Any
) -> StopTask:
    """Add a stop on record, in a batch of its own: succeeded, unless columns say otherwise.

    Parameters
    ----------
    key
        The API key that asked.
    host
        Where the CVM was then; None for where it is now.
    columns
        Further columns of the stop task.
    """
    batch = StopBatch(
        workspace_id=key.workspace_id,
        user_id=key.user_id,
        api_key_id=key.id,
        by_admin=False,
        request_id="a request",
        total=1,
        stopped=1,
        skipped=0,
        errors=[],
    )
    session.add(batch)
    session.flush()
    values = {
        "state": "succeeded",
        "vm_host_id": host.id if host else cvm.vm_host_id,
        "deadline_at": func.now(),
        "finished_at": func.now(),
        **columns,
    }
    task = StopTask(
        batch_id=batch.id,
        cvm_id=cvm.id,
        workspace_id=cvm.workspace_id,
        vm_uuid=cvm.vm_uuid,
        request_id=batch.request_id,
        **values,
    )
    session.add(task)
    session.flush()
    return task
