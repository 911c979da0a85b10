"""Progress of long-running work, for a terminal."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Progress = Callable[[str, float | None], None]
"""Called with the current activity and the completed fraction; None: unknown."""


def silent(what: str, fraction: float | None) -> None:
    """Report nothing."""


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """Show progress bars on standard error, one for each activity, if it is a terminal."""
    if not sys.stderr.isatty():
        yield silent
        return
    # Slow to import.
    from rich import progress
    from rich.console import Console

    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.TaskProgressColumn(),
        progress.TimeElapsedColumn(),
    )
    with progress.Progress(*columns, console=Console(stderr=True)) as bars:
        tasks: dict[str, progress.TaskID] = {}

        def report(what: str, fraction: float | None) -> None:
            if what not in tasks:
                for task in bars.tasks:
                    bars.update(task.id, total=1, completed=1)
                tasks[what] = bars.add_task(what, total=None)
            if fraction is not None:
                bars.update(tasks[what], total=1, completed=fraction)

        yield report
        for task in bars.tasks:
            bars.update(task.id, total=1, completed=1)
