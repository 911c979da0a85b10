"""Which readings are kept, which are refused and why: the one set of rules that worker and API share."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy.typing as npt
import numpy as np

from esp_ingest.domain.decode import Decoded
from esp_ingest.domain.readings import Quarantined
from esp_ingest.domain.registry import Registry


@dataclass(frozen=True, slots=True)
class Rejected:
    """A refused reading: number `index` of body number `body`, and the row that quarantine keeps of it."""

    body: int
    index: int
    row: Quarantined


@dataclass(frozen=True, slots=True)
class Screened:
    """The outcome of screening m bodies that hold N readings, n of them accepted.

    `counts`: (m,) readings in each body, refused ones too (an undecodable body counts as one).
    `rejected`: by body, then index; `.row` has reason, detail, the id (= the HTTP error_id) and payload.
    """

    counts: npt.NDArray[np.int64]
    rejected: Sequence[Rejected]


def screen(decoded: Decoded, registry: Registry, now_us: int) -> Screened:
    """Split the readings of `decoded` into accepted and rejected; `now_us` is microseconds since 1970 UTC."""
    raise NotImplementedError
