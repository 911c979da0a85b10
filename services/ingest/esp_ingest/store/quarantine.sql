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
    coalesce(rest_readings, (channel IS NULL)::int4) AS readings,
    coalesce(rest_channels, (channel IS NOT NULL)::int4) AS channels
