"""Trained detector of one pump, and its serialization."""

import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from esp_common.errors import InvalidInput

from esp_diagnostics.physics.arrays import Bools, Floats

MIN_UNSTEADY_S: Final = 3600.0
"""Shorter unsteady intervals are gauge dropouts, not starts or changes."""

FORMAT: Final = 1
"""Version of the serialization; detectors of another version must be trained again."""


class DetectorInvalid(InvalidInput):
    """Bytes that are not a detector of this version, or a detector of other features."""

    code, title = "detector-invalid", "Detector cannot be used"


@dataclass(frozen=True, slots=True)
class Settings:
    """Parameters of training and scoring.

    `smoothing_s`: time constant of the exponentially weighted mean; `follow_s`: that of the level it is
    compared with. `false_alarm_share`: share of healthy samples above the limits, which are then widened by
    `margin` (T²; sums by its root). `minimum_hours` of healthy steady running before scoring, and
    `minimum_regime_hours` of each regime. `settling_s`: time after a start or change that is neither learnt
    nor scored. `blocks`: number of time blocks, each held out once to set the limits. `slack` of the
    cumulative sums in standard deviations (infinite: no sums).
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
    """No detector yet: the reason, and the share (0-1) of the required healthy running."""

    reason: str
    share: float


@dataclass(frozen=True, slots=True)
class Reference:
    """Healthy distribution of k features, per regime.

    `regimes` (r,) rising; `center` and `scale` (r, k); `covariance` (k, k) of the scaled and smoothed
    features about their level, identity where not `used` (k,); `level` (k,) at the end of the history;
    `wander` (k,) mean squared drift of the features within `wander_s`.
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
        """Return the inverse covariance (k, k), 0 for unused features, for a level frozen for `frozen_s`.

        The longer the level is frozen, the farther healthy features may have drifted, up to the observed
        drift.
        """
        share = min(frozen_s / self.wander_s, 1.0)
        wider = self.covariance + np.diag(self.wander * share)
        return np.asarray(np.where(np.outer(self.used, self.used), np.linalg.inv(wider), 0.0))


@dataclass(frozen=True, slots=True)
class Detector:
    """Trained detector of one pump: its reference and the limits of healthy running.

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
        """Return figures of the training: hours, regimes, features, limits."""
        return {
            "hours": self.hours,
            "regimes": float(len(self.reference.regimes)),
            "features": float(np.count_nonzero(self.reference.used)),
            "distance_limit": self.distance_limit,
            "sum_limit": self.sum_limit,
        }

    def to_bytes(self) -> bytes:
        """Serialize as arrays and JSON; reading executes no code."""
        buffer = io.BytesIO()
        np.savez_compressed(buffer, allow_pickle=False, about=np.array(self._about()), **self._arrays())
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, body: bytes) -> "Detector":
        """Deserialize the result of `to_bytes`; raise DetectorInvalid for anything else."""
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
            f"detector of format {about['format']}, expected {FORMAT}", fix="train the pump again"
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
    """Raise DetectorInvalid unless shapes match and all numbers are finite."""
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
                f"{name}: expected finite numbers of shape {shape}, not {array.shape}",
                fix="train the pump again",
            )
    limits = np.array([detector.distance_limit, detector.sum_limit, reference.wander_s])
    if not (np.isfinite(limits).all() and (limits > 0).all() and (reference.scale > 0).all()):
        raise DetectorInvalid("a limit or scale is not positive", fix="train the pump again")
