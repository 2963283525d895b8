"""Looking a name up, for so long at most."""

from __future__ import annotations

import ipaddress
import queue
import socket
import threading
from typing import Any


def look_up(host: str, port: int, timeout: float) -> list[tuple[int, Any]]:
    """Give a name's addresses; on a thread of its own, because getaddrinfo takes no time-out.

    Parameters
    ----------
    host
        A name, or an IP address, which is given back as it is.
    port
        For the addresses.
    timeout
        Longest wait in seconds.

    Returns
    -------
    list
        Of each address its family, and what `socket.connect` wants.

    Raises
    ------
    OSError
        The name has none, or is none.
    TimeoutError
        The time was over.
    """
    try:
        is_v4 = ipaddress.ip_address(host).version == 4
    except ValueError:
        pass  # a name
    else:
        return [(socket.AF_INET if is_v4 else socket.AF_INET6, (host, port))]
    found: queue.SimpleQueue[list[tuple[int, Any]] | Exception] = queue.SimpleQueue()

    def ask() -> None:
        try:
            rows = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:  # UnicodeError: a label too long or empty
            found.put(error)
        else:
            found.put([(row[0], row[4]) for row in rows])

    threading.Thread(target=ask, name="name-lookup", daemon=True).start()
    try:
        answer = found.get(timeout=timeout)
    except queue.Empty:
        msg = "the name was not resolved in time"
        raise TimeoutError(msg) from None
    if isinstance(answer, Exception):
        raise OSError(getattr(answer, "strerror", None) or str(answer)) from answer
    return answer
