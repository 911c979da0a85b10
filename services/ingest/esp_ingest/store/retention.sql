-- Dropping raw days; run by the owner of the schema.

-- name: raw_days
SELECT day FROM ingest.raw_days() AS day WHERE day < $1 ORDER BY day

-- name: drop_day
WITH dropped AS (SELECT ingest.drop_day($1) AS readings)
INSERT INTO ingest.dropped_chunks (day, readings, dropped_by) SELECT $1, readings, $2 FROM dropped
RETURNING readings
