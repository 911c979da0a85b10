-- Keeping aggregates current; run by the owner of the schema.

-- name: dirty
-- The oldest $1 entries of the log.
SELECT id, hour, first, last, pump_nos FROM ingest.dirty_buckets ORDER BY id LIMIT $1

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
