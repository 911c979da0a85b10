-- name: copy_nameplates
-- Synchronize the copies of ingest's pumps; return the ids of changed ones. A removed pump keeps its row;
-- one that reappears is no longer marked as removed.
WITH now_there AS (
    SELECT pump_id, field_id, well_id, to_jsonb(p) AS nameplate FROM telemetry_v1.pumps p
), taken AS (
    INSERT INTO diagnostics.pumps AS ours (pump_id, field_id, well_id, nameplate)
    SELECT pump_id, field_id, well_id, nameplate FROM now_there
    ON CONFLICT (pump_id) DO UPDATE
        SET field_id = EXCLUDED.field_id, well_id = EXCLUDED.well_id, nameplate = EXCLUDED.nameplate,
            removed_at = NULL, updated_at = now()
        WHERE ours.nameplate IS DISTINCT FROM EXCLUDED.nameplate OR ours.removed_at IS NOT NULL
    RETURNING pump_id
), gone AS (
    UPDATE diagnostics.pumps SET removed_at = now(), updated_at = now()
    WHERE removed_at IS NULL AND pump_id NOT IN (SELECT pump_id FROM now_there)
    RETURNING pump_id
)
SELECT pump_id FROM taken UNION ALL SELECT pump_id FROM gone

-- name: load
-- Registered pumps with their rule overrides; $1: only these ids, null: all.
SELECT
    pump_id, field_id, well_id, nameplate, extras, curve, head_factor, flow_factor, calibrated_at, in_service,
    coalesce(
        (SELECT jsonb_object_agg(parameter, value) FROM diagnostics.rule_overrides o WHERE o.pump_id = p.pump_id),
        '{}'
    ) AS overrides
FROM diagnostics.pumps p
WHERE removed_at IS NULL AND ($1::text[] IS NULL OR pump_id = ANY ($1))
ORDER BY pump_id

-- name: lock
-- Serializes changes of one pump.
SELECT pump_id FROM diagnostics.pumps WHERE pump_id = $1 AND removed_at IS NULL FOR UPDATE

-- name: change
UPDATE diagnostics.pumps
SET extras = $2::text::jsonb, in_service = $3, curve = $4::text::jsonb, head_factor = $5, flow_factor = $6,
    calibrated_at = $7, updated_at = now()
WHERE pump_id = $1
