-- name: bump
UPDATE auth.revocations_version SET version = version + 1

-- name: add_sessions
INSERT INTO auth.revoked_sessions (session_id, expires_at)
SELECT session_id, $2 FROM unnest($1::uuid[]) AS session_id
ON CONFLICT (session_id) DO UPDATE SET expires_at = greatest(revoked_sessions.expires_at, excluded.expires_at)

-- name: add_user
INSERT INTO auth.revoked_users (user_id, not_before, expires_at) VALUES ($1, $2, $3)
ON CONFLICT (user_id) DO UPDATE
SET not_before = greatest(revoked_users.not_before, excluded.not_before),
    expires_at = greatest(revoked_users.expires_at, excluded.expires_at)

-- name: document
SELECT
    (SELECT version FROM auth.revocations_version) AS version,
    (SELECT coalesce(jsonb_object_agg(session_id, extract(epoch FROM expires_at)), '{}')
     FROM auth.revoked_sessions WHERE expires_at > clock_timestamp())::text AS sessions,
    (SELECT coalesce(jsonb_object_agg(
         user_id, jsonb_build_array(extract(epoch FROM not_before), extract(epoch FROM expires_at))), '{}')
     FROM auth.revoked_users WHERE expires_at > clock_timestamp())::text AS users

-- name: lock_copy
-- Held while a copy is written, so that an older state is not written over a newer one.
SELECT pg_advisory_xact_lock(hashtext('auth.revocations'))

-- name: prune_sessions
DELETE FROM auth.revoked_sessions WHERE expires_at < $1

-- name: prune_users
DELETE FROM auth.revoked_users WHERE expires_at < $1
