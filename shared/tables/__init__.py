"""The tables, as SQLAlchemy maps them. Migrations are made from these."""

from shared.tables.access import ApiKey, Membership, PageSession, User, Workspace
from shared.tables.base import Base
from shared.tables.inventory import Cvm, UnassignedVm, VmHost
from shared.tables.operations import CvmOperation
from shared.tables.stop_changes import BatchWatch, StopChange
from shared.tables.stops import CvmDrift, StopAttempt, StopBatch, StopTask
from shared.tables.webhooks import Webhook, WebhookDelivery, WebhookProgress


__all__ = [
    "ApiKey",
    "Base",
    "BatchWatch",
    "Cvm",
    "CvmDrift",
    "CvmOperation",
    "Membership",
    "PageSession",
    "StopAttempt",
    "StopBatch",
    "StopChange",
    "StopTask",
    "UnassignedVm",
    "User",
    "VmHost",
    "Webhook",
    "WebhookDelivery",
    "WebhookProgress",
    "Workspace",
]
