"""The rules of the tree over HTTP: read, exported, changed, set for one pump."""

from typing import Any

import pytest
from esp_diagnostics.detection.tree import default_rules

SHIPPED = default_rules()


def changed(
    version: str, before: str = "delay_min: {default: 15", after: str = "delay_min: {default: 20"
) -> str:
    assert before in SHIPPED.text
    text = SHIPPED.text.replace(before, after)
    return text.replace(f'version: "{SHIPPED.version}"', f'version: "{version}"')


async def put(api: Any, text: str) -> Any:
    return await api.client.put("/api/v1/rules", content=text.encode())


@pytest.fixture(autouse=True)
async def shipped_again(diagnostics_api: Any) -> Any:
    yield
    await diagnostics_api.client.delete("/api/v1/rules")


async def test_shipped_rules_apply_until_others_are_loaded(diagnostics_api: Any) -> None:
    answer = (await diagnostics_api.client.get("/api/v1/rules")).json()

    assert answer["shipped"]
    assert answer["version"] == SHIPPED.version
    assert {condition["name"] for condition in answer["conditions"]} == set(SHIPPED.conditions)


async def test_export_returns_the_loaded_file(diagnostics_api: Any) -> None:
    text = changed("export-1")
    await put(diagnostics_api, text)

    answer = await diagnostics_api.client.get("/api/v1/rules/export")

    assert answer.text == text
    assert answer.headers["content-type"].startswith("application/yaml")


async def test_loading_rules_is_announced_and_audited_once(diagnostics_api: Any) -> None:
    first = await put(diagnostics_api, changed("once-1"))
    again = await put(diagnostics_api, changed("once-1"))

    told = await diagnostics_api.fleet.events("finding.rules-changed")
    assert (first.status_code, again.status_code) == (200, 200)
    assert [event for event in told if event["version"] == "once-1"] == [{"version": "once-1"}]
    query = "SELECT count(*) FROM diagnostics.outbox WHERE convert_from(body, 'UTF8') LIKE $1"
    assert await diagnostics_api.fleet.value(query, "%rules-loaded%once-1%") == 1


async def test_a_version_names_one_set_of_rules(diagnostics_api: Any) -> None:
    await put(diagnostics_api, changed("taken-1"))

    answer = await put(diagnostics_api, changed("taken-1", after="delay_min: {default: 25"))

    assert answer.status_code == 409
    assert (await diagnostics_api.client.get("/api/v1/rules")).json()["version"] == "taken-1"


async def test_all_problems_of_rejected_rules_are_reported(diagnostics_api: Any) -> None:
    text = changed("bad", "default: 15", "default: fifteen").replace("stage: gauge", "stage: gouge")

    answer = await put(diagnostics_api, text)

    assert answer.status_code == 422
    where = {error["where"] for error in answer.json()["errors"]}
    assert {"parameters.delay_min.default", "conditions.gauge_failure.stage"} <= where


async def test_an_override_applies_until_it_is_deleted(diagnostics_api: Any) -> None:
    client, path = diagnostics_api.client, "/api/v1/pumps/P-1/rule-overrides"

    put_own = await client.put(f"{path}/delay_min", json={"value": 30})
    listed = (await client.get(path)).json()["overrides"]
    gone = await client.delete(f"{path}/delay_min")

    assert put_own.status_code == 200
    assert [(own["parameter"], own["value"], own["default"]) for own in listed] == [("delay_min", 30, 15)]
    assert gone.json()["overrides"] == []
    assert (await client.delete(f"{path}/delay_min")).status_code == 404
    events = await diagnostics_api.fleet.events("pump.rules-changed")
    assert [event["value"] for event in events] == [30, None]


@pytest.mark.parametrize(
    ("path", "value", "status"),
    [
        ("P-1/rule-overrides/delay_min", -1, 422),
        ("P-1/rule-overrides/no_such", 1, 404),
        ("P-99/rule-overrides/delay_min", 1, 404),
    ],
    ids=["beyond-its-limits", "unknown-parameter", "unknown-pump"],
)
async def test_an_invalid_override_is_rejected(
    diagnostics_api: Any, path: str, value: float, status: int
) -> None:
    answer = await diagnostics_api.client.put(f"/api/v1/pumps/{path}", json={"value": value})

    assert answer.status_code == status


@pytest.mark.parametrize("scope", ["diagnostics:read", "rules:read"])
async def test_changing_rules_requires_permission(diagnostics_api: Any, scope: str) -> None:
    answer = await diagnostics_api.bare.put(
        "/api/v1/rules", content=changed("denied").encode(), headers=diagnostics_api.key(scope)
    )

    assert answer.status_code == 403
