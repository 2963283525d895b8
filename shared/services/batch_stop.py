"""Accepting a batch stop: one transaction, no host and no broker."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from shared.exceptions import IdempotencyMismatchError, TooManyCvmsError
from shared.models.batches import (
    CVM_NOT_FOUND,
    HOST_DISABLED,
    MAX_BATCH,
    BatchAnswer,
    RefusedCvm,
)
from shared.storage.batches import add_batch, find_candidates, find_earlier, request_digest


if TYPE_CHECKING:
    from psycopg import Connection

    from shared.models.batches import BatchRequest
    from shared.models.callers import Caller
    from shared.settings import ApiSettings
    from shared.storage.batches import Candidate, EarlierBatch


def accept_batch(
    connection: Connection[Any], caller: Caller, request: BatchRequest, settings: ApiSettings
) -> BatchAnswer:
    """Write a batch stop down; the caller commits and then sends `to_send`.

    Raises
    ------
    TooManyCvmsError
        More than 50 ids.
    IdempotencyMismatchError
        The idempotency key came with another body before.
    """
    _check_size(request)
    if request.idempotency_key is not None:
        earlier = find_earlier(connection, caller, request.idempotency_key)
        if earlier is not None:
            return _replay(earlier, request)
    candidates = find_candidates(connection, request.cvm_ids, sees_only=caller.sees_only, lock=True)
    answer, to_stop = _decide(request, candidates)
    deadline = timedelta(seconds=settings.stop_deadline)
    return add_batch(connection, caller, request, answer, to_stop, deadline=deadline)


def preview_batch(
    connection: Connection[Any], caller: Caller, request: BatchRequest
) -> BatchAnswer:
    """Give the answer that `accept_batch` would give now; nothing is written or locked.

    Raises
    ------
    TooManyCvmsError
        More than 50 ids.
    """
    _check_size(request)
    candidates = find_candidates(
        connection, request.cvm_ids, sees_only=caller.sees_only, lock=False
    )
    return _decide(request, candidates)[0]


def _check_size(request: BatchRequest) -> None:
    if len(request.cvm_ids) > MAX_BATCH:
        msg = (
            f"{len(request.cvm_ids)} CVMs in one request; at most {MAX_BATCH} are allowed:"
            " send the rest in another request"
        )
        raise TooManyCvmsError(msg)


def _decide(
    request: BatchRequest, candidates: dict[str, Candidate]
) -> tuple[BatchAnswer, dict[int, str]]:
    """Count each id, in order, as stopped, skipped or refused; gives what to stop by row too."""
    to_stop: dict[str, int] = {}
    skipped = 0
    errors: list[RefusedCvm] = []
    for cvm_id in request.cvm_ids:
        candidate = candidates.get(cvm_id)
        if candidate is None:
            errors.append(RefusedCvm(cvm_id=cvm_id, error=CVM_NOT_FOUND))
        elif cvm_id in to_stop or not candidate.may_be_stopped:
            skipped += 1
        elif candidate.host_is_disabled:
            errors.append(RefusedCvm(cvm_id=cvm_id, error=HOST_DISABLED))
        else:
            to_stop[cvm_id] = candidate.id
    answer = BatchAnswer(
        batch_id=None,
        total=len(request.cvm_ids),
        stopped=len(to_stop),
        skipped=skipped,
        errors=tuple(errors),
    )
    return answer, {row: cvm_id for cvm_id, row in to_stop.items()}


def _replay(earlier: EarlierBatch, request: BatchRequest) -> BatchAnswer:
    if earlier.request_digest != request_digest(request.cvm_ids):
        msg = (
            f"Idempotency-Key {request.idempotency_key!r} was used before with another list of"
            " CVMs: take a new key for a new request"
        )
        raise IdempotencyMismatchError(msg)
    return earlier.answer
