"""The field's nameplates in the shape the platform imports."""

from collections.abc import Sequence
from typing import Any, Final

from esp_gateway.simulator.gateways import SILENT_S, Gateway, Style, tag_map
from esp_gateway.simulator.pump import RATED_FREQUENCY_HZ, Curve
from esp_gateway.simulator.wells import Wells

FIELD_ID: Final = "sim"


def document(
    models: Sequence[Curve], wells: Wells, gateways: Sequence[Gateway], interval_s: float
) -> dict[str, list[dict[str, Any]]]:
    """Return fields, wells, pumps, gateways and tag maps: plain lists and dicts, ready for YAML."""
    pumps = [
        _pump(
            index,
            pump_id,
            models[index],
            wells,
            SILENT_S if gateway.style is Style.BY_EXCEPTION else interval_s,
        )
        for gateway in gateways
        for index, pump_id in enumerate(gateway.pump_ids, start=gateway.pumps.start)
    ]
    return {
        "fields": [{"field_id": FIELD_ID, "name": "Simulated field"}],
        "wells": [
            {"well_id": pump["well_id"], "field_id": FIELD_ID, "name": f"Well {pump['well_id']}"}
            for pump in pumps
        ],
        "pumps": pumps,
        "gateways": [
            {
                "gateway_id": gateway.gateway_id,
                "field_id": FIELD_ID,
                "name": f"Simulated gateway, {gateway.style.replace('_', ' ')}",
                "pumps": gateway.pump_ids,
            }
            for gateway in gateways
        ],
        "tag_maps": [
            {"gateway_id": gateway.gateway_id, "tags": tag_map()}
            for gateway in gateways
            if gateway.style is Style.VENDOR_TAGS
        ],
    }


def _pump(index: int, pump_id: str, curve: Curve, wells: Wells, expected_interval_s: float) -> dict[str, Any]:
    return {
        "pump_id": pump_id,
        "well_id": f"W-{pump_id.removeprefix('SIM-')}",
        "model": curve.model,
        "stages": int(wells.stages[index]),
        "curve": {
            "rated_frequency_hz": RATED_FREQUENCY_HZ,
            "head_ft_per_stage": list(curve.head_ft),
            "bhp_per_stage": list(curve.brake_hp),
            "min_bpd": curve.min_bpd,
            "max_bpd": curve.max_bpd,
        },
        "motor_rated_kw": round(float(wells.rated_kw[index]), 2),
        "motor_rated_current_a": round(float(wells.rated_current_a[index]), 2),
        "motor_rated_voltage_v": float(wells.rated_voltage_v[index]),
        "motor_rated_frequency_hz": RATED_FREQUENCY_HZ,
        "setting_depth_ft": float(wells.depth_ft[index]),
        "expected_interval_s": expected_interval_s,
    }
