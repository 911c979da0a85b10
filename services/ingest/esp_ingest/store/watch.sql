-- How far the aggregates are behind, and what TimescaleDB says of its background jobs.

-- name: current_until
SELECT current_until FROM ingest.aggregate_state

-- name: announced
-- Locked: of several processes one announces a change.
SELECT behind, failing_jobs FROM ingest.aggregate_state FOR UPDATE

-- name: note_announced
UPDATE ingest.aggregate_state SET behind = $1, failing_jobs = $2

-- name: failing_jobs
-- Scheduled jobs whose last run failed. Ids under 1000 are TimescaleDB's own housekeeping.
SELECT s.job_id, j.application_name AS name, e.err_message AS reason
FROM timescaledb_information.job_stats AS s
JOIN timescaledb_information.jobs AS j USING (job_id)
LEFT JOIN LATERAL (
    SELECT err_message FROM timescaledb_information.job_errors WHERE job_id = s.job_id ORDER BY finish_time DESC LIMIT 1
) AS e ON true
WHERE j.scheduled AND s.last_run_status = 'Failed'
ORDER BY s.job_id
