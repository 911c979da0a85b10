-- name: insert
INSERT INTO auth.api_keys (key_id, name, scopes, gateway_id, key_hash, created_by, expires_at)
VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT (key_id) DO NOTHING
RETURNING *

-- name: by_id
SELECT * FROM auth.api_keys WHERE key_id = $1

-- name: lock
SELECT * FROM auth.api_keys WHERE key_id = $1 FOR UPDATE

-- name: page
SELECT * FROM auth.api_keys
WHERE ($1::text IS NULL OR key_id > $1) AND ($2::text IS NULL OR gateway_id = $2)
ORDER BY key_id LIMIT $3

-- name: by_hash
-- Two index scans: an OR over both columns.
SELECT * FROM auth.api_keys
WHERE (key_hash = $1 OR (previous_key_hash = $1 AND previous_expires_at > clock_timestamp()))
  AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > clock_timestamp())

-- name: note_use
UPDATE auth.api_keys SET last_used_at = clock_timestamp()
WHERE key_id = $1 AND (last_used_at IS NULL OR last_used_at < clock_timestamp() - make_interval(secs => $2))

-- name: rotate
UPDATE auth.api_keys
SET previous_key_hash = CASE WHEN $3::float8 > 0 THEN key_hash END,
    previous_expires_at = CASE WHEN $3 > 0 THEN clock_timestamp() + make_interval(secs => $3) END,
    key_hash = $2, rotated_at = clock_timestamp()
WHERE key_id = $1
RETURNING *

-- name: revoke
UPDATE auth.api_keys SET revoked_at = clock_timestamp() WHERE key_id = $1 RETURNING *

-- name: gateway_has
SELECT EXISTS (
    SELECT FROM auth.api_keys
    WHERE gateway_id = $1 AND $2 = ANY (scopes)
      AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > clock_timestamp())
)
