"""The thin layer over libvirt-python, which is an optional extra and carries no types.

A connection must be let go of in a thread that may hang: its last reference closes it, which is a
question to the daemon (`virConnectClose`).
"""

from __future__ import annotations

import atexit
import threading
import time
import weakref
from contextlib import suppress
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

from shared.models.errors import ErrorCode
from workers.drivers.errors import FinalHostError


if TYPE_CHECKING:
    from workers.drivers.libvirt.uri import LibvirtUri

KEEPALIVE_INTERVAL = 5
"""Seconds of silence after which libvirt asks the daemon for a sign of life."""

KEEPALIVE_COUNT = 3
"""So many of them unanswered, and libvirt closes the connection: after 20 s of silence. It ends
calls that were given up; that turns end in time does not rest on it."""

EVENTS_PAUSE = 1.0
"""Seconds of rest for an event loop that fails, so that it does not fail all the time."""

NOT_INSTALLED = (
    "the libvirt driver needs the Python package libvirt-python, which is not installed here:"
    " pip install -r requirements-libvirt.txt (it is built against libvirt's headers, libvirt-dev)"
)


class LibraryError(Exception):
    """An error of libvirt's, without what hangs on a `libvirtError`.

    That one's traceback keeps the connection, so that it must not leave the thread it came up in.
    """

    def __init__(self, code: int, domain: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        """`VIR_ERR_…` of libvirt's `virterror.h`."""
        self.domain = domain
        """`VIR_FROM_…`: which part of libvirt says so."""
        self.message = message


class LibvirtLibrary:
    """libvirt-python, with its event loop running and its printing to stderr turned off."""

    def __init__(self, module: Any) -> None:
        self.module = module
        self.error: type[Exception] = module.libvirtError
        self._open: weakref.WeakSet[Any] = weakref.WeakSet()
        module.registerErrorHandler(_print_nothing, None)
        # Before the first connection, or there is no keepalive on any.
        module.virEventRegisterDefaultImpl()
        threading.Thread(target=self._run_events, name="libvirt-events", daemon=True).start()
        atexit.register(self._let_go)

    def open(self, uri: LibvirtUri, username: str | None, password: str | None) -> Any:
        """Connect; may hang for as long as the daemon likes.

        Raises
        ------
        LibraryError
            It did not come about.
        """
        try:
            if username is None and password is None:
                connection = self.module.open(uri.opened)
            else:
                answers = {
                    self.module.VIR_CRED_AUTHNAME: username,
                    self.module.VIR_CRED_PASSPHRASE: password,
                }
                auth = [list(answers), _answer, answers]
                connection = self.module.openAuth(uri.opened, auth, 0)
        except self.error as error:
            raise self.plain(error) from None
        self._open.add(connection)
        with suppress(self.error):  # those without a daemon (test, esx) have no keepalive
            connection.setKeepAlive(KEEPALIVE_INTERVAL, KEEPALIVE_COUNT)
        return connection

    def is_alive(self, connection: Any) -> bool:
        """Whether a connection still can be used. Asks nobody."""
        try:
            return bool(connection.isAlive())
        except self.error:
            return False

    def close(self, connection: Any) -> None:
        """Close a connection; may hang like `open`."""
        with suppress(self.error):
            connection.close()

    def plain(self, error: Any) -> LibraryError:
        """Give what an error says, and nothing that hangs on it."""
        return LibraryError(error.get_error_code() or 0, error.get_error_domain() or 0, str(error))

    def _run_events(self) -> None:
        while True:
            try:
                self.module.virEventRunDefaultImpl()
            except self.error:
                time.sleep(EVENTS_PAUSE)

    def _let_go(self) -> None:
        """Leave what is open to the kernel: closing it would wait for a daemon that is silent."""
        for connection in list(self._open):
            connection._o = None  # noqa: SLF001 - what libvirt-python's own close() does at its end


@cache
def load_library() -> LibvirtLibrary:
    """Give the library, once for the process.

    Raises
    ------
    FinalHostError
        `bad_host_configuration`: the extra is not installed.
    """
    try:
        module = import_module("libvirt")
    except ImportError:
        raise FinalHostError(ErrorCode.BAD_HOST_CONFIGURATION, NOT_INSTALLED) from None
    return LibvirtLibrary(module)


def _print_nothing(_context: object, _error: object) -> None:
    """Take an error that is raised as well; otherwise libvirt prints it."""


def _answer(asked: list[list[Any]], answers: dict[int, str | None]) -> int:
    """Answer SASL's questions: the last element of each is the place for it."""
    for question in asked:
        question[4] = answers.get(question[0]) or ""
    return 0
