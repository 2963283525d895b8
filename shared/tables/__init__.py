"""The tables, as SQLAlchemy maps them. Migrations are made from these."""

from shared.tables.access import ApiKey, Membership, User, Workspace
from shared.tables.base import Base
from shared.tables.inventory import Cvm, UnassignedVm, VmHost
from shared.tables.operations import CvmOperation
from shared.tables.stops import CvmDrift, StopAttempt, StopBatch, StopTask


__all__ = [
    "ApiKey",
    "Base",
    "Cvm",
    "CvmDrift",
    "CvmOperation",
    "Membership",
    "StopAttempt",
    "StopBatch",
    "StopTask",
    "UnassignedVm",
    "User",
    "VmHost",
    "Workspace",
]
