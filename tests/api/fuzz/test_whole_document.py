"""Schemathesis over every operation of the served OpenAPI document, as each kind of caller.

Over real HTTP: examples, the coverage of each parameter's bounds, methods that there are not, and
random data, both such as the document allows and such as it does not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import requests
from schemathesis.checks import CheckFunction, load_all_checks
from schemathesis.core.result import Ok
from schemathesis.pytest.lazy import get_all_tests
from schemathesis.specs.openapi.checks import (
    ignored_auth,
    positive_data_acceptance,
    status_code_conformance,
)

from tests.api.fuzz.conftest import WITH_VALID_KEY


if TYPE_CHECKING:
    import pytest
    from schemathesis import Case
    from schemathesis.schemas import BaseSchema

    from tests.api.fuzz.conftest import Fuzzed, Tally

ALSO = {
    # Its part of the document is the specification's, word by word, and that does not have
    # statuses which any request may be answered with. Here only one of them can come: the rate
    # limit is off (429), the database is up (503), and nobody is slow (408).
    "POST /api/v1/cvms/batch-stop": {413},
}
"""By operation: the statuses that it gives and does not document."""


def test_every_answer_is_as_documented(
    schema: BaseSchema, fuzzed: Fuzzed, who: str, tally: Tally, subtests: pytest.Subtests
) -> None:
    key = fuzzed.keys[who]
    headers = {} if key is None else {"X-API-Key": key}
    load_all_checks()

    with requests.Session() as http:
        http.trust_env = False  # no proxies, and a third of the time

        def ask(case: Case[Any]) -> None:
            answer = case.call(session=http, headers=headers)
            tally.add(case.operation.label, answer.status_code)
            assert answer.headers.get("x-request-id")
            # Not every text that the document allows can be stored (NUL), or is a cursor of ours.
            excluded: list[CheckFunction] = [positive_data_acceptance]
            if who in WITH_VALID_KEY:
                # It would ask twice more after each success; those without a key do nothing else.
                excluded.append(ignored_auth)
            if answer.status_code in ALSO.get(case.operation.label, ()):
                excluded.append(status_code_conformance)
            case.validate_response(
                answer,
                excluded_checks=excluded,
                headers=headers,
            )

        # Not `schemathesis.pytest.from_fixture`: it does this, with what pytest 9.2 has no longer.
        for found in get_all_tests(schema=schema, test_func=ask, settings=None, given_kwargs=None):
            assert isinstance(found, Ok), found
            operation, test = found.ok()
            with subtests.test(operation.label):
                test()
