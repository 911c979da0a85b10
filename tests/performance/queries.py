"""The query API: trends of 30 days and the fleet, against the bare SQL, from the cache, under dashboards.

A reading a minute of each pump for 30 days, five channels, made in the database; status, findings and alerts
of 500 pumps. A few pumps' history is made and aggregated; the others have copies of it. Requests come one
after the other over one connection, as from a page, and each question goes to the API and to the database in
turn. The bare SQL is what anybody would write for it, its rows fetched over one connection. Dashboards ask
for the fleet and for their pump's last day every 5 s, all at once.
"""

import asyncio
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from http.client import HTTPConnection
from time import perf_counter
from typing import Any
from urllib.parse import urlencode

import asyncpg
import httpx
import numpy as np
import uvloop
from bed import BOOTSTRAP_KEY, Bed, Deployment, Role
from benchmark import Size, main
from esp_diagnostics.fleet import store as fleet
from esp_diagnostics.settings import DiagnosticsSettings
from esp_diagnostics.store.migrations import migrate
from esp_diagnostics.trends import store as history
from esp_diagnostics.trends.resolution import Resolution, Span, plan
from report import Figure

FLEET = 500
SMALL_FLEET = 20
"""Enough to prove the benchmark."""

MADE = 10
"""Pumps whose history is made and aggregated, which takes the store ten times as long as to copy it."""

ASKED = 60
"""Requests of a round: each of another pump, as long as there are so many."""

FEW_ASKED = 6
"""Enough to prove the benchmark."""

POINTS = 1000
CHANNELS = (
    "intake_pressure_psi",
    "discharge_pressure_psi",
    "frequency_hz",
    "motor_current_a",
    "motor_temp_c",
)
DASHBOARDS = 50
REFRESH_S = 5.0
UNCACHED_MS = 50
CACHED_MS = 5
MOST_RATIO = 1.5
LEAST_HITS_PCT = 99.0
HEADERS = {"X-API-Key": BOOTSTRAP_KEY}

READINGS = """
INSERT INTO ingest.telemetry (pump_no, time, running, intake_pressure_psi, discharge_pressure_psi,
                              frequency_hz, motor_current_a, motor_temp_c)
SELECT pump_no, time, true, (18000 + 400 * sin(t / 9000 + pump_no) + 40 * random())::int4,
       (72000 + 300 * sin(t / 5000) + 60 * random())::int4, 5500, (420 + 6 * random())::int4,
       (2400 + 40 * sin(t / 40000) + 4 * random())::int4
FROM (SELECT pump_no FROM ingest.pumps WHERE pump_id = ANY (%s)) AS p,
     generate_series(%s::timestamptz, %s::timestamptz - INTERVAL '1 min', INTERVAL '1 min') AS time,
     LATERAL (SELECT extract(epoch FROM time)::float8 AS t) AS e
"""
"""Of one day: TimescaleDB's insert and PostgreSQL's memory like it in pieces."""

COPIES = """
INSERT INTO {table} ({pump}, {time}, {others})
SELECT p.copy, {time}, {others}
FROM {table} JOIN unnest(%s::{type}[], %s::{type}[]) AS p (made, copy) ON p.made = {table}.{pump}
WHERE {time} >= %s AND {time} < %s
"""
COLUMNS = """
SELECT string_agg(quote_ident(attname), ', ') FROM pg_attribute
WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped AND attname <> ALL (%s)
"""
MATERIALISED = """
SELECT format('%%I.%%I', materialization_hypertable_schema, materialization_hypertable_name)
FROM timescaledb_information.continuous_aggregates WHERE view_schema = 'ingest' AND view_name = %s
"""

LAGS = {"1min": timedelta(minutes=1), "1hour": timedelta(hours=1), "1day": timedelta(days=1)}
"""How far behind the present the policy of a grain leaves it."""

KNOWN = """
INSERT INTO diagnostics.pumps (pump_id, field_id, well_id, nameplate)
SELECT pump_id, field_id, well_id, to_jsonb(p) FROM telemetry_v1.pumps AS p ON CONFLICT DO NOTHING;
INSERT INTO diagnostics.pump_status (pump_id, field_id, time, state, since, latest, health)
SELECT pump_id, field_id, now(), (ARRAY['running', 'running', 'running', 'off'])[1 + n % 4], now(),
       jsonb_build_object('running', true, 'channels', latest), 100 - n % 60
FROM (SELECT *, row_number() OVER (ORDER BY pump_id) AS n FROM diagnostics.pumps) AS p,
     (SELECT jsonb_object_agg(name, jsonb_build_object('value', position * 10.5, 'time', now())) AS latest
      FROM ingest.channels) AS c;
INSERT INTO diagnostics.findings (finding_id, pump_id, field_id, condition, kind, severity, peak_severity,
                                  confidence, onset, raised_at, rule_version)
SELECT gen_random_uuid(), pump_id, field_id, condition, 'tree', severity, severity, 0.8, now(), now(), '1'
FROM diagnostics.pumps,
     (VALUES ('pump_wear', 'medium'), ('gas_interference', 'high')) AS f (condition, severity)
WHERE hashtext(pump_id || condition) % 5 = 0;
INSERT INTO diagnostics.alerts (alert_id, pump_id, field_id, condition, source, title, severity, priority,
                                state, active, acknowledged, occurrences, signalled_at, raised_at,
                                last_raised_at, updated_at)
SELECT gen_random_uuid(), pump_id, field_id, condition, 'finding', condition, severity, 'high',
       'active_unacknowledged', true, false, 1, now(), now(), now(), now()
FROM diagnostics.findings;
ANALYZE diagnostics.pumps, diagnostics.pump_status, diagnostics.findings, diagnostics.alerts
"""


def queries(bed: Bed, size: Size) -> Iterator[Figure]:
    """Measure trends and fleet, uncached, bare and cached, then the dashboards' hit ratio."""
    pumps_in_all = FLEET if size.pumps_asked >= SMALL_FLEET else SMALL_FLEET
    deployment = bed.deploy(bed.engines[0], pumps_in_all)
    end = datetime.now(UTC).replace(second=0, microsecond=0)
    span = Span(end - timedelta(days=size.history_days), end)
    pumps = _load(deployment, span, size.pumps_asked)
    with ExitStack() as running:
        running.enter_context(bed.auth(deployment).running())
        plain = running.enter_context(_api(deployment, cached=False).running())
        caching = running.enter_context(_api(deployment, cached=True).running())
        days = f"{size.history_days} days"
        note = f"{deployment.engine}, {len(pumps)} pumps × {days} at 1 min"
        yield from _answers(f"trend of {days}", note, _trends(pumps, span), plain, caching, deployment, size)
        yield from _answers("fleet", f"{pumps_in_all} pumps", _fleets(), plain, caching, deployment, size)
        yield asyncio.run(_dashboards(caching, pumps, size.dashboards_s))


def _api(deployment: Deployment, *, cached: bool) -> Role:
    keep = {} if cached else {"CACHE_OPEN_S": "0", "CACHE_CLOSED_S": "0"}
    settings = {
        "AMQP_URL": deployment.bed.rabbitmq.url_for("diagnostics"),
        "DATABASE_URL": deployment.url("esp_diagnostics"),
        "REDIS_URL": deployment.bed.redis.url,
        "LOG_LEVEL": "WARNING",
        "RATE_LIMIT_PER_MINUTE": "0",
        **keep,
    }
    return Role(deployment.bed, "diagnostics", "api", settings)


def _load(deployment: Deployment, span: Span, pumps: int) -> list[str]:
    """Make `pumps` pumps' readings and everybody's status; return the pumps that have readings."""
    migrate(deployment.url("esp_diagnostics_owner"), deployment.engine)
    deployment.stop_jobs()
    deployment.admin(KNOWN)
    known = [
        row[0]
        for row in deployment.admin("SELECT pump_id FROM ingest.pumps ORDER BY pump_id LIMIT %s", pumps)
    ]
    for day, following in _days(span):
        if deployment.engine == "postgres":
            deployment.admin("SELECT ingest.ensure_partitions(%s::date[])", [day.date(), following.date()])
        deployment.admin(READINGS, known[:MADE], day, following)
    for grain in ("1min", "1hour", "1day"):
        if deployment.engine == "timescale":
            # As the policies leave it: the present bucket is aggregated while reading.
            deployment.admin(
                f"CALL refresh_continuous_aggregate('ingest.telemetry_{grain}', NULL, now() - %s)",
                LAGS[grain],
            )
        else:
            numbers = list(deployment.pump_numbers().values())
            deployment.admin(
                f"SELECT ingest.refresh_{grain}(%s::int4[], %s, %s)", numbers, span.start, span.end
            )
    _copy(deployment, known, span)
    return known


def _days(span: Span) -> Iterator[tuple[datetime, datetime]]:
    day = span.start
    while day < span.end:
        following = min(day + timedelta(days=1), span.end)
        yield day, following
        day = following


def _copy(deployment: Deployment, known: Sequence[str], span: Span) -> None:
    """Give the pumps after the first MADE copies of their readings and aggregates."""
    copied = [known[n % MADE] for n in range(MADE, len(known))]
    numbers = deployment.pump_numbers()
    _copy_table(
        deployment,
        ("ingest.telemetry", "pump_no", "time", "int4"),
        [numbers[pump] for pump in copied],
        [numbers[pump] for pump in known[MADE:]],
        span,
    )
    for grain in LAGS:
        name = f"telemetry_{grain}"
        found = deployment.admin(MATERIALISED, name) if deployment.engine == "timescale" else ()
        table = found[0][0] if found else f"ingest.{name}"
        # The first bucket of a coarse grain begins before the span.
        whole = Span(span.start - timedelta(days=1), span.end)
        _copy_table(deployment, (table, "pump_id", "bucket", "text"), copied, known[MADE:], whole)


def _copy_table(
    deployment: Deployment,
    described: tuple[str, str, str, str],
    made: Sequence[object],
    copies: Sequence[object],
    span: Span,
) -> None:
    """Copy rows of `made` for `copies` by the day; `described`: table, its pump and time, the pump's type."""
    table, pump, time, kind = described
    others = deployment.admin(COLUMNS, table, [pump, time])[0][0]
    statement = COPIES.format(table=table, pump=pump, time=time, others=others, type=kind)
    for day, following in _days(span) if made else ():
        deployment.admin(statement, made, copies, day, following)
    deployment.admin(f"ANALYZE {table}")


Statements = tuple[tuple[str, tuple[Any, ...]], ...]


@dataclass(frozen=True)
class Question:
    """One question: to the API, and to the database.

    `statements`: what answers it, as anybody would write it; `sent`: what the API sends, where that differs.
    """

    path: str
    statements: Statements
    sent: Statements = ()


def _trends(pumps: Sequence[str], span: Span) -> list[Question]:
    wanted = plan(span, Resolution.AUTO, POINTS, interval_s=60, raw_since=span.start)
    bare, sent = history.statement_of(wanted, CHANNELS), history.columns_statement_of(wanted, CHANNELS)
    asked = {"from": span.start.isoformat(), "to": span.end.isoformat(), "channels": ",".join(CHANNELS)}
    return [
        Question(
            f"/api/v1/pumps/{pump}/telemetry?{urlencode(asked)}",
            ((bare, (pump, wanted.span.start, wanted.span.end)),),
            ((sent, (pump, wanted.span.start, wanted.span.end)),),
        )
        for pump in pumps
    ]


def _fleets() -> list[Question]:
    nobody = (None,) * 6
    page, summary = fleet.STATEMENTS
    silent = [
        DiagnosticsSettings.model_fields[name].default
        for name in ("no_data_intervals", "no_data_least_s", "no_data_interval_s")
    ]
    statements = ((page, (*nobody, FLEET + 1, *silent)), (summary, (None, *silent)))
    return [Question("/api/v1/fleet?limit=500", statements)]


def _answers(
    name: str,
    note: str,
    questions: Sequence[Question],
    plain: Role,
    caching: Role,
    deployment: Deployment,
    size: Size,
) -> Iterator[Figure]:
    """Ask in rounds: the API without a cache, the database, and the API that has the answers."""
    uncached, bare, sent, cached = [], [], [], []
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as database:
        connection = database.run(asyncpg.connect(deployment.url("esp_diagnostics")))
        count = ASKED if size.pumps_asked >= SMALL_FLEET else FEW_ASKED
        asked = [questions[n % len(questions)] for n in range(count)]
        _requests(plain, asked)  # plans are made
        for _ in range(max(size.rounds, 2)):
            random.shuffle(asked)
            with closing(HTTPConnection("127.0.0.1", plain.port, timeout=60)) as door:
                turns = _turns(
                    asked,
                    partial(_get, door),
                    lambda question: database.run(_fetch(connection, question.statements)),
                    lambda question: database.run(_fetch(connection, question.sent)),
                )
            for times, further in zip((uncached, bare, sent), turns, strict=True):
                times.append(further)
            _requests(caching, asked)  # fills the cache
            cached.append(_requests(caching, asked))
        database.run(connection.close())
    p95 = [float(np.percentile(times, 95)) for times in uncached]
    yield Figure(f"{name}: uncached, p95", p95, "ms", None, UNCACHED_MS, "measured", at_most=True, note=note)
    medians = [float(np.median(times)) for times in uncached]
    bare_medians = [float(np.median(times)) for times in bare]
    yield Figure(
        f"{name}: uncached, median",
        medians,
        "ms",
        bare_medians,
        MOST_RATIO,
        at_most=True,
        note="the bare SQL",
    )
    if questions[0].sent:
        yield Figure(
            f"{name}: uncached, median",
            medians,
            "ms",
            [float(np.median(times)) for times in sent],
            note="the SQL as the API sends it",
        )
    p95 = [float(np.percentile(times, 95)) for times in cached]
    yield Figure(f"{name}: cached, p95", p95, "ms", None, CACHED_MS, "measured", at_most=True)


def _requests(api: Role, questions: Sequence[Question]) -> list[float]:
    with closing(HTTPConnection("127.0.0.1", api.port, timeout=60)) as door:
        return _turns(questions, partial(_get, door))[0]


def _turns(questions: Sequence[Question], *ways: Callable[[Question], object]) -> list[list[float]]:
    """Ask each question in each way, in turn: whatever else the machine does meets all; return ms of each."""
    times: list[list[float]] = [[] for _ in ways]
    for question in questions:
        for ask, spent in zip(ways, times, strict=True):
            start = perf_counter()
            ask(question)
            spent.append((perf_counter() - start) * 1000)
    return times


def _get(door: HTTPConnection, question: Question) -> None:
    door.request("GET", question.path, headers=HEADERS)
    answer = door.getresponse()
    body = answer.read()
    if answer.status != 200:
        raise SystemExit(f"{question.path}: {answer.status} {body[:300]!r}")


async def _fetch(connection: Any, statements: Statements) -> None:
    for statement, arguments in statements:
        await connection.fetch(statement, *arguments)


# --- dashboards -------------------------------------------------------------------------------------------


async def _dashboards(api: Role, pumps: Sequence[str], seconds: int) -> Figure:
    """Have dashboards refresh for `seconds`; return the share of answers that were kept ones."""
    async with httpx.AsyncClient(base_url=api.url, headers=HEADERS, timeout=60) as client:
        before = await _outcomes(api)
        async with asyncio.TaskGroup() as group:
            for number in range(DASHBOARDS):
                group.create_task(_dashboard(client, pumps[number % len(pumps)], number, seconds))
        after = await _outcomes(api)
    hits, others = (after[kind] - before[kind] for kind in ("hit", "other"))
    share = 100 * hits / (hits + others)
    note = f"{min(len(pumps), DASHBOARDS)} pumps, {seconds} s"
    name = f"{DASHBOARDS} dashboards every {REFRESH_S:g} s: cache hits"
    # Each question is worked out once: a run of ten minutes is what the target is meant for.
    target = LEAST_HITS_PCT if seconds >= 600 else None
    return Figure(name, [share], "%", None, target, "measured", note=note)


async def _dashboard(client: httpx.AsyncClient, pump: str, number: int, seconds: int) -> None:
    loop = asyncio.get_running_loop()
    start = loop.time() + REFRESH_S * number / DASHBOARDS
    for turn in range(int(seconds / REFRESH_S)):
        await asyncio.sleep(max(start + turn * REFRESH_S - loop.time(), 0))
        now = datetime.now(UTC)
        day = {
            "from": (now - timedelta(days=1)).isoformat(),
            "to": now.isoformat(),
            "channels": ",".join(CHANNELS),
        }
        answers = await asyncio.gather(
            client.get("/api/v1/fleet"), client.get(f"/api/v1/pumps/{pump}/telemetry", params=day)
        )
        for answer in answers:
            answer.raise_for_status()


async def _outcomes(api: Role) -> dict[str, float]:
    found = {"hit": 0.0, "other": 0.0}
    async with httpx.AsyncClient(timeout=60) as client:
        metrics = (await client.get(f"{api.metrics_url}/metrics")).text
    for line in metrics.splitlines():
        if line.startswith("esp_diagnostics_cache_answers_total"):
            found["hit" if 'outcome="hit"' in line else "other"] += float(line.rpartition(" ")[2])
    return found


if __name__ == "__main__":
    main(queries)
