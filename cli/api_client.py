"""A client of cvmstop's API, for commands. What goes wrong becomes one line for a person."""

from __future__ import annotations

import os
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self, cast
from uuid import uuid4

import httpx

from cli.api_ids import path_of, why_no_id
from shared.exceptions import CvmstopError, SettingsError


if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from types import TracebackType

URL_VARIABLE = "CVMSTOP_API_URL"
"""Environment variable that says where the API is."""

KEY_VARIABLE = "CVMSTOP_API_KEY"
"""Environment variable with the API key: an option could be seen in a list of processes."""

TIMEOUT = 10.0
"""Longest wait for one network step, in seconds."""

REPEAT_INTERVAL = 1.0
"""Seconds between two tries, where the API does not say how long to wait."""

BATCH_STOP = "/api/v1/cvms/batch-stop"
WEBHOOKS = "/api/v1/webhooks"

LARGEST_PAGE = 500
"""Most rows that the API gives at once."""


class ApiRequestError(CvmstopError):
    """The API cannot be reached, or does not do what it was asked for.

    Parameters
    ----------
    message
        One line for a person.
    status
        Of the answer; None if there was none.
    retry_after
        Seconds to wait before it is worth asking again.
    """

    slug = "api_request"

    def __init__(
        self, message: str, *, status: int | None = None, retry_after: float = REPEAT_INTERVAL
    ) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after

    @property
    def is_passing(self) -> bool:
        """Whether it is worth asking again: no answer, too many requests, or an outage."""
        return self.status in {None, 429, 503}


class ApiClient:
    """One caller's connection to the API.

    Parameters
    ----------
    url
        Where the API is: `http://host:port`.
    key
        The caller's API key.
    """

    def __init__(self, url: str, key: str) -> None:
        self._url = url.rstrip("/")
        self.patience = 0.0
        """Seconds for which an API that is away or refuses for a while is asked again."""
        try:
            self._client = httpx.Client(
                base_url=self._url, headers={"X-API-Key": key}, timeout=TIMEOUT, trust_env=False
            )
        except (httpx.InvalidURL, UnicodeEncodeError):
            raise SettingsError([f"{URL_VARIABLE} or {KEY_VARIABLE}: not usable"]) from None

    @classmethod
    def from_environment(cls) -> Self:
        """Take address and key from the environment.

        Raises
        ------
        SettingsError
            One of them is not set, or the address has no scheme.
        """
        missing = [
            f"{name} is not set: {what}"
            for name, what in (
                (URL_VARIABLE, "where the API is, such as http://127.0.0.1:8000"),
                (KEY_VARIABLE, "an API key, as `cvmstop keys create` shows it"),
            )
            if not os.environ.get(name)
        ]
        if missing:
            raise SettingsError(missing)
        if not os.environ[URL_VARIABLE].lower().startswith(("http://", "https://")):
            raise SettingsError([f"{URL_VARIABLE}: http:// or https:// is missing"])
        return cls(os.environ[URL_VARIABLE], os.environ[KEY_VARIABLE])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._client.close()

    def batch_stop(self, cvm_ids: Sequence[str]) -> tuple[str, dict[str, Any]]:
        """Ask for a batch of CVMs to be stopped; gives the batch's id and the answer.

        Raises
        ------
        ApiRequestError
            The API did not accept it.
        """
        # With a key of its own it may be sent again, should the answer not come.
        answer = self._send(
            "POST",
            BATCH_STOP,
            json={"cvm_ids": list(cvm_ids)},
            headers={"Idempotency-Key": str(uuid4())},
        )
        return answer.headers.get("X-Batch-Id", ""), self._json(answer)

    def preview(self, cvm_ids: Sequence[str]) -> dict[str, Any]:
        """Ask what a batch stop would be answered; raises what `batch_stop` raises."""
        body = {"cvm_ids": list(cvm_ids)}
        return self._json(self._send("POST", BATCH_STOP, json=body, params={"dry_run": "true"}))

    def act(self, things: str, thing_id: str, action: str) -> dict[str, Any]:
        """Retry or cancel one of `batches` or `stop-tasks`; raises what `batch_stop` raises."""
        path = f"{_path(things, thing_id)}/{action}"
        return self._json(self._send("POST", path, may_repeat=False))

    def cvms(
        self, wanted: Mapping[str, str | None], limit: int | None = None
    ) -> Iterator[dict[str, Any]]:
        """Read CVMs with some filters, by id; raises what `batch_stop` raises."""
        return self._pages("/api/v1/cvms", wanted, limit)

    def batches(self, limit: int) -> Iterator[dict[str, Any]]:
        """Read batches, the newest first; raises what `batch_stop` raises."""
        return self._pages("/api/v1/batches", {}, limit)

    def batch(self, batch_id: str) -> dict[str, Any]:
        """Read a batch with its stop tasks; raises what `batch_stop` raises."""
        return self._get(_path("batches", batch_id))

    def stop_task(self, stop_task_id: str) -> dict[str, Any]:
        """Read a stop task with everything that was tried; raises what `batch_stop` raises."""
        return self._get(_path("stop-tasks", stop_task_id))

    def failure_groups(self, wanted: Mapping[str, str]) -> dict[str, Any]:
        """Read what failed by reason and host; raises what `batch_stop` raises."""
        return self._get("/api/v1/stop-tasks/groups", wanted)

    def stop_tasks(
        self, wanted: Mapping[str, str | None], limit: int | None
    ) -> Iterator[dict[str, Any]]:
        """Read stop tasks, the newest first; raises what `batch_stop` raises.

        Parameters
        ----------
        wanted
            Filters, by the API's names for them; None leaves one out.
        limit
            How many at most, over as many pages as that takes; None for all.
        """
        return self._pages("/api/v1/stop-tasks", wanted, limit)

    def add_webhook(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """Add a webhook; gives it with its secret. Raises what `batch_stop` raises."""
        return self._json(self._send("POST", WEBHOOKS, json=dict(wanted), may_repeat=False))

    def webhooks(self, wanted: Mapping[str, str | None]) -> Iterator[dict[str, Any]]:
        """Read all webhooks, the newest first; raises what `batch_stop` raises."""
        return self._pages(WEBHOOKS, wanted, None)

    def change_webhook(self, webhook_id: str, change: Mapping[str, Any]) -> dict[str, Any]:
        """Change a webhook; raises what `batch_stop` raises."""
        path = _path("webhooks", webhook_id)
        return self._json(self._send("PATCH", path, json=dict(change)))

    def remove_webhook(self, webhook_id: str) -> None:
        """Delete a webhook; raises what `batch_stop` raises."""
        self._send("DELETE", _path("webhooks", webhook_id))

    def deliveries(
        self, webhook_id: str, wanted: Mapping[str, str | None], limit: int
    ) -> Iterator[dict[str, Any]]:
        """Read a webhook's deliveries, the newest first; raises what `batch_stop` raises."""
        return self._pages(f"{_path('webhooks', webhook_id)}/deliveries", wanted, limit)

    def redeliver(self, webhook_id: str, delivery_id: str) -> dict[str, Any]:
        """Have a delivery sent once more; raises what `batch_stop` raises."""
        deliveries = _path("webhooks", webhook_id).removeprefix("/api/v1/") + "/deliveries"
        return self.act(deliveries, delivery_id, "redeliver")

    def _pages(
        self, path: str, wanted: Mapping[str, str | None], limit: int | None
    ) -> Iterator[dict[str, Any]]:
        """Read a list page by page; a page may be short, or empty, and not be the last one."""
        filters = {name: value for name, value in wanted.items() if value is not None}
        cursor: dict[str, str] = {}
        left = sys.maxsize if limit is None else limit
        while left > 0:
            size = {"limit": str(min(left, LARGEST_PAGE))}
            page = self._get(path, {**filters, **size, **cursor})
            yield from page["items"]
            left -= len(page["items"])
            if page["next_cursor"] is None:
                return
            cursor = {"cursor": page["next_cursor"]}

    def _get(self, path: str, params: Mapping[str, str] | None = None) -> dict[str, Any]:
        return self._json(self._send("GET", path, params=params))

    def _json(self, answer: httpx.Response) -> dict[str, Any]:
        try:
            return cast("dict[str, Any]", answer.json())
        except ValueError:
            msg = f"{self._url} does not answer like cvmstop's API: is {URL_VARIABLE} right?"
            raise ApiRequestError(msg) from None

    def _send(
        self, method: str, path: str, *, may_repeat: bool = True, **content: Any
    ) -> httpx.Response:
        until = time.monotonic() + self.patience
        while True:
            try:
                return self._send_once(method, path, **content)
            except ApiRequestError as error:
                # 429: nothing was done. All else is repeated only if doing it twice is no harm.
                is_passing = error.is_passing and (may_repeat or error.status == 429)
                pause = error.retry_after
                if not is_passing or until - time.monotonic() <= pause:
                    raise
            time.sleep(pause)

    @contextmanager
    def stream(
        self, path: str, headers: Mapping[str, str], *, longest_silence: float
    ) -> Iterator[httpx.Response]:
        """Open an answer that is read as it comes.

        Parameters
        ----------
        path, headers
            Of the request, a GET.
        longest_silence
            Seconds without a byte after which it has broken.

        Raises
        ------
        ApiRequestError
            The API refused, cannot be reached, or went away while it was read.
        """
        timeout = httpx.Timeout(TIMEOUT, read=longest_silence)
        with (
            self._failures_told(),
            self._client.stream("GET", path, headers=headers, timeout=timeout) as answer,
        ):
            if not answer.is_success:
                answer.read()
                raise _refusal(answer)
            yield answer

    def _send_once(self, method: str, path: str, **content: Any) -> httpx.Response:
        with self._failures_told():
            answer = self._client.request(method, path, **content)
        if answer.is_success:
            return answer
        raise _refusal(answer)

    @contextmanager
    def _failures_told(self) -> Iterator[None]:
        try:
            yield
        except (httpx.TransportError, httpx.InvalidURL) as error:
            msg = (
                f"the API at {self._url} does not answer ({type(error).__name__}):"
                f" is it running, and is {URL_VARIABLE} right?"
            )
            raise ApiRequestError(msg) from None


def _path(things: str, thing_id: str) -> str:
    """Give the path of one thing; raises what the API's refusal of such an id would become."""
    if (problem := why_no_id(things, thing_id)) is not None:
        raise ApiRequestError(problem, status=422)
    return path_of(things, thing_id)


def _refusal(answer: httpx.Response) -> ApiRequestError:
    if answer.status_code == 401:
        msg = f"the API does not know the key in {KEY_VARIABLE}, or it is not valid any more"
    else:
        msg = f"the API answered {answer.status_code}: {_detail(answer)}"
    return ApiRequestError(msg, status=answer.status_code, retry_after=_retry_after(answer.headers))


def _retry_after(headers: httpx.Headers) -> float:
    text = headers.get("Retry-After", "")
    return float(text) if text.isdecimal() else REPEAT_INTERVAL


def _detail(answer: httpx.Response) -> str:
    """Give what the API says is wrong, in one line."""
    try:
        detail = answer.json()["detail"]
    except (ValueError, KeyError, TypeError):
        return answer.reason_phrase
    if isinstance(detail, list):
        problems = [f"{'.'.join(map(str, each['loc'][1:]))}: {each['msg']}" for each in detail]
        return "; ".join(problems)
    return str(detail)
