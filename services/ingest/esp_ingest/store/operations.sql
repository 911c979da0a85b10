-- What operators do to what was refused, and what they count to see that nothing is missing.

-- name: lock_refused
SELECT gateway_id, pump_id, reason, payload::text, state FROM ingest.quarantine WHERE id = $1 FOR UPDATE

-- name: resolve
UPDATE ingest.quarantine SET state = $2, resolved_at = now(), resolved_by = $3 WHERE id = $1

-- name: sums
-- The ledger's sums beside what the tables hold.
SELECT
    coalesce(sum(messages), 0)::int8 AS messages,
    coalesce(sum(readings), 0)::int8 AS readings,
    coalesce(sum(stored), 0)::int8 AS stored,
    coalesce(sum(merged), 0)::int8 AS merged,
    coalesce(sum(duplicates), 0)::int8 AS duplicates,
    coalesce(sum(quarantined), 0)::int8 AS quarantined,
    coalesce(sum(refused_channels), 0)::int8 AS refused_channels,
    (SELECT count(*) FROM ingest.telemetry) AS rows,
    (SELECT coalesce(sum(readings), 0)::int8 FROM ingest.dropped_chunks) AS rows_dropped,
    (
        SELECT coalesce(sum(coalesce(rest_readings, (channel IS NULL)::int4)), 0)::int8 FROM ingest.quarantine
    ) AS rows_quarantined,
    (
        SELECT coalesce(sum(coalesce(rest_channels, (channel IS NOT NULL)::int4)), 0)::int8 FROM ingest.quarantine
    ) AS channels_quarantined,
    (SELECT coalesce(sum(unkept_readings), 0)::int8 FROM ingest.quarantine_days) AS readings_unkept,
    (SELECT coalesce(sum(unkept_channels), 0)::int8 FROM ingest.quarantine_days) AS channels_unkept,
    (SELECT coalesce(sum(readings), 0)::int8 FROM ingest.quarantine_drops) AS readings_expired,
    (SELECT coalesce(sum(channels), 0)::int8 FROM ingest.quarantine_drops) AS channels_expired
FROM ingest.ledger

-- name: stored_rows
-- Stored rows of the keys asked for. The bounds let whole days be left out.
SELECT t.*
FROM ingest.telemetry AS t
JOIN unnest($1::int4[], $2::timestamptz[]) AS wanted (pump_no, time) USING (pump_no, time)
WHERE t.time BETWEEN $3 AND $4

-- name: summaries
-- Rows that stand for many refusals, but for those sent in again.
SELECT gateway_id, payload::text FROM ingest.quarantine WHERE rest_readings IS NOT NULL AND state <> 'replayed'

-- name: quarantined_ids
-- Not those that were sent in again: they are stored by now, or lost.
SELECT id FROM ingest.quarantine WHERE id = ANY ($1) AND state <> 'replayed'
