"""What the platform knows of its assets, in the shape that screening readings needs."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from esp_common.contracts.readings import API_GATEWAY
from esp_common.contracts.words import States


@dataclass(frozen=True, slots=True)
class Pump:
    """One pump: its surrogate number, its names, and how often it should report (None: not agreed)."""

    pump_no: int
    pump_id: str
    well_id: str
    field_id: str
    expected_interval_s: float | None = None


@dataclass(frozen=True, slots=True)
class Tag:
    """What a vendor's tag measures: `value · factor + offset` is the channel in its catalogue unit.

    `channel` is a name of the catalogue, or `running` or `trip_code` (factor 1, offset 0), whose `states`
    are the vendor's own words by `words.normalise`.
    """

    channel: str
    factor: float = 1.0
    offset: float = 0.0
    states: States | None = None


TagMap = Mapping[str, Tag | None]
"""A gateway's vendor tags; None is a tag that is known and not kept."""


@dataclass(frozen=True, slots=True)
class Registry:
    """Pumps, gateways and tag maps at one moment.

    `gateways`: the pump numbers each gateway may report. `tag_maps`: only gateways that registered one.
    """

    pumps: Mapping[str, Pump]
    gateways: Mapping[str, frozenset[int]]
    tag_maps: Mapping[str, TagMap] = field(default_factory=dict)
    by_no: Mapping[int, Pump] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_no", {pump.pump_no: pump for pump in self.pumps.values()})

    @classmethod
    def of(
        cls,
        pumps: Iterable[Pump],
        gateways: Mapping[str, Iterable[int]],
        tag_maps: Mapping[str, TagMap] | None = None,
    ) -> "Registry":
        """Build a registry from rows."""
        return cls(
            {pump.pump_id: pump for pump in pumps},
            {gateway_id: frozenset(numbers) for gateway_id, numbers in gateways.items()},
            tag_maps or {},
        )

    def knows_gateway(self, gateway_id: str) -> bool:
        """Whether readings from `gateway_id` are taken at all."""
        return gateway_id == API_GATEWAY or gateway_id in self.gateways

    def may_report(self, gateway_id: str, pump_no: int) -> bool:
        """Whether `gateway_id` is a gateway of that pump."""
        return gateway_id == API_GATEWAY or pump_no in self.gateways.get(gateway_id, ())
