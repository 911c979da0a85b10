"""Channel limits as data: the part of the alert rules used by detection."""

from typing import Annotated, Any, Final, Literal, Self

from esp_common.contracts.channels import CHANNELS
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

LIMIT_PREFIX: Final = "limit_"
"""Prefix of the condition of a limit's alert, followed by the limit's name."""

_DAY_S: Final = 86_400
_CHANNELS: Final = {channel.name for channel in CHANNELS}

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
Delay = Annotated[float, Field(ge=0, le=7 * _DAY_S, allow_inf_nan=False)]
Number = Annotated[float, Field(allow_inf_nan=False)]


class RulesPart(BaseModel):
    """Base of all parts of the rules file: immutable, rejects unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def _off(state: Any) -> Any:
    """Return `off` for false: YAML parses an unquoted `off` as false."""
    return "off" if state is False else state


PumpState = Annotated[Literal["unknown", "off", "starting", "running", "changing"], BeforeValidator(_off)]


class Limit(RulesPart):
    """Limit of a channel: exceeded above `high` or below `low`, cleared beyond `deadband`."""

    name: Name
    channel: str
    high: Number | None = None
    low: Number | None = None
    of: Name | None = Field(default=None, description="Pump number that high or low is a factor of.")
    deadband: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    on_delay_s: Delay = 0.0
    off_delay_s: Delay = 0.0
    priority: Literal["low", "medium", "high", "critical"] = "medium"
    suppress_in_states: frozenset[PumpState] = frozenset()
    suppress_under: frozenset[Name] = frozenset()
    title: Annotated[str, Field(min_length=1, max_length=200)]
    action: Annotated[str, Field(max_length=1000)] = ""
    fields: frozenset[str] | None = Field(default=None, description="Only pumps of these fields.")
    pumps: frozenset[str] | None = Field(default=None, description="Only these pumps.")

    @property
    def condition(self) -> str:
        return LIMIT_PREFIX + self.name

    @field_validator("channel")
    @classmethod
    def _known_channel(cls, channel: str) -> str:
        if channel not in _CHANNELS:
            raise ValueError(f"unknown channel {channel}; use one of {', '.join(sorted(_CHANNELS))}")
        return channel

    @model_validator(mode="after")
    def _one_side(self) -> Self:
        if (self.high is None) == (self.low is None):
            raise ValueError("give either high or low; define two limits for both")
        return self
