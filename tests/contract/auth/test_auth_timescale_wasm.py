"""The audit log's TimescaleDB migration runs on every machine, in TimescaleDB's WASM build."""

from collections.abc import Callable
from typing import Any

import pytest
from esp_auth.store.migrations import migrate

Run = Callable[[str], list[dict[str, Any]]]

INSERT = """
INSERT INTO auth.audit_log (seq, time, id, service, actor_kind, action, object, outcome, count, detail, hash)
SELECT n, '2026-01-05Z'::timestamptz + n * INTERVAL '1 day', gen_random_uuid(), 'ingest', 'key', 'a', 'o',
       'success', 1, '{}', ''
FROM generate_series(0, 20) AS n
"""


@pytest.fixture(scope="module")
def wasm(make_wasm: Callable[[Any], Run]) -> Run:
    """The migrated database of the module."""
    return make_wasm(migrate)


def test_the_audit_log_has_chunks_of_a_week(wasm: Run) -> None:
    wasm(INSERT)
    length = "EXTRACT(epoch FROM range_end - range_start)::int AS seconds"
    chunks = wasm(f"SELECT {length} FROM timescaledb_information.chunks WHERE hypertable_name = 'audit_log'")
    assert {chunk["seconds"] for chunk in chunks} == {7 * 86_400}
    assert len(chunks) in (3, 4)


def test_the_service_may_add_and_read_and_nothing_else(wasm: Run) -> None:
    rights = "SELECT privilege_type FROM information_schema.role_table_grants WHERE grantee = 'esp_auth'"
    log = wasm(f"{rights} AND table_schema = 'auth' AND table_name = 'audit_log'")
    assert {row["privilege_type"] for row in log} == {"SELECT", "INSERT"}
    head = wasm(f"{rights} AND table_schema = 'auth' AND table_name = 'audit_head'")
    assert {row["privilege_type"] for row in head} == {"SELECT"}, "to update is of two columns only"


def test_nothing_drops_or_compresses_the_log_by_itself(wasm: Run) -> None:
    assert wasm("SELECT 1 FROM timescaledb_information.jobs WHERE hypertable_name = 'audit_log'") == []
