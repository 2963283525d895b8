"""`/api/v1/cvms/{cvm_id}/operation`: another control plane says that it works on a CVM."""

from __future__ import annotations

from datetime import timedelta

from fastapi import APIRouter

from api.authenticated_route import RATE_LIMITED, AdminRoute
from api.dependencies import CurrentCaller, Parts
from api.openapi import ADMIN_ONLY, BODY_REFUSED, REFUSALS, STOP_IN_PROGRESS, UNKNOWN_CVM
from api.schemas import CvmOperationRequest, CvmOperationView, PlainText
from shared.database import transaction
from shared.services.operations import clear_operation, put_operation


router = APIRouter(
    prefix="/api/v1/cvms/{cvm_id}/operation",
    tags=["CVMs"],
    route_class=AdminRoute,
    responses={**REFUSALS, **RATE_LIMITED, **ADMIN_ONLY, **UNKNOWN_CVM},
)


@router.put(
    "",
    summary="Say that a CVM is being worked on, and for how long at most",
    responses={**STOP_IN_PROGRESS, **BODY_REFUSED},
)
def put_cvm_operation(
    cvm_id: PlainText, body: CvmOperationRequest, parts: Parts, caller: CurrentCaller
) -> CvmOperationView:
    """Put a CVM in progress, so that batch stops skip it; again renews or replaces. Admins only."""
    with transaction(parts.engine) as session:
        operation = put_operation(
            session,
            caller,
            cvm_id,
            name=body.name,
            expires_in=timedelta(seconds=body.expires_in),
        )
    return CvmOperationView(
        cvm_id=operation.cvm_id,
        name=operation.name,
        user=operation.user,
        started_at=operation.started_at,
        expires_at=operation.expires_at,
    )


@router.delete("", status_code=204, summary="Say that a CVM is worked on no longer")
def delete_cvm_operation(cvm_id: PlainText, parts: Parts) -> None:
    """Clear it, if there is one; a stop on the CVM goes on undisturbed. Admins only."""
    with transaction(parts.engine) as session:
        clear_operation(session, cvm_id)
