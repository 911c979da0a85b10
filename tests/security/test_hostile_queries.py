"""Hostile cursors, filters, ids and times at every operation that reads: each is answered, and not with 5xx.

Every answer has a deadline: one request that never ends stops the whole role.
"""

import base64
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final
from urllib.parse import quote

import httpx
import orjson
import pytest
from deployed import SERVICES, Deployed
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

ANSWERED_WITHIN_S: Final = 30.0
"""Far more than any answer takes, and far less than for ever."""
BOUNDED: Final = settings(
    max_examples=40,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate],
)
TIMES: Final = (
    "0001-01-01T00:00:00+14:00",
    "0001-01-01T00:00:00Z",
    "9999-12-31T23:59:59-14:00",
    "9999-12-31T23:59:59.999999Z",
    "2026-01-01",
    "2026-01-01T24:00:00Z",
    "2026-06-30T23:59:60Z",
    "99999999999999999999",
    "-1e308",
    "nan",
)
NUMBERS: Final = ("-1", str(2**31), str(2**63), str(2**64), "9" * 5000, "1e400", "nan", "٣")
TEXTS: Final = (
    "",
    "x",
    "\0",
    "x" * 600,
    "\ud7ff\U0010ffff",
    "' OR 1=1 --",
    "%00",
    "../../etc/passwd",
    "00000000-0000-0000-0000-000000000000",
)
VALUES: Final = (*TIMES, *NUMBERS, *TEXTS)
FEW: Final = ("", "\0", "9" * 5000)
"""For parameters whose type is checked before anything reads their value."""
AT_ONCE: Final = 4
"""Requests under way to one service."""
SCALARS = (
    st.sampled_from([value for value in VALUES if len(value) < 100])
    | st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.uuids().map(str)
    | st.datetimes().map(lambda time: f"{time.isoformat()}Z")
)
CURSORS = st.lists(SCALARS, min_size=1, max_size=4).map(
    lambda values: base64.urlsafe_b64encode(orjson.dumps(values)).rstrip(b"=").decode()
)
FILLED: Final = {
    "from": "2026-01-01T00:00:00Z",
    "to": "2026-01-02T00:00:00Z",
    "id": "00000000-0000-0000-0000-000000000000",
}
"""Values of required parameters, so that the hostile one is what the answer is about."""

Operation = tuple[str, list[dict[str, Any]]]


def reads(document: Mapping[str, Any]) -> Iterator[Operation]:
    """Yield the path and the parameters of every GET."""
    for path, operations in document["paths"].items():
        if "get" in operations:
            yield path, operations["get"].get("parameters", [])


def hostile_values(parameter: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what to try on a parameter: all values on a cursor, else those that its type lets get far."""
    if parameter["name"] == "cursor":
        return VALUES
    schema = parameter.get("schema", {})
    kinds = set()
    for each in schema.get("anyOf", [schema]):
        kinds.add("enum" if {"enum", "const", "$ref"} & each.keys() else each.get("format", each.get("type")))
    kinds.discard("null")
    values: list[str] = []
    for kind in kinds:
        match kind:
            case "date-time" | "date":
                values += [*TIMES, *FEW]
            case "integer" | "number":
                values += [*NUMBERS, *FEW]
            case "uuid":
                values += [*TEXTS, "9" * 5000]
            case "boolean" | "enum":
                values += FEW
            case "string":
                values += [*TEXTS, *NUMBERS, TIMES[0]]
            case _:
                values += VALUES
    return tuple(dict.fromkeys(values))


class Asker:
    """Asks one service, with a key that has every permission."""

    def __init__(self, deployed: Deployed, service: str) -> None:
        self._client = httpx.Client(
            base_url=deployed.api(service).url,
            headers={"X-API-Key": deployed.new_key(*deployed.every_permission)},
            timeout=ANSWERED_WITHIN_S,
        )
        self.document: dict[str, Any] = self._client.get("/openapi.json").raise_for_status().json()

    def ask(self, operation: Operation, name: str, value: str) -> str | None:
        """Ask with one parameter hostile; return what is wrong with the answer."""
        path, parameters = operation
        query: dict[str, str] = {}
        for each in parameters:
            given_value = value if each["name"] == name else FILLED.get(each["name"], "x")
            if each["in"] == "path":
                path = path.replace(f"{{{each['name']}}}", quote(given_value, safe=""))
            elif each["name"] == name or each.get("required"):
                query[each["name"]] = given_value
        try:
            # An export is a long answer; its head is enough.
            with self._client.stream("GET", path, params=query) as answer:
                status = answer.status_code
        except httpx.TimeoutException:
            status = 599
        return None if status < 500 else f"{status}: {path} with {name}={value[:80]!r}"

    def ask_all(self, questions: Iterable[tuple[Operation, str, str]]) -> list[str]:
        """Ask several at a time; return what is wrong with the answers."""
        with ThreadPoolExecutor(AT_ONCE) as threads:
            answers = threads.map(lambda question: self.ask(*question), questions)
            return [wrong for wrong in answers if wrong]

    def is_live(self) -> bool:
        """Return whether the role answers others."""
        return self._client.get("/health/live").status_code == 200


@pytest.fixture(params=SERVICES)
def asker(request: pytest.FixtureRequest, deployed: Deployed) -> Asker:
    return Asker(deployed, request.param)


@pytest.mark.timeout(600)
def test_no_cursor_stops_a_role(asker: Asker) -> None:
    wrong: list[str] = []
    paged = [each for each in reads(asker.document) if any(name["name"] == "cursor" for name in each[1])]
    assert paged

    @BOUNDED
    @given(cursor=CURSORS)
    def ask(cursor: str) -> None:
        wrong.extend(asker.ask_all((each, "cursor", cursor) for each in paged))

    ask()
    assert wrong == []
    assert asker.is_live()


@pytest.mark.timeout(600)
def test_no_filter_id_or_time_stops_a_role(asker: Asker) -> None:
    wrong = asker.ask_all(
        (operation, parameter["name"], value)
        for operation in reads(asker.document)
        for parameter in operation[1]
        for value in hostile_values(parameter)
    )
    assert wrong == []
    assert asker.is_live()
