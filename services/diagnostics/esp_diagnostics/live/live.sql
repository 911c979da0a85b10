-- name: unknown
-- The given pumps ($1) and fields ($2) that do not exist.
SELECT
    ARRAY(SELECT id FROM unnest($1::text[]) AS id
          WHERE NOT EXISTS (SELECT FROM diagnostics.pumps WHERE pump_id = id AND removed_at IS NULL)
          ORDER BY id) AS pumps,
    ARRAY(SELECT id FROM unnest($2::text[]) AS id
          WHERE NOT EXISTS (SELECT FROM diagnostics.pumps WHERE field_id = id AND removed_at IS NULL)
          ORDER BY id) AS fields
