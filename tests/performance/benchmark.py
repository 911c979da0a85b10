"""How a benchmark is run: its size, its test bed, and the table it prints."""

import argparse
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from time import monotonic

import psutil
from bed import Bed
from report import Figure, table


@dataclass(frozen=True)
class Size:
    """How much a run measures."""

    rounds: int
    readings: int
    singles: int
    load_s: int
    days: int
    interval_s: float
    flood_s: int
    engines: int = 2
    history_days: int = 30
    live_pumps: int = 500
    api_processes: tuple[int, ...] = (1, 2)
    pumps_asked: int = 3
    dashboards_s: int = 5


QUICK = Size(
    rounds=1,
    readings=5_000,
    singles=200,
    load_s=1,
    days=1,
    interval_s=600,
    flood_s=2,
    engines=1,
    history_days=11,
    live_pumps=50,
    api_processes=(2,),
)
DEFAULT = Size(
    rounds=3,
    readings=150_000,
    singles=20_000,
    load_s=8,
    days=7,
    interval_s=10,
    flood_s=60,
    pumps_asked=50,
    dashboards_s=60,
)
FULL = Size(
    rounds=5,
    readings=300_000,
    singles=60_000,
    load_s=20,
    days=7,
    interval_s=10,
    flood_s=600,
    pumps_asked=500,
    dashboards_s=600,
)

Benchmark = Callable[[Bed, Size], Iterable[Figure]]


def main(*benchmarks: Benchmark) -> None:
    """Run the benchmarks one after the other on one test bed and print what they found."""
    size = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    start = monotonic()
    cores, memory = psutil.cpu_count(), psutil.virtual_memory().total / 2**30
    print(f"{cores} cores, {memory:.0f} GiB, load before {psutil.getloadavg()[0]:.1f}; {size}", flush=True)
    figures: list[Figure] = []
    with Bed(size.engines) as bed:
        for benchmark in benchmarks:
            for figure in benchmark(bed, size):
                figures.append(figure)
                print(f"{monotonic() - start:5.0f} s  {'  '.join(figure.row())}", flush=True)
    print(f"\n{table(figures)}\n\nin {monotonic() - start:.0f} s", flush=True)


def _arguments(arguments: Sequence[str] | None = None) -> Size:
    parser = argparse.ArgumentParser(description="Measures the platform on servers of its own.")
    parser.add_argument(
        "--quick", action="store_true", help="some minutes: proves the benchmarks, not the figures"
    )
    parser.add_argument("--full", action="store_true", help="more rounds, and ten minutes of flood")
    parser.add_argument("--flood", type=int, metavar="SECONDS", help="length of the flood of the worker")
    parser.add_argument("--days", type=int, help="days of readings in the storage benchmark")
    given = parser.parse_args(arguments)
    size = QUICK if given.quick else FULL if given.full else DEFAULT
    return replace(size, flood_s=given.flood or size.flood_s, days=given.days or size.days)
