-- name: read
-- One row at least, for the time.
SELECT clock_timestamp() AS now, subject, failures, last_at
FROM (VALUES (1)) AS one LEFT JOIN auth.login_attempts ON subject = ANY ($1)

-- name: lock
-- Made first, so that there is a row to hold; in one order, so that two do not wait for each other.
-- An address has no account (null): forgetting an account's failures leaves it as it is.
INSERT INTO auth.login_attempts (subject, account, failures, last_at)
SELECT subject, account, 0, $3 FROM unnest($1::bytea[], $2::bytea[]) AS wanted (subject, account) ORDER BY subject
ON CONFLICT (subject) DO UPDATE SET failures = login_attempts.failures
RETURNING subject, failures, last_at

-- name: write
UPDATE auth.login_attempts SET failures = $2, last_at = $3 WHERE subject = $1

-- name: clear
DELETE FROM auth.login_attempts WHERE subject = ANY ($1)

-- name: clear_account
DELETE FROM auth.login_attempts WHERE account = $1

-- name: is_known
SELECT EXISTS (SELECT FROM auth.known_addresses WHERE subject = $1)

-- name: remember
INSERT INTO auth.known_addresses (subject, user_id, last_login_at)
SELECT $1, user_id, clock_timestamp() FROM auth.users WHERE user_id = $2
ON CONFLICT (subject) DO UPDATE SET user_id = excluded.user_id, last_login_at = excluded.last_login_at

-- name: prune
DELETE FROM auth.login_attempts WHERE last_at < $1

-- name: prune_known
DELETE FROM auth.known_addresses WHERE last_login_at < $1
