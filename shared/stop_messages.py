"""Messages of stops, made from one that Celery has made.

Celery and kombu take a fifth of a millisecond to build a message, and do the same work for each.
Here that is done once; what differs between stops is put into a copy (`docs/performance.md`).
"""

from __future__ import annotations

import base64
import json
import re
from typing import TYPE_CHECKING, Any, Self
from uuid import UUID, uuid4

from shared.models.turns import DueStop


if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

STOP = "5b1d40a5-0a2c-4b9e-8a3e-1f6c2d7e9a01"
"""Stands where a stop task's id goes; a value that nothing else in a message has."""

REQUEST = "request-c7be0d1e-5c34-4f6a-9d27-3e8b6f1a2c04"
"""Stands where a request's id goes."""

CVM = "cvm_72d8f0b6-3e9a-4c15-b7d4-0a6e1c9f5b83"
"""Stands where the CVM's public id goes."""

HOST = "host-4e6b9a1d-8c27-4f03-a5be-d91f7c3e2a60"
"""Stands where the host's name goes."""

TAG = "9c0f7f3e-6d1b-4a58-b2e4-7a5d8c3f1b06"
"""Stands where the tag of the delivery goes; each message has its own."""

BODY = "body-e1a9d3c2-4b7f-4c60-8e15-2d9f0a6b3c07"
"""Stands where the body goes, in Base64."""

PLAIN = re.compile(r"[ !#-&(-\[\]-~]*")
"""Texts that look the same in JSON and in Python's `repr`: ASCII without quotes and `\\`.

The API takes no other request ids (`api.middleware.REQUEST_ID`), and CVMs and hosts have no other
names (`shared.models.naming`); rows may be written by somebody else.
"""


class StopMessages:
    """Makes messages as text, ready for a list in Redis.

    Parameters
    ----------
    body
        Text of a prototype's body: JSON with `STOP` and `REQUEST` in it.
    envelope
        Text of the prototype: JSON with `STOP`, `REQUEST`, `CVM`, `HOST`, `TAG` and `BODY` in it.
    """

    def __init__(self, body: str, envelope: str) -> None:
        self._body = body
        self._envelope = envelope

    @classmethod
    def from_prototype(cls, publish: Callable[[DueStop], dict[str, Any]]) -> Self:
        """Learn the layout.

        Parameters
        ----------
        publish
            Gives what kombu puts on the wire for a stop.
        """
        message = publish(
            DueStop(stop_task_id=UUID(STOP), request_id=REQUEST, cvm_id=CVM, host=HOST)
        )
        body = base64.b64decode(message["body"]).decode()
        message["body"] = BODY
        message["properties"]["delivery_tag"] = TAG
        return cls(body, json.dumps(message))

    def make_all(self, stops: Sequence[DueStop]) -> list[str]:
        """Make the messages of some stops; none when only Celery can make one of them."""
        if not all(PLAIN.fullmatch(stop.request_id + stop.shown) for stop in stops):
            return []
        return [self._make(stop) for stop in stops]

    def _make(self, stop: DueStop) -> str:
        task = str(stop.stop_task_id)
        body = self._body.replace(STOP, task).replace(REQUEST, stop.request_id)
        return (
            self._envelope.replace(STOP, task)
            .replace(REQUEST, stop.request_id)
            .replace(CVM, stop.cvm_id)
            .replace(HOST, stop.host)
            .replace(TAG, str(uuid4()))
            .replace(BODY, base64.b64encode(body.encode()).decode())
        )
