-- Refused readings.

-- name: keep
-- One row per refused reading or channel, whoever sends it again; one that was replayed and refused again is pending
-- again. A channel that was sent in alone is refused as a reading then, and stays a channel here.
INSERT INTO ingest.quarantine AS q (id, gateway_id, message_id, pump_id, time, channel, reason, detail,
                                    rest_readings, rest_channels, payload)
SELECT * FROM unnest(
    $1::uuid[], $2::text[], $3::text[], $4::text[], $5::timestamptz[], $6::text[], $7::text[], $8::text[],
    $9::int4[], $10::int4[], $11::jsonb[]
) AS refused (id) ORDER BY id
ON CONFLICT (id) DO UPDATE
SET state = 'pending', received_at = now(), reason = excluded.reason, detail = excluded.detail,
    resolved_at = NULL, resolved_by = NULL
WHERE q.state = 'replayed'
RETURNING
    xmax = 0 AS is_new,
    gateway_id,
    coalesce(rest_readings, (channel IS NULL)::int4) AS readings,
    coalesce(rest_channels, (channel IS NOT NULL)::int4) AS channels

-- name: open_days
-- Today's row of each gateway, locked until the transaction ends: what is counted there stays true meanwhile.
INSERT INTO ingest.quarantine_days AS d (gateway_id, day)
SELECT gateway_id, (now() AT TIME ZONE 'UTC')::date FROM unnest($1::text[]) AS g (gateway_id) ORDER BY gateway_id
ON CONFLICT (gateway_id, day) DO UPDATE SET kept_rows = d.kept_rows
RETURNING gateway_id, kept_rows, unkept_readings + unkept_channels > 0 AS passed

-- name: known
SELECT id FROM ingest.quarantine WHERE id = ANY ($1::uuid[])

-- name: count_day
UPDATE ingest.quarantine_days AS d
SET kept_rows = d.kept_rows + n.rows,
    unkept_readings = d.unkept_readings + n.readings,
    unkept_channels = d.unkept_channels + n.channels
FROM unnest($1::text[], $2::int8[], $3::int8[], $4::int8[]) AS n (gateway_id, rows, readings, channels)
WHERE d.gateway_id = n.gateway_id AND d.day = (now() AT TIME ZONE 'UTC')::date

-- name: size
SELECT count(*) FROM ingest.quarantine

-- name: drop_oldest
-- Up to $3 of the oldest rows received before $1, pending ones only if received before $2; a row that is being resolved
-- is left for the next run. Run by the owner of the schema.
WITH gone AS (
    DELETE FROM ingest.quarantine WHERE id IN (
        SELECT id FROM ingest.quarantine
        WHERE received_at < $1 AND (state <> 'pending' OR received_at < $2)
        ORDER BY received_at, id LIMIT $3
        FOR UPDATE SKIP LOCKED
    )
    RETURNING
        coalesce(rest_readings, (channel IS NULL)::int4) AS readings,
        coalesce(rest_channels, (channel IS NOT NULL)::int4) AS channels
)
INSERT INTO ingest.quarantine_drops (reason, dropped_rows, readings, channels)
SELECT $4, count(*), sum(readings), sum(channels) FROM gone HAVING count(*) > 0
RETURNING dropped_rows
