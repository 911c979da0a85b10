-- Writing readings. `{columns}`, `{differs}`, `{adds}` and `{union}` are filled in from the channel catalogue.

-- name: stage
-- One per connection, emptied by every commit or rollback.
CREATE TEMPORARY TABLE IF NOT EXISTS staging (LIKE ingest.telemetry) ON COMMIT DELETE ROWS

-- name: insert_new
-- Store the staged rows whose key is free, in key order so that two writers wait for but never block each other.
-- Returns the total, and unless it is all $1 of them, how many per pump and hour.
WITH stored AS (
    INSERT INTO ingest.telemetry ({columns})
    SELECT {columns} FROM staging ORDER BY pump_no, time
    ON CONFLICT (pump_no, time) DO NOTHING
    RETURNING pump_no, time
),
total AS (SELECT count(*) AS total FROM stored)
SELECT total, pump_no, hour, readings
FROM total LEFT JOIN (
    SELECT pump_no, date_trunc('hour', time) AS hour, count(*) AS readings
    FROM stored WHERE (SELECT total FROM total) < $1 GROUP BY 1, 2
) AS by_hour ON true

-- name: lock_pumps
-- Serialise whoever compares with stored rows, by stripes of pumps in ascending order: between comparing and
-- merging, a row cannot change. Row locks would do, but rows in the columnstore cannot be locked.
-- Custom plans: only a constant time and pump keep a merge from unpacking a whole day of the columnstore.
SELECT pg_advisory_xact_lock($1, stripe), set_config('plan_cache_mode', 'force_custom_plan', true)
FROM (SELECT DISTINCT pump_no % 64 AS stripe FROM staging ORDER BY 1) AS stripes

-- name: compare
-- Staged rows that say more or something else than the stored row of their key.
SELECT pump_no, time, {differs} AS differs
FROM staging AS s JOIN ingest.telemetry AS t USING (pump_no, time)
WHERE t.pump_no = ANY ($1) AND t.time BETWEEN $2 AND $3 AND ({differs} OR {adds})

-- name: merge
-- Add to stored rows the channels that only the staged row carries.
UPDATE ingest.telemetry AS t SET {union}
FROM staging AS s
WHERE t.pump_no = s.pump_no AND t.time = s.time
  AND t.pump_no = ANY ($1) AND t.time BETWEEN $2 AND $3 AND NOT {differs} AND {adds}

-- name: ensure_partitions
SELECT ingest.ensure_partitions($1)

-- name: engine
-- Which engine the database was migrated for.
SELECT CASE relkind WHEN 'p' THEN 'postgres' ELSE 'timescale' END
FROM pg_class WHERE oid = 'ingest.telemetry'::regclass

-- name: era
-- Cluster, database and timeline: the last changes whenever a server goes on from another moment than it ended at.
SELECT system_identifier || '/' || d.oid || '/' || left(pg_walfile_name(pg_current_wal_lsn()), 8)
FROM pg_control_system(), pg_database AS d WHERE datname = current_database()
