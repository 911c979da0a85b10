-- Keeping aggregates current; run by the owner of the schema.

-- name: newest_entry
-- The newest entry of the log, and a time before which everything committed is among the entries up to it.
SELECT statement_timestamp() AS at, coalesce((SELECT max(id) FROM ingest.dirty_buckets), 0) AS id

-- name: dirty
-- The oldest $1 entries of the log up to entry $2.
SELECT id, hour, first, last, pump_nos FROM ingest.dirty_buckets WHERE id <= $2 ORDER BY id LIMIT $1

-- name: is_dirty
-- Whether the log has an entry of the hours in [$1, $2).
SELECT EXISTS (SELECT FROM ingest.dirty_buckets WHERE hour >= $1 AND hour < $2)

-- name: note_current
UPDATE ingest.aggregate_state SET current_until = greatest(current_until, $1)

-- name: clean
DELETE FROM ingest.dirty_buckets WHERE id = ANY ($1)

-- name: dropped_days
SELECT DISTINCT day FROM ingest.dropped_chunks WHERE day = ANY ($1::date[])

-- name: refresh_timescale
CALL refresh_continuous_aggregate('ingest.telemetry_{grain}', $1::timestamptz, $2::timestamptz)

-- name: refresh_postgres
SELECT ingest.refresh_{grain}($1, $2, $3)

-- name: ensure_partitions
SELECT ingest.ensure_partitions(
    ARRAY(SELECT day::date FROM generate_series(current_date, current_date + $1::int4, INTERVAL '1 day') AS day)
)

-- name: lead
SELECT pg_try_advisory_lock(hashtext('ingest.maintenance'))

-- name: step_down
SELECT pg_advisory_unlock(hashtext('ingest.maintenance'))

-- name: lead_wait
SELECT pg_advisory_lock(hashtext('ingest.maintenance'))

-- name: unconverted
-- Chunks past their age that are not in the columnstore, or only in part (bit 8 of the status): late rows.
SELECT format('%I.%I', c.chunk_schema, c.chunk_name) AS chunk
FROM timescaledb_information.chunks AS c
JOIN _timescaledb_catalog.chunk AS k ON k.schema_name = c.chunk_schema AND k.table_name = c.chunk_name
LEFT JOIN timescaledb_information.continuous_aggregates AS v
    ON v.materialization_hypertable_schema = c.hypertable_schema
    AND v.materialization_hypertable_name = c.hypertable_name
JOIN unnest($1::text[], $2::interval[]) AS kept (name, age)
    ON (coalesce(v.view_schema, c.hypertable_schema), coalesce(v.view_name, c.hypertable_name)) = ('ingest', kept.name)
WHERE c.range_end < now() - kept.age AND (NOT c.is_compressed OR k.status & 8 <> 0)
ORDER BY c.range_start

-- name: convert
CALL convert_to_columnstore($1::regclass, if_not_columnstore => true)
