"""How the stack is: processes, storage engine, what flows."""

import httpx
import psycopg
from rich.table import Table

from esp_stack.plain_http import ask
from esp_stack.roles import Role, Roles
from esp_stack.stack import DATABASE, Stack
from esp_stack.supervision import ProcessState

LACKS = {
    "timescale": "TimescaleDB (columnstore and continuous aggregates)",
    "postgres": "plain PostgreSQL (daily partitions and rollup tables; no columnstore compression)",
}
STORED_LAST_MINUTE = (
    "SELECT coalesce(sum(stored + merged), 0) FROM ingest.ledger "
    "WHERE committed_at > now() - interval '1 minute'"
)

AGGREGATE_LAG = (
    "SELECT greatest(0, extract(epoch FROM now() - current_until))::int FROM ingest.aggregate_state"
)


def process_table(stack: Stack) -> tuple[Table, bool]:
    """Return the table of every process (state, pid, ready, time up), and whether all of them are ready."""
    table = Table("process", "state", "pid", "ready", "up", box=None, pad_edge=False)
    roles = {role.program.name: role for role in Roles(stack).all()}
    all_ready = True
    for state in stack.supervisor.states():
        ready = _is_ready(stack, state, roles.get(state.name))
        all_ready = all_ready and ready
        pid = str(state.pid) if state.pid else "-"
        table.add_row(state.name, state.state, pid, "yes" if ready else "no", _duration(state.uptime_s))
    return table, all_ready


def flow(stack: Stack) -> list[str]:
    """Return lines that say which engine stores, how much it stored lately, and what waits."""
    lines = [f"storage engine: {LACKS[stack.engine]}"]
    try:
        with psycopg.connect(stack.postgres.url("postgres", DATABASE), connect_timeout=2) as connection:
            row = connection.execute(STORED_LAST_MINUTE).fetchone()
            lag = connection.execute(AGGREGATE_LAG).fetchone()
        lines.append(f"readings stored in the last minute: {row[0] if row else 0}")
        lines.append(f"aggregates are behind by: {_duration(lag[0]) if lag else 'unknown'}")
    except psycopg.Error as error:
        lines.append(f"readings stored in the last minute: unknown ({str(error).splitlines()[0]})")
    try:
        queues = stack.rabbitmq.api("GET", "queues/%2F?columns=name,messages").json()
        waiting = [f"{queue['name']} {queue['messages']}" for queue in queues if queue.get("messages")]
        lines.append(f"messages waiting: {', '.join(waiting) or 'none'}")
    except httpx.HTTPError as error:
        lines.append(f"messages waiting: unknown ({error})")
    return lines


def _is_ready(stack: Stack, state: ProcessState, role: Role | None) -> bool:
    if state.state != "running":
        return False
    if role is None:
        return all(server.ready() for server in stack.servers if server.name == state.name)
    if role.ready_url is None:
        return True
    try:
        return ask("GET", role.ready_url, timeout=2).is_success
    except httpx.HTTPError:
        return False


def _duration(seconds: int) -> str:
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
