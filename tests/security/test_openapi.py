"""Generated requests, good and bad, at every operation: each is answered as the OpenAPI document says.

The same requests each time (derandomised); the seed of a failure is in its message.
"""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

import httpx
import pytest
import requests
import schemathesis
from deployed import SERVICES, Deployed
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.schemas import APIOperation
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

CHECKS: Final = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
EXAMPLES: Final = 20
BOUNDED: Final = settings(
    max_examples=EXAMPLES,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate],
)


def document_of(url: str, header: Mapping[str, str]) -> dict[str, Any]:
    """Return an API's document without the answer that stands for any other: each has to be told."""
    document: dict[str, Any] = (
        httpx.get(f"{url}/openapi.json", headers=dict(header)).raise_for_status().json()
    )
    for path in document["paths"].values():
        for operation in path.values():
            operation["responses"].pop("default", None)
    return document


def may_be_wrong(stated: Mapping[str, Any]) -> bool:
    """Return whether a request can be wrong in a way that is worth looking for.

    Where only an id of the path could be, almost any text is one.
    """
    parameters = stated.get("parameters", [])
    return "requestBody" in stated or any(
        each["in"] == "query" or "format" in each["schema"] for each in parameters
    )


def all_violations(
    document: Mapping[str, Any], mode: GenerationMode, url: str, header: Mapping[str, str]
) -> list[str]:
    """Return what is answered otherwise than documented, at any operation."""
    found: list[str] = []
    with requests.Session() as session:
        session.headers.update(header)
        for result in schemathesis.openapi.from_dict(dict(document)).get_all_operations():
            operation = result.ok()
            stated = document["paths"][operation.path][operation.method.lower()]
            if mode is GenerationMode.POSITIVE or may_be_wrong(stated):
                found += violations(operation, mode, url, session)
    return found


def violations(
    operation: APIOperation, mode: GenerationMode, url: str, session: requests.Session
) -> list[str]:
    """Return what is answered otherwise than documented, the first of each kind."""
    found: dict[str, str] = {}

    @BOUNDED
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: Case) -> None:
        response = case.call(base_url=url, session=session, timeout=30)
        try:
            case.validate_response(response, checks=CHECKS)
        except BaseExceptionGroup as failures:
            for failure in failures.exceptions:
                kind = f"{operation.label}: {type(failure).__name__} {response.status_code}"
                found.setdefault(kind, f"{kind}: {case.as_curl_command()}\n{response.text[:300]}\n{failure}")

    with suppress(Unsatisfiable):  # nothing can be wrong with a request that has no parts
        ask()
    return list(found.values())


@pytest.mark.timeout(240)
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["good", "bad"])
@pytest.mark.parametrize("service", SERVICES)
def test_no_request_of_any_form_is_answered_otherwise_than_documented(
    service: str, mode: GenerationMode, deployed: Deployed
) -> None:
    url = deployed.api(service).url
    key = deployed.new_key(*deployed.every_permission)
    header = {"X-API-Key": key}
    found = all_violations(document_of(url, header), mode, url, header)
    assert found == [], "\n\n".join(found)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["good", "bad"])
def test_nor_is_one_by_a_user(mode: GenerationMode, deployed: Deployed) -> None:
    """What is for people and not for keys: their own account."""
    url = deployed.auth.url
    user = deployed.new_session("admin")
    document = document_of(url, user.header)
    # A logout is the last that its session is answered.
    document["paths"] = {
        path: operations
        for path, operations in document["paths"].items()
        if path.startswith("/api/v1/auth/") and not path.endswith("/logout")
    }
    found = all_violations(document, mode, url, user.header)
    assert found == [], "\n\n".join(found)
