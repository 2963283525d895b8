"""What dstack-vmm's answers mean. Of their fields, only those that cvmstop reads.

Source: dstack `vmm/rpc/proto/vmm_rpc.proto`. Plain serde, so that names are in snake case and an
unset optional field is `null`. Fields that are not named here are ignored.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, TypeAlias, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, TypeAdapter, ValidationError

from shared.models.errors import ErrorCode
from shared.models.states import PowerState
from workers.drivers.errors import (
    FinalHostError,
    HostError,
    HostRefusedError,
    HostUnreachableError,
    OutcomeUnknownError,
)


if TYPE_CHECKING:
    from workers.drivers.transcript import Transcriber
    from workers.drivers.transport import Answer

AnswerT = TypeVar("AnswerT")

UNKNOWN_METHOD = "Service not found"
"""How pRPC begins its 400 for a method that it does not have (`ra-rpc/src/lib.rs`)."""

STATUS_WORDS = {str(state): state for state in PowerState if state is not PowerState.ABSENT}
"""Every status that dstack-vmm has (`vmm/src/app/vm_info.rs`); absence is not a status."""


def _known_status(word: str) -> str:
    if word not in STATUS_WORDS:
        msg = "not a status that dstack-vmm has"
        raise ValueError(msg)
    return word


Status: TypeAlias = Annotated[str, AfterValidator(_known_status)]


class _Message(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True)


class VmInfo(_Message):
    """One VM."""

    id: str
    name: str = ""
    status: Status

    @property
    def power_state(self) -> PowerState:
        """The status as ours."""
        return STATUS_WORDS[self.status]


class InfoAnswer(_Message):
    """Answer to GetInfo."""

    found: bool
    info: VmInfo | None = None


class StatusAnswer(_Message):
    """Answer to Status, which is the list of VMs."""

    vms: list[VmInfo]


class VersionAnswer(_Message):
    """Answer to Version."""

    version: str
    rev: str = ""


class ErrorAnswer(_Message):
    """Body of every 400."""

    error: str


class Judge:
    """Says what a host's answer means.

    Parameters
    ----------
    transcriber
        Makes what is shown of the answer.
    """

    def __init__(self, transcriber: Transcriber) -> None:
        self._transcriber = transcriber

    def check(self, what: str, answer: Answer, *, is_question: bool) -> None:
        """Raise unless the answer is a whole 200.

        Parameters
        ----------
        what
            Names the call in messages.
        answer
            What came.
        is_question
            The call changes nothing on the host.
        """
        if answer.status == 200 and answer.is_whole:
            return
        text = self._transcriber.show(answer.body)
        match answer.status:
            case 200:
                msg = f"{what}: the answer is longer than {len(answer.body)} bytes"
                raise HostRefusedError(ErrorCode.BAD_ANSWER, msg)
            case 400:
                raise self._refusal(what, answer)
            case 401 | 403:
                msg = (
                    f"{what}: the host refused the credentials ({answer.status}); "
                    "check the host's token or password"
                )
                raise FinalHostError(ErrorCode.CREDENTIALS_REFUSED, msg)
            case 404:
                msg = f"{what}: 404; no dstack-vmm is there, or the address lacks a path prefix"
                raise FinalHostError(ErrorCode.NOT_A_VM_HOST, msg)
            case 502 | 503 | 504 if is_question or answer.status == 503:
                msg = (
                    f"{what}: a proxy says that the host does not answer ({answer.status}): {text}"
                )
                raise HostUnreachableError(ErrorCode.HOST_UNREACHABLE, msg)
            case 502 | 504:
                # The proxy may have passed the request on before it lost the host.
                msg = f"{what}: a proxy got no answer from the host ({answer.status}): {text}"
                timed_out = answer.status == 504
                code = ErrorCode.HOST_TIMEOUT if timed_out else ErrorCode.CONNECTION_LOST
                raise OutcomeUnknownError(code, msg)
            case status:
                hint = " (redirects are not followed)" if 300 <= status < 400 else ""
                msg = f"{what}: the host answered {status}{hint}: {text}"
                raise HostRefusedError(ErrorCode.HOST_ERROR, msg)

    def read(self, kind: TypeAdapter[AnswerT], what: str, answer: Answer) -> AnswerT:
        """Read the body of a 200; `bad_answer` if it has another shape."""
        try:
            return kind.validate_json(answer.body)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            problem = self._transcriber.clean(f"{where}: {first['msg']}" if where else first["msg"])
            text = self._transcriber.show(answer.body)
            msg = f"{what}: not an answer of dstack-vmm ({problem}): {text}"
            raise HostRefusedError(ErrorCode.BAD_ANSWER, msg) from None

    def _refusal(self, what: str, answer: Answer) -> HostError:
        try:
            text = self._transcriber.clean(ErrorAnswer.model_validate_json(answer.body).error)
        except ValidationError:
            text = self._transcriber.show(answer.body)
        if text.startswith(UNKNOWN_METHOD):
            msg = f"{what}: {text}; another service of dstack is there, or a vmm too old or new"
            return FinalHostError(ErrorCode.NOT_A_VM_HOST, msg)
        return HostRefusedError(ErrorCode.HOST_ERROR, f"{what}: the host answered 400: {text}")
