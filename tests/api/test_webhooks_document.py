"""The example of `docs/webhooks.md` checks what the product signs."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest
from pydantic import SecretStr

from shared.models.webhooks import sign
from tests.support.compose import ROOT


@pytest.fixture(scope="module")
def is_genuine() -> Any:
    document = (ROOT / "docs" / "webhooks.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", document, re.DOTALL)
    names: dict[str, Any] = {}
    exec(example, names)  # noqa: S102 - our own document
    return names["is_genuine"]


def headers(secret: str, body: str, timestamp: int) -> dict[str, str]:
    return {
        "X-Webhook-Timestamp": str(timestamp),
        "X-Webhook-Signature": sign(SecretStr(secret), timestamp, body),
    }


def test_the_example(is_genuine: Any) -> None:
    body, now = '{"name":"für"}', int(time.time())
    signed = headers("whsec_right", body, now)
    assert is_genuine("whsec_right", signed, body.encode())
    assert not is_genuine("whsec_wrong", signed, body.encode())
    assert not is_genuine("whsec_right", signed, body.encode() + b" ")
    later = {**signed, "X-Webhook-Timestamp": str(now + 1)}
    assert not is_genuine("whsec_right", later, body.encode())
    assert not is_genuine("whsec_right", headers("whsec_right", body, now - 400), body.encode())
