"""What a pRPC request says: method, encoding, arguments.

Source of the rules: dstack `ra-rpc/src/rocket_helper.rs` and `vmm/src/main.rs`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated
from urllib.parse import parse_qs

from pydantic import BaseModel, ConfigDict, Field, ValidationError


if TYPE_CHECKING:
    from collections.abc import Mapping

MOUNT = "/prpc/"
"""Path under which dstack-vmm has its methods."""

STRIPPED_PREFIX = "Teepod."
"""Taken off a method's name (`vmm/src/main.rs`); other service names are not known."""

BODY_LIMIT = 10 * 1024 * 1024
"""Largest request body, bytes (dstack's limit for pRPC)."""

Uint32 = Annotated[int, Field(ge=0, lt=2**32)]


class NoArguments(BaseModel):
    """Arguments of a method that takes none; whatever is sent is ignored."""

    model_config = ConfigDict(strict=True)


class IdArguments(NoArguments):
    """Arguments of a method on one VM."""

    id: str = ""


class StatusArguments(NoArguments):
    """Arguments of Status."""

    ids: list[str] = []
    brief: bool = False
    keyword: str = ""
    page: Uint32 = 0
    page_size: Uint32 = 0


Arguments = NoArguments | IdArguments | StatusArguments

ARGUMENTS: Mapping[str, type[Arguments]] = {
    "StopVm": IdArguments,
    "GetInfo": IdArguments,
    "Status": StatusArguments,
    "Version": NoArguments,
    "StartVm": IdArguments,
    "ShutdownVm": IdArguments,
    "RemoveVm": IdArguments,
    "ListGpus": NoArguments,
    "GetMeta": NoArguments,
}
"""The methods that are simulated, with what they take."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RpcRequest:
    """A request as far as it could be read."""

    method: str
    is_json: bool
    """Whether it wants JSON; protobuf otherwise."""
    arguments: Arguments | None
    problem: str | None
    """Text of the 400 that it earns; null when there are arguments."""

    @property
    def vm_id(self) -> str | None:
        """The one VM that it is about, if any."""
        return self.arguments.id if isinstance(self.arguments, IdArguments) else None


def read_rpc(
    *,
    http_method: str,
    method: str,
    query_string: bytes,
    content_type: bytes,
    body: bytes,
) -> RpcRequest:
    """Read a pRPC request.

    Parameters
    ----------
    http_method
        `GET`, whose arguments are in the query string, or `POST`.
    method
        The path after `MOUNT`.
    query_string
        As it came.
    content_type
        Value of the header, empty for none.
    body
        Whole body, or more than `BODY_LIMIT` bytes of it.
    """
    method = method.removeprefix(STRIPPED_PREFIX)
    query = parse_query(query_string)
    is_json = (
        http_method == "GET"
        or query.get("json", ["no"])[-1] in {"", "1", "true"}
        or content_type.partition(b";")[0].strip().lower() == b"application/json"
    )
    kind = ARGUMENTS.get(method)
    arguments: Arguments | None = None
    problem: str | None = None
    if kind is None:
        problem = f"Service not found: {method}"
    elif len(body) > BODY_LIMIT:
        problem = f"request body over {BODY_LIMIT} bytes"
    elif not is_json:
        problem = "the simulated host reads JSON only: add ?json or Content-Type: application/json"
    else:
        try:
            arguments = (
                _from_query(kind, query)
                if http_method == "GET"
                else kind.model_validate_json(body or b"{}")
            )
        except ValidationError as error:
            problem = _as_serde(error)
    return RpcRequest(method=method, is_json=is_json, arguments=arguments, problem=problem)


def parse_query(query_string: bytes) -> dict[str, list[str]]:
    """Parse a query string; names without a value have an empty one."""
    if not query_string:
        return {}
    return parse_qs(query_string.decode("latin-1"), keep_blank_values=True)


def _from_query(kind: type[Arguments], query: Mapping[str, list[str]]) -> Arguments:
    given = {name: values if name == "ids" else values[-1] for name, values in query.items()}
    return kind.model_validate(given, strict=False)


def _as_serde(error: ValidationError) -> str:
    """Say what is wrong much as serde does; its exact words are nobody's contract."""
    problem = error.errors(include_url=False)[0]
    if problem["type"] == "json_invalid":
        return str(problem["ctx"]["error"])
    where = ".".join(map(str, problem["loc"]))
    return f"invalid value for {where}: {problem['msg']}" if where else problem["msg"]
