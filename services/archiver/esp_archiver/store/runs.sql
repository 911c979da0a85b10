-- What was asked of the worker: runs, and readings to be brought back.

-- name: ask_run
-- One that waits already will do.
WITH waiting AS (SELECT {run} FROM archiver.runs WHERE state = 'waiting' ORDER BY asked_at LIMIT 1),
asked AS (
    INSERT INTO archiver.runs (asked_by) SELECT $1 WHERE NOT EXISTS (SELECT FROM waiting) RETURNING {run}
)
SELECT {run} FROM waiting UNION ALL SELECT {run} FROM asked

-- name: run
SELECT {run} FROM archiver.runs WHERE run_id = $1

-- name: begin_run
-- A run does all that is due, so it answers everybody who waits, those too whose run a process left unfinished.
UPDATE archiver.runs SET state = 'running', started_at = now() WHERE state IN ('waiting', 'running') RETURNING {run}

-- name: end_run
UPDATE archiver.runs SET
    state = CASE WHEN $1::text IS NULL THEN 'done' ELSE 'failed' END, ended_at = now(), problem = $1,
    days = $2, parts = $3, rows = $4, bytes = $5
WHERE state = 'running'

-- name: ask_restore
INSERT INTO archiver.restores (asked_by, pump_ids, since, until, expires_at)
VALUES ($1, $2, $3, $4, now() + $5::interval) RETURNING {restore}

-- name: restore
SELECT {restore} FROM archiver.restores WHERE restore_id = $1

-- name: begin_restore
UPDATE archiver.restores SET state = 'running' WHERE restore_id = (
    SELECT restore_id FROM archiver.restores WHERE state IN ('waiting', 'running') ORDER BY asked_at LIMIT 1
) RETURNING {restore}

-- name: make_room
SELECT archiver.begin_restore($1)

-- name: end_restore
UPDATE archiver.restores SET
    state = CASE WHEN $2::text IS NULL THEN 'done' ELSE 'failed' END, ended_at = now(), problem = $2, rows = $3
WHERE restore_id = $1

-- name: expired
SELECT restore_id FROM archiver.restores
WHERE expires_at <= now() AND state IN ('waiting', 'done', 'failed') ORDER BY expires_at LIMIT 100

-- name: drop_restored
SELECT archiver.end_restore($1)

-- name: end_expired
UPDATE archiver.restores SET state = 'expired' WHERE restore_id = $1

-- name: expire_now
UPDATE archiver.restores SET expires_at = least(expires_at, now()) WHERE restore_id = $1 RETURNING {restore}

-- name: run_columns
run_id, asked_by, asked_at, state, started_at, ended_at, days, parts, rows, bytes, problem

-- name: restore_columns
restore_id, asked_by, asked_at, pump_ids, since, until, expires_at, state, ended_at, rows, problem
