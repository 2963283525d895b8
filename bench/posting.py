"""Clients that post batches of CVMs by their numbers, each CVM once."""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from urllib.parse import urlsplit

from bench.ground import cvm_id
from shared.models.batches import MAX_BATCH


CLIENTS = 2
"""Clients at once, each with a connection that it keeps."""

PATIENCE = 60.0
"""Seconds that a client waits for an answer."""


def post_all(url: str, api_key: str, first: int, stops: int) -> None:
    """Post the stops of CVMs from a number on, 50 at a time; all must be accepted."""
    batches = range(first, first + stops, MAX_BATCH)
    with ThreadPoolExecutor(CLIENTS) as pool:
        shares = [batches[client::CLIENTS] for client in range(CLIENTS)]
        list(pool.map(lambda share: _post(url, api_key, share), shares))


def _post(url: str, api_key: str, batches: range) -> None:
    headers = {"X-API-Key": api_key, "Content-Type": "application/json"}
    connection = HTTPConnection(urlsplit(url).netloc, timeout=PATIENCE)
    for first in batches:
        ids = [cvm_id(number) for number in range(first, first + MAX_BATCH)]
        body = json.dumps({"cvm_ids": ids})
        connection.request("POST", "/api/v1/cvms/batch-stop", body, headers)
        response = connection.getresponse()
        answer = json.loads(response.read())
        if response.status != 200 or answer["stopped"] != MAX_BATCH:
            sys.exit(f"not accepted: {response.status} {answer}")
    connection.close()
