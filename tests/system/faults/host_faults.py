"""What befalls VM hosts: dead, cut off, not to be trusted, or behaving badly."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from tests.system.faults.machines import WELL
from tests.system.faults.strikes import MOMENT


if TYPE_CHECKING:
    import random

    from tests.system.faults.cluster import Cluster
    from tests.system.faults.strikes import Fault


def host_killed(cluster: Cluster, chance: random.Random) -> None:
    """Kill what manages a host: refused until it is back. Its VMs run again then."""
    part = cluster.machines[chance.choice(["host-1", "host-2"])].part
    part.kill()
    time.sleep(MOMENT)
    part.start()
    part.wait_until_ready()


def host_behaves(seconds: float = MOMENT, **behaviour: Any) -> Fault:
    """Make the fault in which a host behaves badly for a while."""

    def fault(cluster: Cluster, chance: random.Random) -> None:
        machine = cluster.machines[chance.choice(["host-1", "host-2", "host-3"])]
        machine.behave(**behaviour)
        time.sleep(seconds)
        machine.behave(**WELL)

    return fault


def host_swallowed(cluster: Cluster, _: random.Random) -> None:
    """Have the network to a host swallow everything."""
    cluster.host_proxy.swallow()
    time.sleep(MOMENT)
    cluster.host_proxy.well()


def host_cut(cluster: Cluster, _: random.Random) -> None:
    """Break connections to a host in the middle of its answers."""
    cluster.host_proxy.cut_answers(100)
    time.sleep(MOMENT)
    cluster.host_proxy.well()


def host_certificate_expired(cluster: Cluster, _: random.Random) -> None:
    """Have a host show a certificate that has expired."""
    part = cluster.machines["host-tls"].part
    for change in (cluster.certificates.expire, cluster.certificates.renew):
        part.kill()
        change()
        part.start()
        part.wait_until_ready()
        if change == cluster.certificates.expire:
            time.sleep(MOMENT)
