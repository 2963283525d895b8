"""What libvirt's states of a domain mean for a stop.

Source: libvirt `include/libvirt/libvirt-domain.h`, `virDomainState`; what the QEMU driver does in
each is from its `qemu_process.c` and `qemu_driver.c`.
"""

from __future__ import annotations

import re

from shared.models.errors import ErrorCode
from shared.models.states import PowerState
from workers.drivers.errors import HostRefusedError


NAMES = {
    0: "nostate",
    1: "running",
    2: "blocked",
    3: "paused",
    4: "shutdown",
    5: "shutoff",
    6: "crashed",
    7: "pmsuspended",
}
"""`virDomainState`, as in its constants' names."""

POWER_STATES = {
    "nostate": PowerState.RUNNING,  # Xen's word for a domain that is not on a CPU just now
    "running": PowerState.RUNNING,
    "blocked": PowerState.RUNNING,
    "paused": PowerState.RUNNING,  # its process is there, and its memory too
    "pmsuspended": PowerState.RUNNING,  # wakes up by itself
    "shutdown": PowerState.STOPPING,  # its guest is off, its process is still there
    "shutoff": PowerState.STOPPED,
    "crashed": PowerState.EXITED,
}

RESTARTS = re.compile(
    r"<on_(?:poweroff|crash|lockfailure)>\s*(?:rename-|coredump-)?restart\s*</on_"
)
"""Where a domain's XML says that it is started again. `on_reboot` is left out: it restarts by
default, and a domain that is off does not reboot. Searched for as text: libvirt writes the XML in
one form, and a match in a comment of somebody's costs a wait."""


SHUTOFF = 5
MIGRATED = 4
"""`VIR_DOMAIN_SHUTOFF_MIGRATED`: of a domain that is off, as it runs elsewhere now."""


def has_migrated(number: int, reason: int) -> bool:
    """Whether a domain left this host while it ran: it is off here, and not down."""
    return (number, reason) == (SHUTOFF, MIGRATED)


def power_state_of(number: int, *, is_active: bool) -> PowerState:
    """Give the state of a domain as ours.

    Parameters
    ----------
    number
        `virDomainState`.
    is_active
        The domain has an id, so that its hypervisor has it. A crashed one may be kept for people
        to look at (`on_crash` preserve), with its process and memory, or be restarted.

    Raises
    ------
    HostRefusedError
        `bad_answer`: libvirt has a state that is not known here.
    """
    name = NAMES.get(number)
    if name is None:
        msg = f"libvirt reports a state that cvmstop does not know ({number})"
        raise HostRefusedError(ErrorCode.BAD_ANSWER, msg)
    if name == "crashed" and not is_active:
        return PowerState.STOPPED
    return POWER_STATES[name]


def is_set_to_restart(xml: str) -> bool:
    """Whether a domain's XML tells libvirt to start it again after it ended."""
    return RESTARTS.search(xml) is not None
