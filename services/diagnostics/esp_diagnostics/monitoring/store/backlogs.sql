-- Backlogs: pending readings by pump.

-- name: note
-- Add or extend backlogs; an existing one keeps its state.
INSERT INTO diagnostics.backlogs AS b (pump_id, partition, judged, until, body, body_through)
SELECT pump_id, partition, judged, until, body, judged
FROM unnest($1::text[], $2::int2[], $3::timestamptz[], $4::timestamptz[], $5::bytea[])
    AS noted (pump_id, partition, judged, until, body)
ON CONFLICT (pump_id) DO UPDATE
    SET partition = EXCLUDED.partition, until = greatest(b.until, EXCLUDED.until),
        judged = CASE WHEN b.body IS NULL THEN least(b.judged, EXCLUDED.judged) ELSE b.judged END,
        body_through = CASE WHEN b.body IS NULL THEN least(b.body_through, EXCLUDED.judged) ELSE b.body_through END

-- name: forget_state
UPDATE diagnostics.backlogs SET body = NULL, body_through = judged WHERE pump_id = ANY($1)

-- name: judged
UPDATE diagnostics.backlogs AS b SET judged = now_known.judged
FROM unnest($1::text[], $2::timestamptz[]) AS now_known (pump_id, judged)
WHERE b.pump_id = now_known.pump_id

-- name: save
UPDATE diagnostics.backlogs AS b SET body = state.body, body_through = state.through
FROM unnest($1::text[], $2::bytea[], $3::timestamptz[]) AS state (pump_id, body, through)
WHERE b.pump_id = state.pump_id

-- name: of_partition
SELECT pump_id, partition, judged, until, body, body_through FROM diagnostics.backlogs WHERE partition = $1

-- name: done
DELETE FROM diagnostics.backlogs WHERE pump_id = ANY($1)
