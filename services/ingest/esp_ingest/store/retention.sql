-- Dropping raw days; run by the owner of the schema.

-- name: raw_days
SELECT day FROM ingest.raw_days() AS day WHERE day < $1 ORDER BY day

-- name: freeze_day
SELECT ingest.freeze_day($1)

-- name: content
-- How many readings a day has, and what they come to.
SELECT coalesce(sum(readings), 0)::int8 AS readings, coalesce(sum(digest), 0) AS digest
FROM telemetry_v1.day_digest($1)

-- name: gone_for
-- Whether a day was dropped for this archive.
SELECT EXISTS (SELECT FROM ingest.dropped_chunks WHERE archive_id = $1)

-- name: drop_day
WITH dropped AS (SELECT ingest.drop_day($1) AS readings)
INSERT INTO ingest.dropped_chunks (day, readings, dropped_by, archive_id, keys_kept)
SELECT $1, readings, $2, $3, true FROM dropped
RETURNING readings

-- name: note_archived
INSERT INTO ingest.archived_days (day, archive_id, readings, digest) VALUES ($1, $2, $3, $4)
ON CONFLICT (day) DO UPDATE SET
    archive_id = excluded.archive_id, readings = excluded.readings, digest = excluded.digest

-- name: archived
-- What the archive has of a day; nothing once the day was dropped for it.
SELECT archive_id, readings, digest FROM ingest.archived_days
WHERE day = $1 AND archive_id NOT IN (SELECT archive_id FROM ingest.dropped_chunks WHERE day = $1 AND archive_id IS NOT NULL)
