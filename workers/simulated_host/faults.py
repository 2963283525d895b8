"""Which fault strikes which request."""

from __future__ import annotations

from typing import TYPE_CHECKING


if TYPE_CHECKING:
    import random
    from collections.abc import Iterable

    from workers.simulated_host.behaviour import Fault


class FaultBook:
    """The faults of a host or of a VM, and how often each may still strike."""

    def __init__(self, faults: Iterable[Fault], chance: random.Random) -> None:
        self._left = [(fault, fault.count) for fault in faults]
        self._chance = chance

    def draw(self, method: str) -> Fault | None:
        """Give the fault that strikes a request now, if any."""
        for place, (fault, left) in enumerate(self._left):
            if left == 0 or (fault.methods and method not in fault.methods):
                continue
            if fault.probability < 1 and self._chance.random() >= fault.probability:
                continue
            if left is not None:
                self._left[place] = (fault, left - 1)
            return fault
        return None
