"""Resolve local times of a repeated hour by the order of the rows."""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, Generic, Protocol, TypeVar

MAX_PENDING: Final = 100_000
"""Maximum rows held back while an hour is open; a file not in time order could fill memory."""

_APART: Final = timedelta(days=1)


class LocalRow(Protocol):
    """A row of one pump: its `local` time if ambiguous, its `naive` time if unambiguous."""

    @property
    def pump(self) -> str | None:
        """Pump of the row."""

    @property
    def local(self) -> datetime | None:
        """The ambiguous local time, else None."""

    @property
    def naive(self) -> datetime | None:
        """The unambiguous local time, None if the time cannot be read."""

    @property
    def values(self) -> dict[str, Any]:
        """Measured values of the row."""

    def resolve(self, fold: int | None) -> None:
        """Choose the first (0) or second (1) instant; None: undecidable."""


RowT = TypeVar("RowT", bound=LocalRow)


@dataclass(slots=True)
class _Held(Generic[RowT]):
    row: RowT
    is_open: bool


@dataclass(slots=True)
class _Run(Generic[RowT]):
    """Consecutive rows of one pump in one repeated hour, and the pump's last clear time before them."""

    before: datetime | None
    held: list[_Held[RowT]] = field(default_factory=list)


class LocalTimes(Generic[RowT]):
    """Pass rows on in order; those of a repeated hour once its end shows which pass they belong to."""

    def __init__(self) -> None:
        self._pending: deque[_Held[RowT]] = deque()
        self._runs: dict[str | None, _Run[RowT]] = {}
        self._last: dict[str | None, datetime] = {}

    def push(self, row: RowT) -> Iterator[RowT]:
        """Add the next row; yield the rows that are resolved."""
        if not self._pending and row.local is None:
            if row.naive is not None:
                self._last[row.pump] = row.naive
            yield row
            return
        held = _Held(row, row.local is not None)
        self._pending.append(held)
        if row.local is not None:
            self._add(held, row.local)
        elif row.naive is not None:
            self._close(row.pump, row.naive)
            self._last[row.pump] = row.naive
        if len(self._pending) > MAX_PENDING:
            yield from self.flush()
        yield from self._clear()

    def flush(self) -> Iterator[RowT]:
        """Yield the remaining rows at the end of the file."""
        for pump in list(self._runs):
            self._close(pump, None)
        yield from self._clear()

    def _add(self, held: _Held[RowT], local: datetime) -> None:
        run = self._runs.get(held.row.pump)
        if run and run.held[0].row.local and abs(run.held[0].row.local - local) > _APART:
            self._close(held.row.pump, local)
            run = None
        if run is None:
            run = self._runs[held.row.pump] = _Run(self._last.get(held.row.pump))
        run.held.append(held)

    def _close(self, pump: str | None, after: datetime | None) -> None:
        run = self._runs.pop(pump, None)
        if run is None:
            return
        rows = [held.row for held in run.held]
        folds = _folds(rows, run.before, after)
        for held, fold in zip(run.held, folds, strict=True):
            held.row.resolve(fold)
            held.is_open = False

    def _clear(self) -> Iterator[RowT]:
        while self._pending and not self._pending[0].is_open:
            yield self._pending.popleft().row


def _folds(rows: Sequence[LocalRow], before: datetime | None, after: datetime | None) -> Sequence[int | None]:
    """Return the pass of each row: the clock was put back where time runs the wrong way once."""
    found = {ascending: _steps(rows, ascending) for ascending in (True, False)}
    ascending = _direction(rows, before, after)
    if ascending is None:
        # Few rows may fit both orders: the result is certain only if one of them does not fit.
        ascending = len(found[False]) > 1
        if len(found[not ascending]) <= 1:
            return [None] * len(rows)
    if len(found[ascending]) != 1:
        return [None] * len(rows)
    (step,) = found[ascending]
    first, second = (0, 1) if ascending else (1, 0)
    return [first if number < step else second for number in range(len(rows))]


def _steps(rows: Sequence[LocalRow], ascending: bool) -> list[int]:
    """Return the start of the second pass if the file is in that order."""
    return [
        number
        for number in range(1, len(rows))
        if _turns(rows[number - 1], rows[number], ascending) or _repeats(rows, number)
    ]


def _direction(rows: Sequence[LocalRow], before: datetime | None, after: datetime | None) -> bool | None:
    """Return whether the file is in ascending order, None if no unambiguous neighbour decides."""
    first, last = rows[0].local, rows[-1].local
    if before is not None and first is not None:
        return before < first
    if after is not None and last is not None:
        return after > last
    return None


def _turns(earlier: LocalRow, later: LocalRow, ascending: bool) -> bool:
    if earlier.local is None or later.local is None:
        return False
    return later.local < earlier.local if ascending else later.local > earlier.local


def _repeats(rows: Sequence[LocalRow], number: int) -> bool:
    """Return whether the row gives a channel another value at the same local time as the row before.

    A pump has one value of a channel at an instant, so this is the second pass of hourly data.
    """
    earlier, later = rows[number - 1], rows[number]
    if earlier.local != later.local:
        return False
    return any(earlier.values.get(name, value) != value for name, value in later.values.items())
