"""What `bench.loading` fills the tables with, in SQL. Everything follows from numbers.

A row's id is made of its number, so that rows of another table can name it without a join. Stop
number N is of CVM number N modulo the CVMs; the CVMs of a batch are in one workspace.
"""

from __future__ import annotations


WORKSPACES = """
INSERT INTO workspaces (name)
SELECT 'workspace-' || lpad(number::text, 4, '0') FROM generate_series(1, %(count)s - 1) AS number
"""
"""Beside the caller's own."""

HOSTS = """
INSERT INTO vm_hosts (name, driver, address, max_concurrent_stops)
SELECT 'host-' || lpad(number::text, 4, '0'), 'dstack', 'http://127.0.0.1:1', %(cap)s
FROM generate_series(0, %(count)s - 1) AS number
"""

_WORKSPACE = "(%(workspaces)s::uuid[])[1 + (cvm / %(per_batch)s::int) %% %(workspace_count)s::int]"
_FAILED = "(stop + stop / 997) %% 20 = 7"
"""One in twenty, on any host and in any workspace."""

_HOST = "(%(hosts)s::uuid[])[1 + cvm %% %(host_count)s::int]"

CVMS = f"""
INSERT INTO cvms (id, hash_id, name, workspace_id, vm_host_id, vm_uuid, status, in_progress)
OVERRIDING SYSTEM VALUE
SELECT 1 + cvm, 'cvm_' || lpad(cvm::text, 8, '0'), 'bench', {_WORKSPACE}, {_HOST}, 'vm-' || cvm,
       'running', cvm >= %(cvms)s::int - %(open)s::int
FROM generate_series(0, %(cvms)s::int - 1) AS cvm
"""  # noqa: S608 - our own text
"""As `bench.ground` names them."""

BATCHES = f"""
INSERT INTO stop_batches (id, workspace_id, user_id, api_key_id, by_admin, request_id, total,
                          stopped, skipped, errors, accepted_at)
SELECT md5('batch-' || batch)::uuid, {_WORKSPACE}, %(user)s, %(key)s,
       batch * %(per_batch)s::int >= %(finished)s::int / 2, 'bench',
       %(per_batch)s::int, %(per_batch)s::int, 0, '[]',
       now() - (%(finished)s::int - batch * %(per_batch)s::int) * interval '1 minute'
FROM generate_series(0, (%(finished)s::int + %(open)s::int - 1) / %(per_batch)s::int) AS batch
CROSS JOIN LATERAL (SELECT (batch * %(per_batch)s::int) %% %(cvms)s::int AS cvm) AS first
WHERE %(finished)s::int + %(open)s::int > 0
"""  # noqa: S608 - as above
"""Of the stops that have ended, and behind them of those that have not.

Admins asked for the later half.
"""

STOPS = f"""
INSERT INTO stop_tasks (id, batch_id, cvm_id, workspace_id, vm_host_id, vm_uuid, request_id, state,
                        attempt, accepted_at, due_at, sent_at, deadline_at, worker,
                        force_stopped_at, finished_at, error_code, error_message)
SELECT md5('stop-' || stop)::uuid, md5('batch-' || stop / %(per_batch)s::int)::uuid, 1 + cvm,
       {_WORKSPACE}, {_HOST}, 'vm-' || cvm, 'bench',
       CASE WHEN {_FAILED} THEN 'failed' ELSE 'succeeded' END, 1, at, at, at,
       at + interval '15 minutes', 'worker@bench', at, at + interval '1 second',
       CASE WHEN {_FAILED} THEN 'deadline_exceeded' END,
       CASE WHEN {_FAILED} THEN 'not confirmed before the deadline; the last try: bench' END
FROM generate_series(0, %(finished)s::int - 1) AS stop
CROSS JOIN LATERAL (
    SELECT stop %% %(cvms)s::int AS cvm,
           now() - (%(finished)s::int - stop) * interval '1 minute' AS at
) AS its
"""  # noqa: S608 - as above

ATTEMPTS = f"""
INSERT INTO stop_attempts (stop_task_id, number, worker, started_at, finished_at, outcome,
                           power_state, exchanges)
SELECT md5('stop-' || stop)::uuid, 1, 'worker@bench', at, at + interval '1 second',
       CASE WHEN {_FAILED} THEN 'failed' ELSE 'succeeded' END, 'stopped',
       '[{{"answer": "200 {{}}", "request": "GetInfo {{}}", "seconds": 0.01}}]'
FROM generate_series(0, %(finished)s::int - 1) AS stop
CROSS JOIN LATERAL (
    SELECT now() - (%(finished)s::int - stop) * interval '1 minute' AS at
) AS its
"""  # noqa: S608 - as above

DRIFTS = f"""
INSERT INTO cvm_drifts (cvm_id, stop_task_id, vm_host_id, noticed_at, ended_at)
SELECT 1 + cvm, md5('stop-' || cvm)::uuid, {_HOST}, now(), CASE WHEN time > 0 THEN now() END
FROM generate_series(0, %(drifted)s::int - 1) AS drift
CROSS JOIN LATERAL (
    SELECT drift * (%(finished)s::int / greatest(%(drifted)s::int, 1)) AS cvm
) AS its
CROSS JOIN generate_series(0, 10) AS time
"""  # noqa: S608 - as above
"""Of each such CVM one that goes on, and ten that are over."""

_OPEN_STATE = """
CASE WHEN stop %% 20 = 0 THEN 'stopping' WHEN stop %% 20 < 4 THEN 'confirming' ELSE 'scheduled' END
"""

OPEN = f"""
INSERT INTO stop_tasks (id, batch_id, cvm_id, workspace_id, vm_host_id, vm_uuid, request_id, state,
                        attempt, deadline_at, lease_expires_at, worker)
SELECT md5('open-' || stop)::uuid,
       md5('batch-' || (%(finished)s::int + stop) / %(per_batch)s::int)::uuid, 1 + cvm,
       {_WORKSPACE}, {_HOST}, 'vm-' || cvm, 'bench', state,
       CASE state WHEN 'scheduled' THEN 0 ELSE 1 END,
       now() + interval '1 day', CASE state WHEN 'stopping' THEN now() + interval '1 day' END,
       CASE state WHEN 'scheduled' THEN NULL ELSE 'worker@bench' END
FROM generate_series(0, %(open)s::int - 1) AS stop
CROSS JOIN LATERAL (
    SELECT %(cvms)s::int - %(open)s::int + stop AS cvm, {_OPEN_STATE} AS state
) AS its
"""  # noqa: S608 - as above
"""All are due, and no message was sent for any."""

OPEN_ATTEMPTS = f"""
INSERT INTO stop_attempts (stop_task_id, number, worker, outcome)
SELECT md5('open-' || stop)::uuid, 1, 'worker@bench',
       CASE {_OPEN_STATE} WHEN 'stopping' THEN 'running' ELSE 'confirming' END
FROM generate_series(0, %(open)s::int - 1) AS stop
WHERE {_OPEN_STATE} <> 'scheduled'
"""  # noqa: S608 - as above
