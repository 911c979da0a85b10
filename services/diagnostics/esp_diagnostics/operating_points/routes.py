"""HTTP routes of operating points, predictions and user settings of pumps."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final, Literal

from esp_common.answers import BODY, UtcTime, problems
from esp_common.auth import Principal, require
from esp_common.errors import InvalidInput, UnsupportedMediaType
from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from esp_diagnostics.common.answers import PumpId
from esp_diagnostics.common.cache import Answer
from esp_diagnostics.operating_points.operating_points import OperatingPoints
from esp_diagnostics.operating_points.pump_settings import CalibrationResult, PumpSettings, WellTest
from esp_diagnostics.physics.calibration import Adjusted
from esp_diagnostics.physics.curve import InvalidCurve, PumpCurve
from esp_diagnostics.physics.curve_files import parse_csv, parse_json
from esp_diagnostics.pumps.registry import Nameplates
from esp_diagnostics.pumps.store import KnownPump
from esp_diagnostics.trends.encoding import CSV, JSON
from esp_diagnostics.trends.media import respond
from esp_diagnostics.trends.resolution import FIRST

Reader = Annotated[Principal, Depends(require("diagnostics:read"))]
Writer = Annotated[Principal, Depends(require("rules:write"))]

_JSON: Final[dict[int | str, dict[str, Any]]] = {200: {"content": {JSON: {}}}}
_CURVE_BODY: Final = {
    "requestBody": {
        "required": True,
        "content": {
            JSON: {"schema": {"type": "object"}},
            CSV: {"schema": {"type": "string"}},
        },
    }
}

LimitName = Annotated[str, Field(pattern=r"^[a-z0-9_.-]{1,64}$")]
Finite = Annotated[float, Field(allow_inf_nan=False)]
MAX_MODEL: Final = 200


def _number(low: float, high: float, help_: str) -> Any:
    return Field(default=None, ge=low, le=high, allow_inf_nan=False, description=help_)


class Facts(BaseModel):
    """Known facts of fluid, well and limits; omitted ones stay, null removes one."""

    model_config = ConfigDict(extra="forbid")

    oil_api: float | None = _number(5, 70, "Gravity of stock-tank oil, °API.")
    gas_gravity: float | None = _number(0.5, 1.8, "Gravity of gas (air 1).")
    water_gravity: float | None = _number(0.95, 1.3, "Gravity of produced water.")
    gas_oil_ratio_scf_stb: float | None = _number(0, 50_000, "Gas produced, scf/stb.")
    water_cut_pct: float | None = _number(0, 100, "Water cut of the last well test, %.")
    separator_efficiency: float | None = _number(0, 1, "Fraction of free gas separated before the pump.")
    mixture_gravity: float | None = _number(0.2, 1.4, "Gravity in the pump; overrides the computed one.")
    casing_bore_in: float | None = _number(2, 30, "Inner diameter of the casing at the motor, inches.")
    motor_od_in: float | None = _number(1, 20, "Outer diameter of the motor, inches.")
    tubing_bore_in: float | None = _number(0.5, 15, "Inner diameter of the tubing, inches.")
    motor_type: Literal["induction", "permanent_magnet"] | None = None
    pole_pairs: int | None = Field(default=None, ge=1, le=20, description="Pole pairs of the motor.")
    reservoir_pressure_psi: float | None = _number(0, 20_000, "Static pressure at intake depth, psi.")
    productivity_index_bpd_psi: float | None = _number(0.001, 1000, "Inflow per drawdown, bpd/psi.")
    flowline_pressure_psi: float | None = _number(0, 10_000, "Pressure downstream of the choke, psi.")
    min_intake_pressure_psi: float | None = _number(0, 10_000, "Minimum intake pressure, psi.")
    min_frequency_hz: float | None = _number(1, 400, "Minimum frequency, Hz.")
    max_frequency_hz: float | None = _number(1, 400, "Maximum frequency, Hz.")
    limits: dict[LimitName, Finite | None] | None = Field(
        default=None, max_length=100, description="Alert limits of this pump by name; null: no such limit."
    )


class SettingsPatch(BaseModel):
    """Settings to change."""

    model_config = ConfigDict(extra="forbid")

    facts: Facts = Facts()
    in_service: bool | None = None


class PumpSettingsOut(BaseModel):
    """Settings of a pump: nameplate (from ingest), facts, curve in use, calibration."""

    pump_id: str
    field_id: str
    well_id: str
    in_service: bool
    nameplate: Mapping[str, Any]
    facts: Mapping[str, Any]
    curve: Mapping[str, Any] | None
    curve_source: Literal["user", "nameplate", "none"]
    head_factor: float | None
    flow_factor: float | None
    calibrated_at: datetime | None


class WhatIf(BaseModel):
    """Setting to predict; omitted values stay as they are."""

    model_config = ConfigDict(extra="forbid")

    frequency_hz: float | None = _number(1, 400, "Hz.")
    choke_pct: float | None = _number(0.1, 100, "Choke opening, %.")


class WellTestIn(BaseModel):
    """Well test. Omitted values are averaged from telemetry over the test."""

    model_config = ConfigDict(extra="forbid")

    time: UtcTime = Field(description="End of the test.")
    duration_h: float = Field(default=4, gt=0, le=72, allow_inf_nan=False, description="Duration, hours.")
    adjust: Adjusted = Adjusted.HEAD
    flow_rate_bpd: float | None = _number(0, 200_000, "Stock-tank liquid rate, bpd.")
    water_cut_pct: float | None = _number(0, 100, "Water cut of stock-tank liquid, %.")
    gas_oil_ratio_scf_stb: float | None = _number(0, 50_000, "Gas-oil ratio, scf/stb.")
    frequency_hz: float | None = _number(0, 400, "Frequency, Hz.")
    intake_pressure_psi: float | None = _number(0, 10_000, "Intake pressure, psi.")
    discharge_pressure_psi: float | None = _number(0, 10_000, "Discharge pressure, psi.")
    intake_temp_c: float | None = _number(-40, 300, "Intake temperature, °C.")

    def test(self) -> WellTest:
        """Return the well test; raise InvalidInput unless it has ended."""
        if not FIRST < self.time <= datetime.now(UTC):
            raise InvalidInput("the test ends in the future or too long ago", fix="give the time of its end")
        values = self.model_dump(exclude={"time", "duration_h", "adjust"}, exclude_none=True)
        return WellTest(self.time.astimezone(UTC), timedelta(hours=self.duration_h), values, self.adjust)


class CalibrationOut(BaseModel):
    """Factors of the calibration, the residual before it, and its inputs."""

    pump_id: str
    head_factor: float
    flow_factor: float
    residual_before: float
    inputs: dict[str, float]
    gravity: float
    pump_volume: float
    assumptions: list[str]


def pumps_router(points: OperatingPoints, settings: PumpSettings, nameplates: Nameplates) -> APIRouter:
    """Return the routes of operating points and user settings."""
    router = APIRouter(tags=["pumps"])

    @router.get(
        "/pumps/{id}/operating-point", response_class=Response, responses={**_JSON, **problems(404, 409)}
    )
    async def get_operating_point(request: Request, _: Reader, pump_id: PumpId) -> Response:
        """Show the pump's curves at the present and other frequencies, and its operating point.

        Rates are through the pump, heads of the whole pump. Unknown values are null; `reason` explains why.
        """
        return respond(request, Answer.of(await points.operating_point(pump_id)), JSON)

    @router.post(
        "/pumps/{id}/what-if", response_class=Response, responses={**_JSON, **problems(404, 409, *BODY)}
    )
    async def ask_what_if(request: Request, _: Reader, pump_id: PumpId, wanted: WhatIf) -> Response:
        """Predict the operating point at another frequency or choke opening, beside the present one.

        Based on the pump's curve, its present residual and the known well data; `assumptions` lists the
        missing ones.
        """
        answer = await points.what_if(pump_id, wanted.frequency_hz, wanted.choke_pct)
        return respond(request, Answer.of(answer), JSON)

    @router.get("/pumps/{id}/diagnostics-settings", response_model=PumpSettingsOut, responses=problems(404))
    async def get_settings(_: Reader, pump_id: PumpId) -> Any:
        """Show the settings of a pump."""
        return _settings(await nameplates.pump(pump_id))

    @router.patch(
        "/pumps/{id}/diagnostics-settings", response_model=PumpSettingsOut, responses=problems(404, *BODY)
    )
    async def change_settings(caller: Writer, pump_id: PumpId, patch: SettingsPatch) -> Any:
        """Change the given settings of a pump; null removes a fact."""
        facts = patch.facts.model_dump(exclude_unset=True)
        return _settings(await settings.change(pump_id, facts, patch.in_service, caller.id))

    @router.put(
        "/pumps/{id}/curve",
        response_model=PumpSettingsOut,
        responses=problems(404, 415, *BODY),
        openapi_extra=_CURVE_BODY,
    )
    async def put_curve(request: Request, caller: Writer, pump_id: PumpId) -> Any:
        """Use a curve in JSON or CSV for the pump; earlier calibrations are removed."""
        curve = _curve(request.headers.get("content-type", ""), await request.body())
        return _settings(await settings.set_curve(pump_id, curve, caller.id))

    @router.delete("/pumps/{id}/curve", response_model=PumpSettingsOut, responses=problems(404))
    async def delete_curve(caller: Writer, pump_id: PumpId) -> Any:
        """Use the curve of the pump's nameplate again."""
        return _settings(await settings.set_curve(pump_id, None, caller.id))

    @router.post(
        "/pumps/{id}/calibrations",
        status_code=201,
        response_model=CalibrationOut,
        responses=problems(404, 409, *BODY),
    )
    async def add_calibration(caller: Writer, pump_id: PumpId, test: WellTestIn) -> Any:
        """Calibrate the head or the rate of the pump's curve with a well test."""
        return _calibration(pump_id, await settings.calibrate(pump_id, test.test(), caller.id))

    return router


def _settings(pump: KnownPump) -> PumpSettingsOut:
    nameplate = dict(pump.nameplate)
    given = nameplate.pop("curve")
    return PumpSettingsOut(
        pump_id=pump.pump_id,
        field_id=pump.field_id,
        well_id=pump.well_id,
        in_service=pump.in_service,
        nameplate=nameplate,
        facts=pump.extras,
        curve=pump.curve or given,
        curve_source="user" if pump.curve else "nameplate" if given else "none",
        head_factor=pump.head_factor,
        flow_factor=pump.flow_factor,
        calibrated_at=pump.calibrated_at,
    )


def _calibration(pump_id: str, done: CalibrationResult) -> CalibrationOut:
    inputs = {name: getattr(done.test, name) for name in done.test.__slots__}
    return CalibrationOut(
        pump_id=pump_id,
        head_factor=done.calibration.head_factor,
        flow_factor=done.calibration.flow_factor,
        residual_before=done.calibration.residual_before,
        inputs={name: value for name, value in inputs.items() if value == value},
        gravity=done.fluid.gravity,
        pump_volume=done.fluid.pump_volume,
        assumptions=list(done.fluid.assumptions),
    )


def _curve(content_type: str, body: bytes) -> PumpCurve:
    readers = {JSON: parse_json, CSV: parse_csv}
    read = readers.get(content_type.partition(";")[0].strip().lower())
    if read is None:
        raise UnsupportedMediaType(f"curves must be {JSON} or {CSV}", fix="set Content-Type accordingly")
    try:
        curve = read(body.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise InvalidInput("the curve is not UTF-8 text", fix="save it as UTF-8") from error
    if len(curve.model) > MAX_MODEL or not curve.model.isprintable():
        raise InvalidCurve(f"a model name has at most {MAX_MODEL} printable characters", fix="shorten it")
    return curve
