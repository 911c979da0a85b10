"""What a benchmark says: one row a figure, held against a ceiling of the same run or a stated target."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from statistics import median
from typing import Literal

HEADINGS = ("figure", "measured", "held against", "ratio", "target", "reached")


@dataclass(frozen=True)
class Figure:
    """One row. `measured` and `ceiling` are the rounds of this run; medians are printed.

    `target`: of the ratio measured / ceiling, or of the measured value itself if `of` says so; None for a
    figure that is there to be compared only. `at_most`: the target is an upper limit.
    """

    name: str
    measured: Sequence[float]
    unit: str
    ceiling: Sequence[float] | None = None
    target: float | None = None
    of: Literal["ratio", "measured"] = "ratio"
    at_most: bool = False
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """Median measured over median ceiling."""
        if not self.ceiling:
            return None
        ceiling = median(self.ceiling)
        return median(self.measured) / ceiling if ceiling else inf

    @property
    def reached(self) -> bool | None:
        """Whether the target is met; None without a target."""
        value = self.ratio if self.of == "ratio" else median(self.measured)
        if self.target is None or value is None:
            return None
        return value <= self.target if self.at_most else value >= self.target

    def row(self) -> tuple[str, ...]:
        """Return the cells of the table."""
        return (
            f"{self.name}{f' ({self.note})' if self.note else ''}",
            _amount(median(self.measured), self.unit),
            _amount(median(self.ceiling), self.unit) if self.ceiling else "–",
            "–" if self.ratio is None else f"{self.ratio:.3g}",
            "–" if self.target is None else self._target(),
            {True: "yes", False: "NO", None: "–"}[self.reached],
        )

    def _target(self) -> str:
        unit = "" if self.of == "ratio" else self.unit
        return f"{'≤' if self.at_most else '≥'} {_amount(self.target or 0, unit)}"


def _amount(value: float, unit: str) -> str:
    digits = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{digits} {unit}".strip()


def table(figures: Sequence[Figure]) -> str:
    """Return the figures as a Markdown table that also reads well on a terminal."""
    rows = [HEADINGS, *(figure.row() for figure in figures)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    lines = [
        "| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    return "\n".join([lines[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *lines[1:]])
