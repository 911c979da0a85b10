-- name: open
INSERT INTO auth.sessions (session_id, user_id, created_at, expires_at) VALUES ($1, $2, $3, $4)

-- name: add_token
INSERT INTO auth.refresh_tokens (token_hash, session_id, issued_at, expires_at) VALUES ($1, $2, $3, $4)

-- name: holder
SELECT user_id FROM auth.refresh_tokens JOIN auth.sessions USING (session_id) WHERE token_hash = $1

-- name: token
SELECT session_id, user_id, t.used_at, t.expires_at, s.expires_at AS session_expires_at, s.ended_at
FROM auth.refresh_tokens AS t JOIN auth.sessions AS s USING (session_id)
WHERE token_hash = $1

-- name: spend
UPDATE auth.refresh_tokens SET used_at = $2 WHERE token_hash = $1

-- name: end
-- Those of a user that go on or expired after $6, or one of them ($2), or all but one ($3).
UPDATE auth.sessions SET ended_at = $4, ended_by = $5
WHERE user_id = $1 AND ended_at IS NULL AND expires_at > $6
  AND ($2::uuid IS NULL OR session_id = $2) AND ($3::uuid IS NULL OR session_id <> $3)
RETURNING session_id

-- name: is_open
SELECT EXISTS (
    SELECT FROM auth.sessions
    WHERE session_id = $1 AND user_id = $2 AND ended_at IS NULL AND expires_at > clock_timestamp()
)

-- name: prune
DELETE FROM auth.sessions WHERE expires_at < $1 OR ended_at < $1
