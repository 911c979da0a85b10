"""Differences between a running server and its wanted state."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Change:
    """One difference; `make` removes it. Without `make` an operator has to: `text` says how."""

    text: str
    make: Callable[[], object] | None = None


def apply(changes: Iterable[Change], *, dry_run: bool = False) -> list[Change]:
    """Make each change as soon as it is found, unless `dry_run`; return all of them."""
    found = []
    for change in changes:
        if change.make is not None and not dry_run:
            change.make()
        found.append(change)
    return found
