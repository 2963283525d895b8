"""Clients that post batch stops, in a process of their own: their Python must not be what is slow.

`python -m bench.posting --port N --first N --last N --clients 8 --seconds 8`, with the API key in
`BENCH_API_KEY`, prints what they saw as JSON. Each client has one connection and CVMs of its own,
and asks for each CVM once: it ends when its time or its CVMs have.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from typing import Annotated
from urllib.parse import urlsplit

import typer

from bench.ground import cvm_id
from shared.models.batches import MAX_BATCH


PATH = "/api/v1/cvms/batch-stop"
API_KEY = "BENCH_API_KEY"


def make_body(first: int) -> bytes:
    """Write the request for 50 CVMs from a number on."""
    ids = [cvm_id(number) for number in range(first, first + MAX_BATCH)]
    return json.dumps({"cvm_ids": ids}).encode()


class Client:
    """One kept connection to an API."""

    def __init__(self, port: int, api_key: str) -> None:
        self._connection = HTTPConnection("127.0.0.1", port, timeout=30)
        self._headers = {"X-API-Key": api_key, "Content-Type": "application/json"}

    def post(self, body: bytes) -> float:
        """Post one request that is to stop 50 CVMs; gives the seconds until its whole answer.

        Ends the program when not all were taken: then something else is being measured.
        """
        began = time.perf_counter()
        self._connection.request("POST", PATH, body, self._headers)
        response = self._connection.getresponse()
        answer = response.read()
        took = time.perf_counter() - began
        if response.status != 200 or json.loads(answer)["stopped"] != MAX_BATCH:
            sys.exit(f"not all were taken: {response.status} {answer.decode()[:500]}")
        return took

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def post_all(url: str, api_key: str, first: int, stops: int) -> None:
    """Post the stops of CVMs from a number on, 50 at a time, by two clients at once."""
    port = urlsplit(url).port
    assert port is not None  # noqa: S101 - our own URLs have one
    clients = [Client(port, api_key) for _ in range(2)]
    batches = range(first, first + stops, MAX_BATCH)

    def post(number: int) -> None:
        for start in batches[number :: len(clients)]:
            clients[number].post(make_body(start))

    with ThreadPoolExecutor(len(clients)) as pool:
        list(pool.map(post, range(len(clients))))
    for client in clients:
        client.close()


def _post_all(
    client: Client, first: int, last: int, end: float, latencies: list[float], failed: list[object]
) -> None:
    try:
        for number in range(first, last - MAX_BATCH + 1, MAX_BATCH):
            if time.perf_counter() > end or failed:
                return
            latencies.append(client.post(make_body(number)))
    except (SystemExit, OSError) as error:
        failed.append(error)


def main(
    *,
    port: Annotated[int, typer.Option(help="Where the API is.")],
    first: Annotated[int, typer.Option(help="First CVM.")],
    last: Annotated[int, typer.Option(help="One after the last CVM.")],
    clients: Annotated[int, typer.Option(min=1, help="How many at once.")] = 8,
    seconds: Annotated[float, typer.Option(help="For how long.")] = 8.0,
) -> None:
    """Post, and print how long it took in all and each post."""
    share = (last - first) // clients
    latencies: list[float] = []
    failed: list[object] = []
    began = time.perf_counter()
    threads = [
        threading.Thread(
            target=_post_all,
            args=(
                Client(port, os.environ[API_KEY]),
                first + number * share,
                first + (number + 1) * share,
                began + seconds,
                latencies,
                failed,
            ),
        )
        for number in range(clients)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        sys.exit(f"posting failed: {failed[0]}")
    typer.echo(json.dumps({"seconds": time.perf_counter() - began, "latencies": latencies}))


if __name__ == "__main__":
    typer.run(main)
