"""What a detector of one pump knows, and its bytes."""

import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from esp_common.errors import InvalidInput

from esp_diagnostics.physics.arrays import Bools, Floats

SPELL_S: Final = 3600.0
"""Unsteady for less than this is a gauge that dropped out for a moment, not a start or a change."""

FORMAT: Final = 1
"""Version of the bytes; what another version wrote is refused and trained again."""


class DetectorInvalid(InvalidInput):
    """The bytes are no detector of this version, or it was trained on other features."""

    code, title = "detector-invalid", "Detector cannot be used"


@dataclass(frozen=True, slots=True)
class Settings:
    """How a detector learns and judges.

    `smoothing_s` time constant of the exponentially weighted mean, `follow_s` of the level it is compared
    with; `false_alarm_share` of healthy samples that may lie above the limits, which are then widened by
    `margin` (of T²; sums by its root); `minimum_hours` of healthy steady running before it judges, and
    `minimum_regime_hours` of each regime; `settling_s` after a start or change that is neither learnt nor
    judged; `blocks` in time, each held out once for the limits; `slack`
    what the cumulative sum forgives, in standard deviations (infinite: there are no sums).
    """

    smoothing_s: float = 600.0
    follow_s: float = 86_400.0
    false_alarm_share: float = 0.005
    margin: float = 4.0
    minimum_hours: float = 24.0
    minimum_regime_hours: float = 4.0
    settling_s: float = 28_800.0
    blocks: int = 6
    slack: float = 1.0


@dataclass(frozen=True, slots=True)
class Learning:
    """There is no detector yet: why, and what share (0-1) of the healthy running it needs is there."""

    reason: str
    share: float


@dataclass(frozen=True, slots=True)
class Reference:
    """Where k features lie in health: one row a regime, and how they vary together.

    `regimes` (r,) rising; `center` and `scale` (r, k); `covariance` (k, k) of features, scaled and smoothed,
    about their level, 1 by itself where not `used` (k,); `level` (k,) at the history's end; `wander` (k,) how
    far squared, on average, features go within `wander_s`.
    """

    regimes: np.ndarray[Any, np.dtype[np.int64]]
    center: Floats
    scale: Floats
    used: Bools
    covariance: Floats
    level: Floats
    wander: Floats
    wander_s: float

    def inverse(self, frozen_s: float = 0.0) -> Floats:
        """Return the inverse covariance (k, k), 0 for unused features, of a level not moved for `frozen_s`.

        The longer it stands still, the farther health may have gone from it, up to what was seen.
        """
        share = min(frozen_s / self.wander_s, 1.0)
        wider = self.covariance + np.diag(self.wander * share)
        return np.asarray(np.where(np.outer(self.used, self.used), np.linalg.inv(wider), 0.0))


@dataclass(frozen=True, slots=True)
class Detector:
    """One pump's trained detector: its reference and the limits that healthy running stays within.

    `distance_limit` of T², `sum_limit` of the cumulative sums; times in µs since 1970.
    """

    names: tuple[str, ...]
    reference: Reference
    distance_limit: float
    sum_limit: float
    settings: Settings
    trained_from_us: int
    trained_to_us: int
    samples: int
    hours: float

    def metrics(self) -> dict[str, float]:
        """Return what is worth showing of the training: hours, regimes, features, limits."""
        return {
            "hours": self.hours,
            "regimes": float(len(self.reference.regimes)),
            "features": float(np.count_nonzero(self.reference.used)),
            "distance_limit": self.distance_limit,
            "sum_limit": self.sum_limit,
        }

    def to_bytes(self) -> bytes:
        """Return the detector as bytes: arrays and JSON, nothing that runs when read."""
        buffer = io.BytesIO()
        np.savez_compressed(buffer, allow_pickle=False, about=np.array(self._about()), **self._arrays())
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, body: bytes) -> "Detector":
        """Return the detector that `to_bytes` wrote; raise DetectorInvalid for anything else."""
        try:
            with np.load(io.BytesIO(body), allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files}
            return _detector(json.loads(str(arrays.pop("about"))), arrays)
        except DetectorInvalid:
            raise
        except (ValueError, KeyError, TypeError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise DetectorInvalid(f"not a detector: {error}", fix="train the pump again") from None

    def _about(self) -> str:
        return json.dumps(
            {
                "format": FORMAT,
                "names": self.names,
                "distance_limit": self.distance_limit,
                "sum_limit": self.sum_limit,
                "settings": asdict(self.settings),
                "trained_from_us": self.trained_from_us,
                "trained_to_us": self.trained_to_us,
                "samples": self.samples,
                "hours": self.hours,
                "wander_s": self.reference.wander_s,
            }
        )

    def _arrays(self) -> dict[str, Any]:
        return {name: getattr(self.reference, name) for name in Reference.__slots__ if name != "wander_s"}


def _detector(about: Mapping[str, Any], arrays: Mapping[str, Any]) -> Detector:
    if about["format"] != FORMAT:
        raise DetectorInvalid(
            f"a detector of format {about['format']}, this is {FORMAT}", fix="train the pump again"
        )
    plain = set(Detector.__slots__) - {"names", "reference", "settings"}
    detector = Detector(
        names=tuple(about["names"]),
        reference=Reference(**arrays, wander_s=about["wander_s"]),
        settings=Settings(**about["settings"]),
        **{name: about[name] for name in plain},
    )
    _check(detector)
    return detector


def _check(detector: Detector) -> None:
    """Raise DetectorInvalid when shapes do not fit or something is not finite."""
    k, reference = len(detector.names), detector.reference
    r = len(reference.regimes)
    shapes = {
        "center": (r, k),
        "scale": (r, k),
        "used": (k,),
        "level": (k,),
        "wander": (k,),
        "covariance": (k, k),
    }
    for name, shape in shapes.items():
        array = getattr(reference, name)
        if array.shape != shape or not np.isfinite(array).all():
            raise DetectorInvalid(
                f"{name} is {array.shape}, not finite numbers of {shape}", fix="train the pump again"
            )
    limits = np.array([detector.distance_limit, detector.sum_limit, reference.wander_s])
    if not (np.isfinite(limits).all() and (limits > 0).all() and (reference.scale > 0).all()):
        raise DetectorInvalid("a limit or scale is not above zero", fix="train the pump again")
