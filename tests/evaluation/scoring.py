"""How well alarms match what was wrong: by sample, by event, and how late."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Labelled:
    """One run's samples in order: alarmed, anomalous by its label, and the seconds between two of them.

    `counted`: those that count in shares of samples; all by default. Events and episodes are of all samples.
    """

    alarmed: np.ndarray
    anomalous: np.ndarray
    interval_s: float
    counted: np.ndarray | None = None

    def counting(self) -> np.ndarray:
        """Return which samples count."""
        return np.ones(len(self.alarmed), dtype=bool) if self.counted is None else self.counted


@dataclass(frozen=True, slots=True)
class Score:
    """What alarms are worth over some runs.

    Shares of samples: F1; `far` healthy but alarmed, `far_before` and `far_after` the same of samples before
    a run's first event and after it (the recovery); `mar` anomalous but not alarmed. Events: how many, how
    many `found`, `false_episodes` of alarm that touch no event, `delays_s` from onset to the alarm.
    """

    f1: float
    far: float
    far_before: float
    far_after: float
    mar: float
    events: int
    found: int
    false_episodes: int
    delays_s: tuple[float, ...]

    def row(self) -> str:
        """Return the score as cells of a table."""
        delay = f"{np.median(self.delays_s):.0f} s" if self.delays_s else "-"
        return (
            f"{self.f1:.3f} | {self.far:.1%} | {self.far_before:.1%} | {self.far_after:.1%} | {self.mar:.1%}"
            f" | {self.found} of {self.events} | {delay} | {self.false_episodes}"
        )


HEADER = "F1 | FAR | before the event | after it | MAR | events found | median delay | false episodes"


def score(runs: Sequence[Labelled]) -> Score:
    """Return the score of runs, their samples pooled."""
    alarmed = np.concatenate([run.alarmed[run.counting()] for run in runs])
    anomalous = np.concatenate([run.anomalous[run.counting()] for run in runs])
    before = np.concatenate([(np.cumsum(run.anomalous) == 0)[run.counting()] for run in runs])
    hits = np.sum(alarmed & anomalous)
    onsets = [(run, start, end) for run in runs for start, end in episodes(run.anomalous)]
    delays = [_delay_s(run, start, end) for run, start, end in onsets]
    return Score(
        f1=float(2 * hits / max(np.sum(alarmed) + np.sum(anomalous), 1)),
        far=_share(alarmed, ~anomalous),
        far_before=_share(alarmed, ~anomalous & before),
        far_after=_share(alarmed, ~anomalous & ~before),
        mar=_share(~alarmed, anomalous),
        events=len(onsets),
        found=sum(delay is not None for delay in delays),
        false_episodes=sum(
            not run.anomalous[start:end].any() for run in runs for start, end in episodes(run.alarmed)
        ),
        delays_s=tuple(delay for delay in delays if delay is not None),
    )


def episodes(flags: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yield start and end (exclusive) of each stretch of true flags."""
    edges = np.flatnonzero(np.diff(flags.astype(np.int8), prepend=0, append=0))
    yield from zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)


def _delay_s(run: Labelled, start: int, end: int) -> float | None:
    alarmed = np.flatnonzero(run.alarmed[start:end])
    return float(alarmed[0] * run.interval_s) if len(alarmed) else None


def _share(flags: np.ndarray, among: np.ndarray) -> float:
    return float(np.sum(flags & among) / max(np.sum(among), 1))
