"""Operating points, what-if, settings, curves and calibrations over HTTP."""

import json
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from typing import Any

import numpy as np
import pytest

MEASURED = {
    "frequency_hz": 55.0,
    "intake_pressure_psi": 500.0,
    "discharge_pressure_psi": 1814.2,
    "flow_rate_bpd": 480.0,
    "wellhead_pressure_psi": 200.0,
    "choke_pct": 50.0,
    "active_power_kw": 21.0,
    "water_cut_pct": 40.0,
}
FACTS = {"mixture_gravity": 0.92, "productivity_index_bpd_psi": 0.8, "flowline_pressure_psi": 100}
AN550 = json.loads(files("esp_diagnostics.physics").joinpath("an550.json").read_bytes())
JSON = {"Content-Type": "application/json"}
CSV_CURVE = """# model: Short
# min_bpd: 300
# max_bpd: 600
rate,head,power
0,30,0.1
300,25,0.12
600,15,0.14
800,2,0.14
"""


@pytest.fixture(scope="module", autouse=True)
async def measured(fleet: Any, diagnostics_api: Any) -> None:
    """P-1 and P-2 run as the published example does; P-2's rate is not measured."""
    begin = datetime.now(UTC).replace(second=0, microsecond=0) - timedelta(minutes=30)
    for pump, left_out in (("P-1", ""), ("P-2", "flow_rate_bpd")):
        values = {name: np.full(30, value) for name, value in MEASURED.items() if name != left_out}
        await fleet.store(pump, begin, values)
        await patch(diagnostics_api, pump, facts=FACTS)


async def patch(api: Any, pump: str, **changes: Any) -> Any:
    response = await api.client.patch(f"/api/v1/pumps/{pump}/diagnostics-settings", json=changes)
    assert response.status_code == 200, response.text
    return response.json()


async def point(api: Any, pump: str) -> Any:
    response = await api.client.get(f"/api/v1/pumps/{pump}/operating-point")
    assert response.status_code == 200, response.text
    return response.json()


async def test_the_operating_point_is_on_the_curve_at_the_present_frequency(diagnostics_api: Any) -> None:
    answer = await point(diagnostics_api, "P-1")
    assert (answer["model"], answer["stages"], answer["running"]) == ("AN550", 250, True)
    present = answer["present"]
    assert (present["source"], present["frequency_hz"]) == ("measured", 55)
    assert present["rate_bpd"] == pytest.approx(480 * answer["fluid"]["pump_volume"])
    assert present["head_ft"] == pytest.approx(3299, abs=2)
    hertz = [curve["frequency_hz"] for curve in answer["curves"]]
    assert hertz == [35, 40, 45, 50, 55, 60, 65, 70]
    assert answer["recommended"]["min_bpd"][hertz.index(60)] == 400
    curve = answer["curves"][hertz.index(55)]
    assert len(curve["rate_bpd"]) == len(curve["head_ft"]) == len(curve["efficiency"])
    assert answer["inputs"]["flow_rate_bpd"]["value"] == 480


async def test_the_virtual_rate_replaces_a_missing_measured_rate(
    diagnostics_api: Any,
) -> None:
    present = (await point(diagnostics_api, "P-2"))["present"]
    assert (present["source"], present["measured_rate_bpd"]) == ("virtual", None)
    assert present["virtual_rate_bpd"] == pytest.approx(480, abs=1)
    assert 5 < present["virtual_sigma_bpd"] < 60


async def test_a_silent_pump_has_curves_and_no_point(diagnostics_api: Any) -> None:
    answer = await point(diagnostics_api, "P-5")
    assert (answer["time"], answer["present"]["source"], answer["present"]["rate_bpd"]) == (
        None,
        "none",
        None,
    )
    assert len(answer["curves"]) == 8


async def test_a_pump_without_a_curve_has_no_operating_point(diagnostics_api: Any) -> None:
    response = await diagnostics_api.client.get("/api/v1/pumps/P-6/operating-point")
    assert (response.status_code, response.json()["code"]) == (409, "conflict")


async def test_what_if_predicts_the_operating_point(diagnostics_api: Any) -> None:
    ask = diagnostics_api.client.post
    answer = (await ask("/api/v1/pumps/P-2/what-if", json={"frequency_hz": 58})).json()
    assert answer["then"]["rate_bpd"] > answer["now"]["rate_bpd"]
    assert answer["then"]["choke_pct"] == 50
    refused = await ask("/api/v1/pumps/P-2/what-if", json={"frequency_hz": 10})
    assert refused.status_code == 422
    assert (await ask("/api/v1/pumps/P-5/what-if", json={})).json()["code"] == "cannot-tell"
    for odd in ({"frequency_hz": -5}, {"choke_pct": 0}, {"choke_pct": 101}, {"hz": 50}):
        assert (await ask("/api/v1/pumps/P-2/what-if", json=odd)).status_code == 422


async def test_facts_are_set_kept_and_removed_individually(diagnostics_api: Any, fleet: Any) -> None:
    before = await fleet.events("pump.settings-changed")
    await patch(diagnostics_api, "P-3", facts={"oil_api": 31.5, "limits": {"motor_temp_high": 150}})
    changed = await patch(diagnostics_api, "P-3", facts={"casing_bore_in": 6.366}, in_service=False)
    assert changed["facts"] == {"oil_api": 31.5, "limits": {"motor_temp_high": 150}, "casing_bore_in": 6.366}
    assert changed["in_service"] is False
    assert (changed["curve_source"], changed["nameplate"]["stages"]) == ("nameplate", 250)
    kept = await patch(diagnostics_api, "P-3", facts={"oil_api": None})
    assert "oil_api" not in kept["facts"]
    read = await diagnostics_api.client.get("/api/v1/pumps/P-3/diagnostics-settings")
    assert read.json() == kept
    await patch(diagnostics_api, "P-3", facts={"casing_bore_in": 6.366})
    assert len(await fleet.events("pump.settings-changed")) == len(before) + 3


async def test_a_change_is_announced_and_audited_with_its_actor(diagnostics_api: Any, fleet: Any) -> None:
    await patch(diagnostics_api, "P-4", facts={"oil_api": 28})
    assert (await fleet.events("pump.settings-changed"))[-1] == {"facts": {"oil_api": 28}}
    record = (await fleet.events("diagnostics.pump-settings-changed"))[-1]
    assert record["object"] == "P-4"
    assert (record["actor_kind"], record["outcome"]) == ("key", "success")


@pytest.mark.parametrize(
    "body",
    [
        {"facts": {"oil_api": 500}},
        {"facts": {"colour": "red"}},
        {"facts": {"oil_api": "heavy"}},
        {"stages": 300},
        {"facts": {"motor_type": "steam"}},
        {"facts": {"limits": {"nul\u0000": 1}}},
    ],
    ids=["beyond-reason", "unknown", "text", "nameplate", "odd-motor", "odd-limit"],
)
async def test_invalid_settings_are_rejected(diagnostics_api: Any, body: dict[str, Any]) -> None:
    response = await diagnostics_api.client.patch("/api/v1/pumps/P-3/diagnostics-settings", json=body)
    assert response.status_code == 422


async def test_settings_require_rules_write(diagnostics_api: Any) -> None:
    url = "/api/v1/pumps/P-4"
    for role, status in (("operator", 403), ("viewer", 403), ("engineer", 200)):
        headers = diagnostics_api.token(role)
        changed = await diagnostics_api.bare.patch(f"{url}/diagnostics-settings", json={}, headers=headers)
        assert changed.status_code == status
        read = await diagnostics_api.bare.get(f"{url}/diagnostics-settings", headers=headers)
        assert read.status_code == 200


async def test_a_user_curve_replaces_the_nameplate_curve_until_removed(diagnostics_api: Any) -> None:
    url = "/api/v1/pumps/P-3/curve"
    put = await diagnostics_api.client.put(url, content=CSV_CURVE, headers={"Content-Type": "text/csv"})
    assert (put.status_code, put.json()["curve_source"]) == (200, "user")
    assert (await point(diagnostics_api, "P-3"))["model"] == "Short"
    json_curve = put.json()["curve"] | {"model": "Again"}
    put = await diagnostics_api.client.put(url, json=json_curve)
    assert put.json()["curve"]["table"]["power"] == [0.1, 0.12, 0.14, 0.14]
    assert (await point(diagnostics_api, "P-3"))["model"] == "Again"
    assert (await diagnostics_api.client.delete(url)).json()["curve_source"] == "nameplate"
    assert (await point(diagnostics_api, "P-3"))["model"] == "AN550"


async def test_an_invalid_curve_is_rejected_with_every_problem(diagnostics_api: Any) -> None:
    put = diagnostics_api.client.put
    headers = {"Content-Type": "text/csv"}
    refused = await put("/api/v1/pumps/P-3/curve", content="rate,head\nx,y\n", headers=headers)
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid-curve")
    assert len(refused.json()["errors"]) > 1
    odd = await put("/api/v1/pumps/P-3/curve", content="a", headers={"Content-Type": "text/plain"})
    assert odd.status_code == 415
    for name in ("nul\u0000", "half \ud800", "x" * 300):
        text = json.dumps({**AN550, "model": name})
        assert (await put("/api/v1/pumps/P-3/curve", content=text, headers=JSON)).status_code == 422
    binary = await put("/api/v1/pumps/P-3/curve", content=b"\xff\xfe\x00", headers=headers)
    assert binary.status_code == 422


async def test_a_well_test_is_completed_from_telemetry(diagnostics_api: Any, fleet: Any) -> None:
    now = datetime.now(UTC)
    test = {"time": now.isoformat(), "duration_h": 1, "flow_rate_bpd": 440, "water_cut_pct": 45}
    response = await diagnostics_api.client.post("/api/v1/pumps/P-2/calibrations", json=test)
    assert response.status_code == 201, response.text
    done = response.json()
    assert done["inputs"]["intake_pressure_psi"] == pytest.approx(500, abs=0.1)
    assert done["head_factor"] == pytest.approx(1 + done["residual_before"])
    assert done["flow_factor"] == 1
    settings = (await diagnostics_api.client.get("/api/v1/pumps/P-2/diagnostics-settings")).json()
    assert settings["head_factor"] == done["head_factor"]
    assert settings["facts"]["water_cut_pct"] == 45
    present = (await point(diagnostics_api, "P-2"))["present"]
    assert present["virtual_rate_bpd"] == pytest.approx(440 * done["pump_volume"], rel=0.002)
    assert (await fleet.events("pump.calibrated"))[-1]["head_factor"] == done["head_factor"]


@pytest.mark.parametrize(
    ("test", "code"),
    [
        ({"flow_rate_bpd": 480, "discharge_pressure_psi": 700}, "test-unusable"),
        ({"flow_rate_bpd": 5000}, "test-unusable"),
        ({"frequency_hz": 55}, "test-unusable"),
        ({"time": "2100-01-01T00:00:00Z", "flow_rate_bpd": 480}, "invalid-input"),
        ({"time": "0001-01-01T00:00:00+14:00", "flow_rate_bpd": 480}, "invalid-input"),
        ({"flow_rate_bpd": -1}, "invalid-input"),
    ],
    ids=["implausible", "beyond-the-curve", "no-rate", "future", "antiquity", "negative"],
)
async def test_an_unusable_well_test_changes_nothing(
    diagnostics_api: Any, test: dict[str, Any], code: str
) -> None:
    before = (await diagnostics_api.client.get("/api/v1/pumps/P-2/diagnostics-settings")).json()
    body = {"time": datetime.now(UTC).isoformat(), "duration_h": 1, **test}
    response = await diagnostics_api.client.post("/api/v1/pumps/P-2/calibrations", json=body)
    assert (response.status_code, response.json()["code"]) == (422, code)
    after = (await diagnostics_api.client.get("/api/v1/pumps/P-2/diagnostics-settings")).json()
    assert after == before


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "operating-point"),
        ("POST", "what-if"),
        ("GET", "diagnostics-settings"),
        ("PATCH", "diagnostics-settings"),
        ("DELETE", "curve"),
        ("POST", "calibrations"),
    ],
)
async def test_an_unknown_pump_is_not_found(diagnostics_api: Any, method: str, path: str) -> None:
    body = {"time": "2026-01-01T00:00:00Z"} if path == "calibrations" else {}
    sent = body if method in ("POST", "PATCH") else None
    response = await diagnostics_api.client.request(method, f"/api/v1/pumps/nobodys/{path}", json=sent)
    assert response.status_code == 404
