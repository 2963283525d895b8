from __future__ import annotations

import pytest
from pydantic import SecretStr

from shared.models.errors import ErrorCode
from shared.models.hosts import HostCredentials
from workers.drivers.authorization import build_authorization
from workers.drivers.errors import FinalHostError


def test_nothing_to_say() -> None:
    assert build_authorization(HostCredentials()) is None


def test_half_a_pair() -> None:
    assert build_authorization(HostCredentials(username="a")) == "Basic YTo="
    assert build_authorization(HostCredentials(password=SecretStr("b"))) == "Basic OmI="


@pytest.mark.parametrize(
    "credentials",
    [
        HostCredentials(token=SecretStr("")),
        HostCredentials(token=SecretStr("secret\r\nX: 1")),
        HostCredentials(token=SecretStr("secrét")),
        HostCredentials(username="secret:x", password=SecretStr("secret")),
    ],
)
def test_what_no_header_can_carry(credentials: HostCredentials) -> None:
    with pytest.raises(FinalHostError) as caught:
        build_authorization(credentials)
    assert caught.value.code is ErrorCode.BAD_HOST_CONFIGURATION
    assert "secr" not in caught.value.message
