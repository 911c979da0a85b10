-- name: by_id
SELECT * FROM auth.users WHERE user_id = $1

-- name: by_name
SELECT * FROM auth.users WHERE username = $1

-- name: lock
-- Whoever changes a user or the user's sessions holds this row, so such changes come one after another.
SELECT * FROM auth.users WHERE user_id = $1 FOR UPDATE

-- name: lock_admins
-- In one order, so that two who each want to remove an administrator cannot both find the other's still there.
SELECT user_id FROM auth.users WHERE 'admin' = ANY (roles) AND NOT disabled ORDER BY user_id FOR UPDATE

-- name: now
SELECT clock_timestamp()

-- name: page
SELECT * FROM auth.users WHERE $1::text IS NULL OR username > $1 ORDER BY username LIMIT $2

-- name: insert
INSERT INTO auth.users (user_id, username, roles, password_hash, must_change_password, created_by)
VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (username) DO NOTHING
RETURNING *

-- name: update
UPDATE auth.users SET roles = $2, disabled = $3 WHERE user_id = $1

-- name: set_password
UPDATE auth.users
SET password_hash = $2, must_change_password = $3, password_changed_at = clock_timestamp()
WHERE user_id = $1

-- name: rehash
UPDATE auth.users SET password_hash = $2 WHERE user_id = $1

-- name: set_totp
UPDATE auth.users SET totp_secret = $2, totp_confirmed_at = NULL, totp_step = NULL WHERE user_id = $1

-- name: confirm_totp
UPDATE auth.users SET totp_confirmed_at = clock_timestamp(), totp_step = $2 WHERE user_id = $1

-- name: spend_code
UPDATE auth.users SET totp_step = $2 WHERE user_id = $1

-- name: note_login
UPDATE auth.users SET last_login_at = $2 WHERE user_id = $1

-- name: delete
DELETE FROM auth.users WHERE user_id = $1
