-- name: read
-- One row at least, for the time.
SELECT clock_timestamp() AS now, subject, failures, last_at
FROM (VALUES (1)) AS one LEFT JOIN auth.login_attempts ON subject = ANY ($1)

-- name: lock
-- Made first, so that there is a row to hold; in one order, so that two do not wait for each other.
INSERT INTO auth.login_attempts (subject, failures, last_at)
SELECT subject, 0, $2 FROM unnest($1::bytea[]) AS subject ORDER BY subject
ON CONFLICT (subject) DO UPDATE SET failures = login_attempts.failures
RETURNING subject, failures, last_at

-- name: write
UPDATE auth.login_attempts SET failures = $2, last_at = $3 WHERE subject = $1

-- name: clear
DELETE FROM auth.login_attempts WHERE subject = $1

-- name: prune
DELETE FROM auth.login_attempts WHERE last_at < $1
