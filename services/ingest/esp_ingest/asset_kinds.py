"""What an asset may be: the shape and the checks of fields, wells, pumps, gateways and tag maps."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Self

import numpy as np
from esp_common.contracts.channels import RUNNING, TRIP_CODE
from esp_common.contracts.units import ImplausibleUnit, make_tag
from esp_common.contracts.words import normalise
from esp_common.errors import InputProblem, InvalidInput
from esp_common.topology import RESERVED_GATEWAY_IDS
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    ValidationError,
    field_validator,
    model_validator,
)

NO_NUL: Final = "^[^\\u0000]+$"
"""What PostgreSQL can keep as text."""

AssetId = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9-]{0,63}$")]
"""Id of a field or gateway: it is a word of a routing key, so it has no dots."""

EquipmentId = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,63}$")]
"""Id of a well or pump."""

Name = Annotated[str, Field(min_length=1, max_length=200, pattern=NO_NUL)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Coefficients = Annotated[list[Finite], Field(min_length=1, max_length=10)]

CURVE_POINTS: Final = 101
"""Rates at which a curve is checked over its recommended range; no pump's curve hides a bend between."""


class Asset(BaseModel):
    """What all assets share: an unknown key is a mistake, and an asset never changes in place."""

    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True)

    def references(self) -> Iterator[tuple[str, str, str]]:
        """Yield (attribute, kind, id) of each asset that must exist for this one to."""
        yield from ()

    def doubts(self) -> Iterator[tuple[str, InvalidInput]]:
        """Yield (attribute, why) of what is refused in a new statement, though it may have been stored."""
        yield from ()


class OilField(Asset):
    """A field: the unit a gateway, a routing key and a fleet summary belong to."""

    field_id: AssetId
    name: Name


class Well(Asset):
    """A well of a field."""

    well_id: EquipmentId
    field_id: AssetId
    name: Name

    def references(self) -> Iterator[tuple[str, str, str]]:
        """Yield the well's field."""
        yield "field_id", "fields", self.field_id


class PumpCurve(Asset):
    """Head (ft/stage) and brake horsepower (hp/stage) as polynomials of rate (bpd), lowest power first."""

    rated_frequency_hz: Positive = 60
    head_ft_per_stage: Coefficients
    bhp_per_stage: Coefficients | None = None
    min_bpd: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    max_bpd: Positive

    @model_validator(mode="after")
    def _is_a_pumps(self) -> Self:
        """Refuse an empty recommended range, and one on which head does not fall or power is not used."""
        if self.max_bpd <= self.min_bpd:
            raise ValueError(f"max_bpd {self.max_bpd:g} must be above min_bpd {self.min_bpd:g}")
        rates = np.linspace(self.min_bpd, self.max_bpd, CURVE_POINTS)
        head = np.polynomial.polynomial.polyval(rates, self.head_ft_per_stage)
        if head[-1] <= 0 or (np.diff(head) >= 0).any():
            raise ValueError(
                "head_ft_per_stage must be positive and fall with rate from min_bpd to max_bpd; "
                "check the order (lowest power first) and the unit of rate (bpd)"
            )
        if self.bhp_per_stage and np.polynomial.polynomial.polyval(rates, self.bhp_per_stage).min() <= 0:
            raise ValueError("bhp_per_stage must be positive from min_bpd to max_bpd")
        return self


class Pump(Asset):
    """A pump with its nameplate, installed in a well."""

    pump_id: EquipmentId
    well_id: EquipmentId
    model: Name
    stages: Annotated[int, Field(ge=1, le=2000)]
    curve: PumpCurve | None = None
    motor_rated_kw: Positive | None = None
    motor_rated_current_a: Positive | None = None
    motor_rated_voltage_v: Positive | None = None
    motor_rated_frequency_hz: Positive = 60
    setting_depth_ft: Positive | None = None
    expected_interval_s: Positive | None = None

    def references(self) -> Iterator[tuple[str, str, str]]:
        """Yield the pump's well."""
        yield "well_id", "wells", self.well_id


def _distinct(pumps: list[str]) -> list[str]:
    """Return the ids sorted, since their order means nothing; refuse a repeated one."""
    repeated = [pump for pump, count in Counter(pumps).items() if count > 1]
    if repeated:
        raise ValueError(f"named more than once: {', '.join(repeated)}")
    return sorted(pumps)


def _not_reserved(gateway_id: str) -> str:
    if gateway_id in RESERVED_GATEWAY_IDS:
        raise ValueError(f"{gateway_id} is a reserved name")
    return gateway_id


class Gateway(Asset):
    """A field gateway and the pumps that it may report."""

    gateway_id: Annotated[AssetId, AfterValidator(_not_reserved)]
    field_id: AssetId
    name: Name
    pumps: Annotated[list[EquipmentId], AfterValidator(_distinct)] = []

    def references(self) -> Iterator[tuple[str, str, str]]:
        """Yield the gateway's field and pumps."""
        yield "field_id", "fields", self.field_id
        for pump_id in self.pumps:
            yield "pumps", "pumps", pump_id


StateWord = Annotated[str, Field(min_length=1, max_length=100, pattern=NO_NUL)]


class TagTarget(Asset):
    """What a vendor tag measures; without `unit` the tag is in the channel's own.

    `states`: the vendor's words and what each means, true or false for `running` and an integer for
    `trip_code`. They come before the common words (ON, Running, 1, …); case and spaces do not matter.
    """

    channel: str
    unit: str | None = None
    states: Annotated[dict[StateWord, StrictBool | StrictInt], Field(min_length=1, max_length=200)] | None = (
        None
    )

    @field_validator("states", mode="before")
    @classmethod
    def _is_quoted(cls, states: Any) -> Any:
        """Refuse words that are no text: YAML reads ON, OFF, YES and NO as true and false."""
        for word in states if isinstance(states, dict) else ():
            if not isinstance(word, str):
                raise ValueError(f'state {word!r} is not text: put each word in quotes, as "ON"')  # noqa: TRY004
        return states

    @model_validator(mode="after")
    def _is_convertible(self) -> Self:
        """Refuse an unknown channel, a unit of another kind, and states of another kind.

        What is stored must stay readable, so `TagMap.doubts` tells of units that are implausible.
        """
        try:
            make_tag(self.channel, self.unit)
        except ImplausibleUnit:
            pass
        except InvalidInput as error:
            raise ValueError(f"{error.detail}; {error.fix}") from error
        if self.states:
            _check_states(self.channel, self.states)
        return self


def _check_states(channel: str, states: Mapping[str, bool | int]) -> None:
    """Raise ValueError unless `states` suit `channel` and no word has two meanings."""
    if channel not in (RUNNING, TRIP_CODE):
        raise ValueError(f"channel {channel} takes no states; only {RUNNING} and {TRIP_CODE} do")
    kind = bool if channel == RUNNING else int
    for word, state_ in states.items():
        if type(state_) is not kind or abs(state_) >= 2**31:
            expected = "true or false" if kind is bool else "a whole number within 32 bits"
            raise ValueError(f"state {word!r} of {channel} must be {expected}, not {state_!r}")
    repeated = [word for word, count in Counter(map(normalise, states)).items() if count > 1]
    if repeated:
        raise ValueError(f"states named more than once: {', '.join(repeated)}")


Tag = Annotated[str, Field(min_length=1, max_length=200, pattern=NO_NUL)]


class TagMap(Asset):
    """The vendor tags of one gateway; a tag mapped to null is known and not kept."""

    gateway_id: AssetId
    tags: Annotated[dict[Tag, TagTarget | None], Field(min_length=1, max_length=1000)]

    def references(self) -> Iterator[tuple[str, str, str]]:
        """Yield the gateway whose tags these are."""
        yield "gateway_id", "gateways", self.gateway_id

    def doubts(self) -> Iterator[tuple[str, InvalidInput]]:
        """Yield the tags with a unit in which no usual reading could be written."""
        for tag, target in self.tags.items():
            try:
                make_tag(target.channel if target else RUNNING, target.unit if target else None)
            except ImplausibleUnit as error:
                yield f"tags.{tag}.unit", error


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of asset: `name` is its collection in the API and in files, `key` its id's attribute."""

    name: str
    model: type[Asset]
    key: str
    event_type: str

    def id_of(self, asset: Asset) -> str:
        """Return the id of `asset`."""
        return str(getattr(asset, self.key))


KINDS: Final[Mapping[str, Kind]] = {
    kind.name: kind
    for kind in (
        Kind("fields", OilField, "field_id", "asset.field-changed"),
        Kind("wells", Well, "well_id", "asset.well-changed"),
        Kind("pumps", Pump, "pump_id", "asset.pump-changed"),
        Kind("gateways", Gateway, "gateway_id", "asset.gateway-changed"),
        Kind("tag_maps", TagMap, "gateway_id", "asset.tag-map-changed"),
    )
}
"""Every kind, each after those it refers to: the order in which they are written."""


@dataclass(frozen=True, slots=True)
class Statement:
    """That `asset` is so, as `where` (a line of a file, the body of a request) says."""

    kind: Kind
    asset: Asset
    where: str

    @property
    def id(self) -> str:
        """The asset's id."""
        return self.kind.id_of(self.asset)


def state(kind: Kind, document: Any, where: str) -> tuple[Statement | None, list[InputProblem]]:
    """Validate one asset's `document` (parsed YAML, JSON or CSV); return it, or what is wrong with it."""
    try:
        statement = Statement(kind, kind.model.model_validate(document), where)
    except ValidationError as error:
        return None, [_problem(kind, where, details) for details in error.errors()]
    problems = doubts([statement])
    return (None if problems else statement), problems


def doubts(statements: Iterable[Statement]) -> list[InputProblem]:
    """Return what is well formed in `statements` and cannot be meant."""
    return [
        InputProblem(f"{statement.where}: {attribute}", error.detail, str(error.fix))
        for statement in statements
        for attribute, error in statement.asset.doubts()
    ]


def _problem(kind: Kind, where: str, details: Mapping[str, Any]) -> InputProblem:
    attribute = ".".join(str(part) for part in details["loc"])
    place = f"{where}: {attribute}" if attribute else where
    match details["type"]:
        case "missing":
            return InputProblem(place, "is missing", "add it")
        case "extra_forbidden":
            known = ", ".join(kind.model.model_fields)
            return InputProblem(place, "is not an attribute known here", f"{kind.name} have {known}")
        case "string_type":
            return InputProblem(place, f"{details['input']!r} is not text", "put it in quotes")
        case _:
            what = str(details["msg"]).removeprefix("Value error, ")
            return InputProblem(place, what, f"it is {_shown(details['input'])}")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
