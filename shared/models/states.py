"""The states of a stop task and of a VM, and what a try can end in."""

from __future__ import annotations

from enum import StrEnum


class StopState(StrEnum):
    """Where a stop task stands."""

    SCHEDULED = "scheduled"
    """Accepted; waits for a worker until `due_at`."""
    STOPPING = "stopping"
    """Claimed by one worker, until its lease runs out."""
    CONFIRMING = "confirming"
    """The host took the force stop, and has not reported the VM down yet."""
    SUCCEEDED = "succeeded"
    """The host was seen to report the VM stopped or absent."""
    FAILED = "failed"
    """Given up; the error says why."""
    CANCELED = "canceled"
    """Taken back while no worker held it, and before its host took a force stop."""


WAITING_STATES = (StopState.SCHEDULED, StopState.CONFIRMING)
"""States in which a stop waits for a worker."""

OPEN_STATES = (*WAITING_STATES, StopState.STOPPING)
"""States in which a CVM has an operation in progress; at most one per CVM (I3)."""


class PowerState(StrEnum):
    """What a host says of a VM. The first five are dstack-vmm's own words.

    Source: dstack `vmm/src/app/vm_info.rs`, statuses are a function of the persisted `started`
    flag and of the VM's process.
    """

    RUNNING = "running"
    EXITED = "exited"
    """Its process ended by itself; the host may start it again."""
    STOPPING = "stopping"
    """Told to stop; its process is still there."""
    STOPPED = "stopped"
    REMOVING = "removing"
    """Being deleted; ends as absent."""
    ABSENT = "absent"
    """The host knows no such VM."""

    @property
    def is_down(self) -> bool:
        """Whether a stop has reached its end. `exited` has not: the host may restart it."""
        return self in {PowerState.STOPPED, PowerState.ABSENT}

    @property
    def is_drift(self) -> bool:
        """Whether a VM whose stop has succeeded must have been started again to be in it.

        `removing` is no sign of that: stopped VMs are deleted too.
        """
        return not self.is_down and self is not PowerState.REMOVING


class AttemptOutcome(StrEnum):
    """What one worker's turn with a stop ended in."""

    RUNNING = "running"
    """The turn is under way (or its worker died and the lease has not run out yet)."""
    SUCCEEDED = "succeeded"
    """The VM was seen down."""
    CONFIRMING = "confirming"
    """The host took the force stop; the VM is not down yet."""
    RETRY = "retry"
    """A failure that may pass; the stop is tried again."""
    FAILED = "failed"
    """A final failure, or the last one allowed."""
    LEASE_EXPIRED = "lease_expired"
    """Its worker did not settle it in time; another one takes over."""


class UserRole(StrEnum):
    """What a user may do."""

    ADMIN = "admin"
    """Any CVM, in every workspace."""
    USER = "user"
    """CVMs in the workspace of the key, while a member of it."""
