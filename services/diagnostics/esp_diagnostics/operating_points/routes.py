"""Where a pump runs, would run, and what is said of it beyond its nameplate, over HTTP."""

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
from esp_diagnostics.operating_points.operating_points import Points
from esp_diagnostics.operating_points.pump_settings import Calibrated, PumpSettings, WellTest
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
    """What is known of fluid, well and limits; what is not given stays, null: it is known no longer."""

    model_config = ConfigDict(extra="forbid")

    oil_api: float | None = _number(5, 70, "Gravity of stock-tank oil, °API.")
    gas_gravity: float | None = _number(0.5, 1.8, "Gravity of gas, air 1.")
    water_gravity: float | None = _number(0.95, 1.3, "Gravity of produced water.")
    gas_oil_ratio_scf_stb: float | None = _number(0, 50_000, "Gas produced, scf/stb.")
    water_cut_pct: float | None = _number(0, 100, "Water cut of the last well test, %.")
    separator_efficiency: float | None = _number(0, 1, "Free gas kept out of the pump, fraction.")
    mixture_gravity: float | None = _number(0.2, 1.4, "Gravity of what is in the pump, if known better.")
    casing_bore_in: float | None = _number(2, 30, "Casing's inner diameter at the motor, inches.")
    motor_od_in: float | None = _number(1, 20, "Motor's outer diameter, inches.")
    tubing_bore_in: float | None = _number(0.5, 15, "Tubing's inner diameter, inches.")
    motor_type: Literal["induction", "permanent_magnet"] | None = None
    pole_pairs: int | None = Field(default=None, ge=1, le=20, description="Of the motor.")
    reservoir_pressure_psi: float | None = _number(0, 20_000, "Static pressure at the intake's depth, psi.")
    productivity_index_bpd_psi: float | None = _number(0.001, 1000, "Inflow per drawdown, bpd/psi.")
    flowline_pressure_psi: float | None = _number(0, 10_000, "Behind the choke, psi.")
    min_intake_pressure_psi: float | None = _number(0, 10_000, "Lowest the pump should see, psi.")
    min_frequency_hz: float | None = _number(1, 400, "Lowest frequency to run at, Hz.")
    max_frequency_hz: float | None = _number(1, 400, "Highest frequency to run at, Hz.")
    limits: dict[LimitName, Finite | None] | None = Field(
        default=None, max_length=100, description="This pump's own alarm limits by name; null: no such limit."
    )


class SettingsPatch(BaseModel):
    """What is to change."""

    model_config = ConfigDict(extra="forbid")

    facts: Facts = Facts()
    in_service: bool | None = None


class PumpSettingsOut(BaseModel):
    """What is known of a pump: nameplate (ingest's), facts, curve in use, factors of the last well test."""

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
    """A setting to try; what is left out stays as it is."""

    model_config = ConfigDict(extra="forbid")

    frequency_hz: float | None = _number(1, 400, "Hz.")
    choke_pct: float | None = _number(0.1, 100, "Opening, %.")


class WellTestIn(BaseModel):
    """A well test. What is not given but measured is taken from telemetry, averaged over the test."""

    model_config = ConfigDict(extra="forbid")

    time: UtcTime = Field(description="End of the test.")
    duration_h: float = Field(default=4, gt=0, le=72, allow_inf_nan=False, description="Its length, hours.")
    adjust: Adjusted = Adjusted.HEAD
    flow_rate_bpd: float | None = _number(0, 200_000, "Stock-tank liquid, bpd.")
    water_cut_pct: float | None = _number(0, 100, "Of stock-tank liquid, %.")
    gas_oil_ratio_scf_stb: float | None = _number(0, 50_000, "scf/stb.")
    frequency_hz: float | None = _number(0, 400, "Hz.")
    intake_pressure_psi: float | None = _number(0, 10_000, "psi.")
    discharge_pressure_psi: float | None = _number(0, 10_000, "psi.")
    intake_temp_c: float | None = _number(-40, 300, "°C.")

    def test(self) -> WellTest:
        """Return it as the core takes it; raise InvalidInput for one that is not over."""
        if not FIRST < self.time <= datetime.now(UTC):
            raise InvalidInput("the test ends in the future, or long ago", fix="give when it ended")
        values = self.model_dump(exclude={"time", "duration_h", "adjust"}, exclude_none=True)
        return WellTest(self.time.astimezone(UTC), timedelta(hours=self.duration_h), values, self.adjust)


class CalibrationOut(BaseModel):
    """The factors after the test, how far off the curve was before, and what it rests on."""

    pump_id: str
    head_factor: float
    flow_factor: float
    residual_before: float
    inputs: dict[str, float]
    gravity: float
    pump_volume: float
    assumptions: list[str]


def pumps_router(points: Points, settings: PumpSettings, nameplates: Nameplates) -> APIRouter:
    """Return the routes of operating points and of what is said of pumps."""
    router = APIRouter(tags=["pumps"])

    @router.get(
        "/pumps/{id}/operating-point", response_class=Response, responses={**_JSON, **problems(404, 409)}
    )
    async def get_operating_point(request: Request, _: Reader, pump_id: PumpId) -> Response:
        """Return the pump's curve at the present and other frequencies, and where on it the pump runs.

        Rates are through the pump, heads of the whole pump. Null is what cannot be told; `reason` says why.
        """
        return respond(request, Answer.of(await points.operating_point(pump_id)), JSON)

    @router.post(
        "/pumps/{id}/what-if", response_class=Response, responses={**_JSON, **problems(404, 409, *BODY)}
    )
    async def ask_what_if(request: Request, _: Reader, pump_id: PumpId, wanted: WhatIf) -> Response:
        """Return where the pump would run at another frequency or choke opening, beside where it runs now.

        By its curve, its present residual and what is known of the well; `assumptions` says what is not.
        """
        answer = await points.what_if(pump_id, wanted.frequency_hz, wanted.choke_pct)
        return respond(request, Answer.of(answer), JSON)

    @router.get("/pumps/{id}/diagnostics-settings", response_model=PumpSettingsOut, responses=problems(404))
    async def get_settings(_: Reader, pump_id: PumpId) -> Any:
        """Return what is known of the pump beyond its nameplate."""
        return _settings(await nameplates.pump(pump_id))

    @router.patch(
        "/pumps/{id}/diagnostics-settings", response_model=PumpSettingsOut, responses=problems(404, *BODY)
    )
    async def change_settings(caller: Writer, pump_id: PumpId, patch: SettingsPatch) -> Any:
        """Change what is known of the pump: what is given; null means that it is known no longer."""
        facts = patch.facts.model_dump(exclude_unset=True)
        return _settings(await settings.change(pump_id, facts, patch.in_service, caller.id))

    @router.put(
        "/pumps/{id}/curve",
        response_model=PumpSettingsOut,
        responses=problems(404, 415, *BODY),
        openapi_extra=_CURVE_BODY,
    )
    async def put_curve(request: Request, caller: Writer, pump_id: PumpId) -> Any:
        """Have the pump judged by a curve of the user's, as JSON or CSV; factors of earlier tests go."""
        curve = _curve(request.headers.get("content-type", ""), await request.body())
        return _settings(await settings.set_curve(pump_id, curve, caller.id))

    @router.delete("/pumps/{id}/curve", response_model=PumpSettingsOut, responses=problems(404))
    async def delete_curve(caller: Writer, pump_id: PumpId) -> Any:
        """Have the pump judged by its nameplate's curve again."""
        return _settings(await settings.set_curve(pump_id, None, caller.id))

    @router.post(
        "/pumps/{id}/calibrations",
        status_code=201,
        response_model=CalibrationOut,
        responses=problems(404, 409, *BODY),
    )
    async def add_calibration(caller: Writer, pump_id: PumpId, test: WellTestIn) -> Any:
        """Fit the pump's curve to a well test: its head, or its rate, by one factor."""
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


def _calibration(pump_id: str, done: Calibrated) -> CalibrationOut:
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
        raise UnsupportedMediaType(f"curves are {JSON} or {CSV}", fix="say which in Content-Type")
    try:
        curve = read(body.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise InvalidInput("the curve is not UTF-8 text", fix="save it as UTF-8") from error
    if len(curve.model) > MAX_MODEL or not curve.model.isprintable():
        raise InvalidCurve(f"a model's name has up to {MAX_MODEL} printable characters", fix="shorten it")
    return curve
