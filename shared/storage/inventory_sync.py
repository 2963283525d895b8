"""Making the rows of one host's VMs true: a few statements, whatever the number of VMs.

Locks: the host's row first, as claims and settlings take it, so that no stop of the host is claimed
or settled meanwhile. After it, nothing is waited for: rows of CVMs, stops and drifts that somebody
else has locked are passed over, and are right after the next sync.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import TextClause, text

from shared.models.states import PowerState
from shared.storage.cvm_records import IMPORT_LOCK


if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from sqlalchemy.orm import Session

    from shared.models.inventory import ListedVm

SEEN_STEP = timedelta(minutes=10)
"""How old `seen_at` grows before it is written again for its own sake.

With a million CVMs, each listed once a minute, it would be 17,000 rows a second that say nothing
new. `vm_hosts.synced_at` has the time of the whole list.
"""

DOWN = [str(state) for state in PowerState if state.is_down]
DRIFT = [str(state) for state in PowerState if state.is_drift]


@dataclass(frozen=True, kw_only=True)
class LockedForSync:
    """A host whose row is locked until the transaction ends."""

    id: UUID
    reached_by: tuple[str, str, bytes | None] = field(repr=False)
    """Driver, address and sealed credentials."""
    adopts_into: UUID | None
    synced_at: datetime | None
    may_adopt: bool
    """No import is under way, and none begins before the transaction ends."""


# An import may wait for a CVM that is being adopted here, and this for one that it is importing.
_LOCK_HOST = text(
    """
SELECT adopts_into, driver, address, sealed_credentials,
       -- A clock that was ahead must not keep every later list out.
       CASE WHEN synced_at <= clock_timestamp() THEN synced_at END,
       CASE WHEN adopts_into IS NOT NULL THEN pg_try_advisory_xact_lock_shared(:import_lock) END
FROM vm_hosts WHERE id = :host FOR NO KEY UPDATE
"""
)


def lock_host(session: Session, host_id: UUID) -> LockedForSync | None:
    """Lock a host for a sync; None when it is gone."""
    row = session.execute(_LOCK_HOST, {"host": host_id, "import_lock": IMPORT_LOCK}).one_or_none()
    if row is None:
        return None
    adopts_into, driver, address, sealed_credentials, synced_at, may_adopt = row
    return LockedForSync(
        id=host_id,
        reached_by=(driver, address, sealed_credentials),
        adopts_into=adopts_into,
        synced_at=synced_at,
        may_adopt=bool(may_adopt),
    )


_LISTED = """
WITH listed AS MATERIALIZED (
    SELECT * FROM json_to_recordset(CAST(:list AS json))
        AS listed (vm_uuid text, name text, state text, hash_id text)
), """
"""As JSON: psycopg takes ten times as long to write arrays."""


def _with_list(statement: str) -> TextClause:
    """Put the list before a statement, as `listed` (vm_uuid, name, state, hash_id)."""
    return text(f"{_LISTED}{statement}")


# What is held keeps its state: an operation on it is open, or something about it was written after
# the host was asked. A turn that settles, a deadline and an import all set `updated_at`. The
# condition is PostgreSQL's to try again on a row that changed while it was being locked.
_HELD = "(cvms.in_progress OR cvms.updated_at > CAST(:asked_at AS timestamptz))"

_UPDATE_CVMS = _with_list(
    f"""
changing AS MATERIALIZED (
    SELECT cvms.id, listed.state, {_HELD} AS is_held,
        NOT {_HELD} AND (
            cvms.status <> coalesce(listed.state, 'absent')
            OR (cvms.vanished_at IS NULL) = (listed.state IS NULL)
        ) AS is_changed,
        NOT {_HELD} AND cvms.vanished_at IS NULL AND listed.state IS NULL AS has_vanished
    FROM cvms LEFT JOIN listed ON listed.vm_uuid = cvms.vm_uuid
    WHERE cvms.vm_host_id = :host AND cvms.vm_uuid IS NOT NULL AND (
        (
            listed.state IS NOT NULL
            AND coalesce(cvms.seen_at, '-infinity') <= CAST(:asked_at AS timestamptz) - :step
        )
        OR NOT {_HELD} AND (
            cvms.status <> coalesce(listed.state, 'absent')
            OR (cvms.vanished_at IS NULL) = (listed.state IS NULL)
        )
    )
    FOR NO KEY UPDATE OF cvms SKIP LOCKED
), written AS (
    UPDATE cvms SET
        status = CASE WHEN is_held THEN cvms.status ELSE coalesce(changing.state, 'absent') END,
        seen_at = CASE
            WHEN changing.state IS NULL THEN cvms.seen_at
            ELSE greatest(cvms.seen_at, CAST(:asked_at AS timestamptz))
        END,
        vanished_at = CASE
            WHEN is_held THEN cvms.vanished_at
            WHEN changing.state IS NULL THEN coalesce(cvms.vanished_at, :asked_at)
        END,
        updated_at = CASE WHEN is_changed THEN :asked_at ELSE cvms.updated_at END
    FROM changing WHERE cvms.id = changing.id
    RETURNING is_changed, has_vanished
)
SELECT count(*) FILTER (WHERE is_changed), count(*) FILTER (WHERE has_vanished) FROM written
"""  # noqa: S608 - our own text
)

_ADOPT = _with_list(
    """
unknown AS (
    SELECT * FROM listed WHERE NOT EXISTS (
        SELECT FROM cvms WHERE cvms.vm_host_id = :host AND cvms.vm_uuid = listed.vm_uuid
    )
)
INSERT INTO cvms (hash_id, name, workspace_id, vm_host_id, vm_uuid, status, seen_at, updated_at)
SELECT hash_id, name, :workspace, :host, vm_uuid, state, :asked_at, :asked_at
FROM unknown WHERE state <> 'removing'
ON CONFLICT DO NOTHING
"""
)

# Of CVMs that have the list's status by now: of one that was passed over, drift waits too.
# The stop's row is locked too: a purge that is about to delete it does not see this transaction's
# drift. Not locked where the newest one is looked for, or a locked one would be passed over for an
# older one.
_DRIFTS = _with_list(
    f"""
on_host AS MATERIALIZED (
    SELECT cvms.id, cvms.vm_uuid, listed.state
    FROM cvms LEFT JOIN listed ON listed.vm_uuid = cvms.vm_uuid
    WHERE cvms.vm_host_id = :host AND cvms.vm_uuid IS NOT NULL AND NOT {_HELD}
        AND cvms.status = coalesce(listed.state, 'absent')
), newest AS MATERIALIZED (
    SELECT on_host.id AS cvm_id, stop.id AS stop_task_id
    FROM on_host CROSS JOIN LATERAL (
        SELECT id, state, finished_at, vm_uuid FROM stop_tasks WHERE cvm_id = on_host.id
        ORDER BY accepted_at DESC, id DESC LIMIT 1
    ) AS stop
    WHERE on_host.state = ANY(CAST(:drift AS text[])) AND stop.state = 'succeeded'
        AND stop.vm_uuid = on_host.vm_uuid
        AND stop.finished_at < CAST(:asked_at AS timestamptz)
        AND NOT EXISTS (
            SELECT FROM cvm_drifts WHERE cvm_drifts.cvm_id = on_host.id AND ended_at IS NULL
        )
), found AS MATERIALIZED (
    SELECT newest.* FROM newest
    JOIN cvms ON cvms.id = newest.cvm_id AND NOT {_HELD}
    JOIN stop_tasks ON stop_tasks.id = newest.stop_task_id
    FOR KEY SHARE OF cvms, stop_tasks SKIP LOCKED
), begun AS (
    INSERT INTO cvm_drifts (cvm_id, stop_task_id, vm_host_id, noticed_at)
    SELECT cvm_id, stop_task_id, :host, :asked_at FROM found
    ON CONFLICT DO NOTHING
), ending AS MATERIALIZED (
    SELECT cvm_drifts.id FROM cvm_drifts
    JOIN on_host ON on_host.id = cvm_drifts.cvm_id
    WHERE ended_at IS NULL
        AND (on_host.state IS NULL OR on_host.state = ANY(CAST(:down AS text[])))
    FOR NO KEY UPDATE OF cvm_drifts SKIP LOCKED
)
UPDATE cvm_drifts SET ended_at = :asked_at FROM ending WHERE cvm_drifts.id = ending.id
"""  # noqa: S608 - our own text
)

_UNASSIGNED = _with_list(
    """
unknown AS MATERIALIZED (
    SELECT * FROM listed WHERE NOT EXISTS (
        SELECT FROM cvms WHERE cvms.vm_host_id = :host AND cvms.vm_uuid = listed.vm_uuid
    )
), gone AS (
    DELETE FROM unassigned_vms WHERE vm_host_id = :host AND NOT EXISTS (
        SELECT FROM unknown WHERE unknown.vm_uuid = unassigned_vms.vm_uuid
    )
), put AS (
    INSERT INTO unassigned_vms AS there
        (vm_host_id, vm_uuid, name, power_state, first_seen_at, seen_at)
    SELECT :host, vm_uuid, name, state, :asked_at, :asked_at FROM unknown
    ON CONFLICT (vm_host_id, vm_uuid) DO UPDATE
    SET name = excluded.name, power_state = excluded.power_state, seen_at = excluded.seen_at
    WHERE (there.name, there.power_state) IS DISTINCT FROM (excluded.name, excluded.power_state)
        OR there.seen_at <= excluded.seen_at - :step
)
SELECT count(*) AS unassigned, (
    SELECT count(*) FROM cvms JOIN cvm_drifts ON cvm_drifts.cvm_id = cvms.id
    WHERE cvms.vm_host_id = :host AND cvm_drifts.ended_at IS NULL
) AS drifted
FROM unknown
"""
)

# A host that is back is asked again soon, however long the wait for it had grown.
_FINISH = text(
    """
UPDATE vm_hosts SET
    synced_at = :asked_at,
    sync_error = NULL,
    -- Not one that answers questions and lets force stops hang.
    unreachable_since = CASE WHEN unreachable_count > 0 THEN unreachable_since END,
    next_sync_at = CASE WHEN sync_error IS NULL THEN next_sync_at ELSE now() END
WHERE id = :host
"""
)


@dataclass(frozen=True, kw_only=True)
class Written:
    """What the statements did; `SyncCounts` says what each is."""

    updated: int
    vanished: int
    adopted: int
    unassigned: int
    drifted: int


def write_list(
    session: Session,
    host: LockedForSync,
    vms: Sequence[ListedVm],
    *,
    hash_ids: Sequence[str],
    asked_at: datetime,
) -> Written:
    """Make the rows of a locked host's VMs what its list says.

    Parameters
    ----------
    session
        The transaction that has locked the host.
    host
        The host.
    vms
        All of its VMs, each once, with ids, names and states that can be stored.
    hash_ids
        A new public id for each of them, in case it is adopted.
    asked_at
        The database's time from before the host was asked.
    """
    values: dict[str, Any] = {
        "host": host.id,
        "asked_at": asked_at,
        "step": SEEN_STEP,
        "list": json.dumps(
            [
                {
                    "vm_uuid": vm.vm_uuid,
                    "name": vm.name,
                    "state": str(vm.power_state),
                    "hash_id": hash_id,
                }
                for vm, hash_id in zip(vms, hash_ids, strict=True)
            ]
        ),
        "drift": DRIFT,
        "down": DOWN,
    }
    updated, vanished = session.execute(_UPDATE_CVMS, values).one()
    adopted = 0
    if host.adopts_into is not None and host.may_adopt:
        adopting = {**values, "workspace": host.adopts_into}
        adopted = session.connection().execute(_ADOPT, adopting).rowcount
    session.execute(_DRIFTS, values)
    unassigned, drifted = session.execute(_UNASSIGNED, values).one()
    session.execute(_FINISH, values)
    return Written(
        updated=updated,
        vanished=vanished,
        adopted=adopted,
        unassigned=unassigned,
        drifted=drifted,
    )
