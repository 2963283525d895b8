"""From a host's row to a driver that is kept for it."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from shared.models.errors import ErrorCode
from workers.drivers.dstack import DstackDriver
from workers.drivers.errors import FinalHostError
from workers.drivers.libvirt.driver import LibvirtDriver


if TYPE_CHECKING:
    from collections.abc import Callable

    from shared.models.hosts import HostConnection
    from shared.settings import Settings
    from workers.drivers.protocol import Driver


class Drivers:
    """The drivers of this process: one for each host, used by many threads at once.

    Parameters
    ----------
    settings
        Gives the time-outs.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._builders: dict[str, Callable[[HostConnection], Driver]] = {
            "dstack": self._build_dstack,
            "libvirt": self._build_libvirt,
        }
        self._lock = threading.Lock()
        self._kept: dict[str, tuple[HostConnection, Driver]] = {}

    def get(self, connection: HostConnection) -> Driver:
        """Give the driver of a host.

        The one that was given before, as long as the host's driver, address and credentials are
        the same; otherwise a new one, and the old one is closed. Requests under way on the old
        one end undisturbed.

        Raises
        ------
        FinalHostError
            `bad_host_configuration`: the driver is unknown, or the address or the credentials
            cannot be used.
        """
        with self._lock:
            kept = self._kept.get(connection.name)
            if kept is not None and kept[0] == connection:
                return kept[1]
            driver = self._build(connection)
            self._kept[connection.name] = (connection, driver)
        if kept is not None:
            kept[1].close()
        return driver

    def close(self) -> None:
        """Close every driver."""
        with self._lock:
            kept = list(self._kept.values())
            self._kept.clear()
        for _, driver in kept:
            driver.close()

    def _build(self, connection: HostConnection) -> Driver:
        build = self._builders.get(connection.driver)
        if build is None:
            known = ", ".join(sorted(self._builders))
            msg = f"host {connection.name}: no driver {connection.driver!r}; there is: {known}"
            raise FinalHostError(ErrorCode.BAD_HOST_CONFIGURATION, msg)
        return build(connection)

    def _build_dstack(self, connection: HostConnection) -> Driver:
        return DstackDriver(
            connection,
            connect_timeout=self._settings.host_connect_timeout,
            query_timeout=self._settings.host_query_timeout,
            stop_timeout=self._settings.host_stop_timeout,
        )

    def _build_libvirt(self, connection: HostConnection) -> Driver:
        return LibvirtDriver(
            connection,
            connect_timeout=self._settings.host_connect_timeout,
            query_timeout=self._settings.host_query_timeout,
            stop_timeout=self._settings.host_stop_timeout,
            restart_guard=self._settings.restart_guard,
        )
