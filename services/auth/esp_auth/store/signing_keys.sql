-- name: lock
-- Held until the transaction ends: one at a time makes a key.
SELECT pg_advisory_xact_lock(hashtext('auth.signing_keys'))

-- name: every
SELECT kid, public_key, sealed_private_key, created_at, signs_from FROM auth.signing_keys ORDER BY signs_from

-- name: insert
INSERT INTO auth.signing_keys (kid, public_key, sealed_private_key, created_at, signs_from)
VALUES ($1, $2, $3, $4, $5)

-- name: delete
DELETE FROM auth.signing_keys WHERE kid = ANY ($1)
