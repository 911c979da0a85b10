-- Writing readings. What is in braces is filled in from the channel catalogue. Of a staged row `s` and the stored
-- row `t` of its key, `{clash}` is the mask of the channels in which they contradict each other, `{fresh}` of those
-- that only `s` has, `{covered}` of those that only `t` has.

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
-- Staged rows that contradict the stored row of their key, or change it. `refused` is the refused_mask of the two: the
-- mark of an absent channel ends when its value comes, that of a contradiction stays. So the row is the same whatever
-- came first. OFFSET 0: each mask is made once, not wherever it is named.
SELECT pump_no, time, clash, fresh, refused, before
FROM (
    SELECT *, ((before & (~fresh)) | (staged & (~covered)) | clash) AS refused
    FROM (
        SELECT
            pump_no, time, {clash} AS clash, {fresh} AS fresh, {covered} AS covered,
            coalesce(t.refused_mask, 0) AS before, coalesce(s.refused_mask, 0) AS staged
        FROM staging AS s JOIN ingest.telemetry AS t USING (pump_no, time)
        WHERE t.pump_no = ANY ($1) AND t.time BETWEEN $2 AND $3
        OFFSET 0
    ) AS masks
    OFFSET 0
) AS compared
WHERE clash <> 0 OR fresh <> 0 OR refused <> before

-- name: merge
-- Add to the stored rows of keys $4, $5 the channels that only the staged row carries ($6), and set their
-- refused_mask ($7).
UPDATE ingest.telemetry AS t SET {union}, refused_mask = NULLIF(m.refused, 0)
FROM staging AS s
JOIN unnest($4::int4[], $5::timestamptz[], $6::int4[], $7::int4[]) AS m (pump_no, time, fresh, refused)
    USING (pump_no, time)
WHERE t.pump_no = s.pump_no AND t.time = s.time AND t.pump_no = ANY ($1) AND t.time BETWEEN $2 AND $3

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
