"""Storage: what the columnstore saves, and how much faster the aggregates answer than raw rows.

The simulated field, 50 pumps every 10 s for 7 days, loaded in the order in which it would arrive. The
questions are asked through the published views, as the diagnostics service asks them: the hourly trend of
one pump and the summary of the whole fleet, minimum, mean and maximum of six channels. Aggregates are
refreshed as far as their policies would have; what is newer is aggregated while reading.
"""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from io import BytesIO
from time import perf_counter
from typing import Any

import asyncpg
from bed import SEED, Bed, Deployment
from benchmark import Size, main
from ceilings import copy_bodies
from esp_gateway.simulator.field import build_field
from report import Figure

PUMPS = 50
ROWS_A_COPY = 50_000
TIMES_FASTER = 100
PLANNED_AFTER = 7
"""PostgreSQL plans a prepared statement anew five times before it decides to keep a plan."""

CHANNELS = (
    "intake_pressure_psi",
    "discharge_pressure_psi",
    "motor_temp_c",
    "motor_current_a",
    "frequency_hz",
    "vibration_x_g",
)


def _list(template: str) -> str:
    return ", ".join(template.format(name) for name in CHANNELS)


_RAW = "avg({0}), min({0}), max({0})"
_WEIGHTED = "sum({0}_avg * {0}_count) / nullif(sum({0}_count), 0), min({0}_min), max({0}_max)"
TREND_RAW = f"""
    SELECT date_trunc('hour', time) AS hour, {_list(_RAW)} FROM telemetry_v1.readings
    WHERE pump_id = 'SIM-017' AND time >= $1 AND time < $2 GROUP BY 1 ORDER BY 1
"""
TREND = f"""
    SELECT bucket, {_list("{0}_avg, {0}_min, {0}_max")} FROM telemetry_v1.readings_1hour
    WHERE pump_id = 'SIM-017' AND bucket >= $1 AND bucket < $2 ORDER BY 1
"""
FLEET_RAW = f"""
    SELECT pump_id, count(*), {_list(_RAW)} FROM telemetry_v1.readings
    WHERE time >= $1 AND time < $2 GROUP BY 1 ORDER BY 1
"""
FLEET = f"""
    SELECT pump_id, sum(readings), {_list(_WEIGHTED)} FROM telemetry_v1.readings_1day
    WHERE bucket >= $1 AND bucket < $2 GROUP BY 1 ORDER BY 1
"""


@dataclass(frozen=True)
class Span:
    """The time that the questions are about: whole days that end this midnight, UTC."""

    start: datetime
    end: datetime


def storage(bed: Bed, size: Size) -> Iterator[Figure]:
    """Load, refresh, ask, compress and ask again, on every engine."""
    end = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    span = Span(end - timedelta(days=size.days), end)
    for engine in bed.engines:
        deployment = bed.deploy(engine, PUMPS)
        rows = asyncio.run(_load(deployment, span, size.interval_s))
        _refresh(deployment, span)
        days = f"{size.days} days"
        yield from _questions(deployment, span, f"{engine}: {days}, row store", size.rounds)
        if engine == "timescale":
            yield from _compressed(deployment, rows)
            yield from _questions(deployment, span, f"{engine}: {days}, columnstore", size.rounds)
        deployment.admin("TRUNCATE ingest.telemetry")


async def _load(deployment: Deployment, span: Span, interval_s: float) -> int:
    """Copy the field's readings into the store and return their number."""
    deployment.stop_jobs()
    numbers = deployment.pump_numbers()
    connection: Any = await asyncpg.connect(deployment.url("postgres"))
    rows = 0
    try:
        for readings in build_field(SEED, PUMPS).chunks(span.start, span.end, interval_s):
            deployment.ensure_partitions(readings)
            rows += len(readings)
            for body in copy_bodies(readings, numbers, ROWS_A_COPY, as_arrived=True):
                await connection.copy_to_table(
                    "telemetry", schema_name="ingest", source=BytesIO(body), format="binary"
                )
        await connection.execute("ANALYZE ingest.telemetry")
    finally:
        await connection.close()
    return rows


def _refresh(deployment: Deployment, span: Span) -> None:
    """Bring the aggregates to where the policies (or the maintenance role) keep them."""
    now = datetime.now(UTC)
    pumps = list(deployment.pump_numbers().values())
    for grain, lag in (
        ("1min", timedelta(minutes=1)),
        ("1hour", timedelta(hours=1)),
        ("1day", timedelta(days=1)),
    ):
        if deployment.engine == "timescale":
            statement = f"CALL refresh_continuous_aggregate('ingest.telemetry_{grain}', NULL, %s)"
            deployment.admin(statement, now - lag)
        else:
            statement = f"SELECT ingest.refresh_{grain}(%s::int4[], %s, %s)"
            deployment.admin(statement, pumps, span.start, span.end)
        deployment.admin(f"ANALYZE ingest.telemetry_{grain}")


def _questions(deployment: Deployment, span: Span, where: str, rounds: int) -> Iterator[Figure]:
    # Policies leave seven days in the row store: raw rows of the columnstore are there to be compared.
    target = None if where.endswith("columnstore") else 1 / TIMES_FASTER
    for question, raw, aggregate in (
        ("trend of a pump", TREND_RAW, TREND),
        ("fleet summary", FLEET_RAW, FLEET),
    ):
        raw_ms, aggregate_ms = asyncio.run(_times(deployment, span, (raw, aggregate), rounds))
        name, note = f"{where}: {question} from aggregates", "from raw rows"
        yield Figure(name, aggregate_ms, "ms", raw_ms, target, at_most=True, note=note)


async def _times(
    deployment: Deployment, span: Span, questions: Sequence[str], rounds: int
) -> list[list[float]]:
    """Return the milliseconds each question took, asked in turn over a connection that knows them."""
    connection: Any = await asyncpg.connect(deployment.url("esp_diagnostics"))
    times: list[list[float]] = [[] for _ in questions]
    try:
        answers = [await _known(connection, question, span) for question in questions]
        for _ in range(rounds):
            for taken, question in zip(times, questions, strict=True):
                start = perf_counter()
                await connection.fetch(question, span.start, span.end)
                taken.append((perf_counter() - start) * 1000)
    finally:
        await connection.close()
    _agree(*answers)
    return times


async def _known(connection: Any, question: str, span: Span) -> list[Any]:
    """Ask until the statement is planned once and for all, or that could not matter any more."""
    start = perf_counter()
    for _ in range(PLANNED_AFTER):
        answer: list[Any] = await connection.fetch(question, span.start, span.end)
        if perf_counter() - start > 2:
            break
    return answer


def _agree(raw: list[Any], aggregated: list[Any]) -> None:
    """End the run unless both answers say the same: a fast wrong one is worth nothing."""
    for one, other in zip(raw, aggregated, strict=True):
        for a, b in zip(one.values(), other.values(), strict=True):
            if a != b and not (isinstance(a, float) and abs(a - b) <= 1e-9 * max(abs(a), 1)):
                raise SystemExit(f"aggregates and raw rows disagree: {dict(one)} {dict(other)}")


def _compressed(deployment: Deployment, rows: int) -> Iterator[Figure]:
    before = _bytes(deployment)
    chunks = deployment.admin("SELECT show_chunks('ingest.telemetry')::text")
    for (chunk,) in chunks:
        deployment.admin("CALL convert_to_columnstore(%s::regclass)", chunk)
    deployment.admin("ANALYZE ingest.telemetry")
    after = _bytes(deployment)
    saved = 100 * (1 - after / before)
    yield Figure("columnstore: saved of the row store", [saved], "%", target=90, of="measured")
    yield Figure(
        "columnstore: a reading", [after / rows], "bytes", [before / rows], note="row store with its key"
    )


def _bytes(deployment: Deployment) -> int:
    return int(deployment.admin("SELECT hypertable_size('ingest.telemetry')")[0][0])


if __name__ == "__main__":
    main(storage)
