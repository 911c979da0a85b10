-- What is asked for and being done.

-- name: lock
-- Held as long as the work goes on; it ends with the connection.
SELECT pg_try_advisory_lock(hashtext('backup.' || $1))

-- name: unlock
SELECT pg_advisory_unlock(hashtext('backup.' || $1))

-- name: abandon
-- Only for the holder of the lock: whoever ran this is gone.
UPDATE backup.jobs SET state = 'failed', ended_at = now(), error = $2
WHERE kind = $1 AND state = 'running'
RETURNING job_id

-- name: request
INSERT INTO backup.jobs (job_id, kind, state, requested_by) VALUES ($1, $2, 'requested', $3)
ON CONFLICT (kind) WHERE state IN ('requested', 'running') DO NOTHING
RETURNING job_id

-- name: open_job
SELECT job_id FROM backup.jobs WHERE kind = $1 AND state IN ('requested', 'running')

-- name: take
UPDATE backup.jobs SET state = 'running', started_at = now() WHERE kind = $1 AND state = 'requested'
RETURNING job_id, requested_by

-- name: finish
UPDATE backup.jobs SET state = $2, ended_at = now(), error = $3, result = $4::text::jsonb WHERE job_id = $1

-- name: one
SELECT job_id, kind, state, requested_by, requested_at, started_at, ended_at, error, result::text
FROM backup.jobs WHERE job_id = $1

-- name: page
SELECT job_id, kind, state, requested_by, requested_at, started_at, ended_at, error, result::text
FROM backup.jobs
WHERE ($1::text IS NULL OR kind = $1) AND ($2::text IS NULL OR state = $2)
  AND ($3::timestamptz IS NULL OR (requested_at, job_id) < ($3, $4))
ORDER BY requested_at DESC, job_id DESC
LIMIT $5

-- name: history
SELECT kind,
       max(started_at) FILTER (WHERE state = 'completed') AS last_good,
       max(started_at) AS last_try,
       bool_or(state = 'requested') AS requested
FROM backup.jobs GROUP BY kind
