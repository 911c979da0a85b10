-- name: active
-- The rules in force, unless they are the shipped ones.
SELECT version, body, loaded_by, loaded_at, active FROM diagnostics.rule_sets WHERE active

-- name: versions
SELECT version, loaded_by, loaded_at, active FROM diagnostics.rule_sets ORDER BY loaded_at DESC, version LIMIT 200

-- name: body
SELECT body FROM diagnostics.rule_sets WHERE version = $1

-- name: serialise
-- Serializes changes of the rules.
LOCK TABLE diagnostics.rule_sets IN SHARE ROW EXCLUSIVE MODE

-- name: retire
UPDATE diagnostics.rule_sets SET active = false WHERE active RETURNING version

-- name: keep
INSERT INTO diagnostics.rule_sets (version, body, loaded_by, active) VALUES ($1, $2, $3, true)
ON CONFLICT (version) DO UPDATE SET active = true, loaded_by = EXCLUDED.loaded_by, loaded_at = now()

-- name: overrides
SELECT parameter, value, set_by, set_at FROM diagnostics.rule_overrides WHERE pump_id = $1 ORDER BY parameter

-- name: pump_exists
-- Locks the pump until the end of the transaction.
SELECT 1 FROM diagnostics.pumps WHERE pump_id = $1 AND removed_at IS NULL FOR UPDATE

-- name: override
INSERT INTO diagnostics.rule_overrides AS o (pump_id, parameter, value, set_by) VALUES ($1, $2, $3, $4)
ON CONFLICT (pump_id, parameter) DO UPDATE
    SET value = EXCLUDED.value, set_by = EXCLUDED.set_by, set_at = now()
    WHERE o.value <> EXCLUDED.value
RETURNING parameter

-- name: drop_override
DELETE FROM diagnostics.rule_overrides WHERE pump_id = $1 AND parameter = $2 RETURNING value
