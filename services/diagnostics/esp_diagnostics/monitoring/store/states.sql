-- Workers, partitions and states of pumps.

-- name: beat
-- Records a heartbeat, deletes old workers, returns live ones; the database's clock decides.
WITH me AS (
    INSERT INTO diagnostics.workers (worker_id) VALUES ($1)
    ON CONFLICT (worker_id) DO UPDATE SET seen_at = now()
), gone AS (
    DELETE FROM diagnostics.workers WHERE seen_at < now() - INTERVAL '1 hour' AND worker_id <> $1
)
SELECT $1::text AS worker_id
UNION
SELECT worker_id FROM diagnostics.workers WHERE seen_at > now() - make_interval(secs => $2)

-- name: leave
DELETE FROM diagnostics.workers WHERE worker_id = $1

-- name: claim
-- Claims a partition; the epoch grows whenever the owner changes.
INSERT INTO diagnostics.partitions AS p (partition, worker_id) VALUES ($1, $2)
ON CONFLICT (partition) DO UPDATE
    SET worker_id = EXCLUDED.worker_id, claimed_at = now(),
        epoch = p.epoch + CASE WHEN p.worker_id = EXCLUDED.worker_id THEN 0 ELSE 1 END
RETURNING epoch

-- name: older_live
-- Whether a living worker has a partition with a number below the present ones.
SELECT EXISTS (
    SELECT FROM diagnostics.partitions AS p JOIN diagnostics.workers AS w USING (worker_id)
    WHERE p.partition < $1 AND w.seen_at > now() - make_interval(secs => $2)
)

-- name: forget_older
DELETE FROM diagnostics.partitions WHERE partition < $1

-- name: older_backlogs
SELECT pump_id FROM diagnostics.backlogs WHERE partition < $1

-- name: renumber_backlogs
UPDATE diagnostics.backlogs AS b SET partition = new.partition
FROM unnest($1::text[], $2::int2[]) AS new (pump_id, partition)
WHERE b.pump_id = new.pump_id

-- name: waiting
-- Partitions with a backlog that belong to no live worker, or to this one.
SELECT DISTINCT b.partition
FROM diagnostics.backlogs AS b
LEFT JOIN diagnostics.partitions AS p USING (partition)
WHERE p.worker_id = $1 OR NOT EXISTS (
    SELECT FROM diagnostics.workers AS w
    WHERE w.worker_id = p.worker_id AND w.seen_at > now() - make_interval(secs => $2)
)

-- name: fence
-- Partitions still owned by this worker, locked until the transaction ends.
SELECT p.partition
FROM diagnostics.partitions AS p
JOIN unnest($2::int2[], $3::int8[]) AS mine (partition, epoch) USING (partition, epoch)
WHERE p.worker_id = $1
ORDER BY p.partition
FOR SHARE OF p

-- name: save_snapshots
INSERT INTO diagnostics.pump_snapshots AS s (pump_id, partition, body, through)
SELECT * FROM unnest($1::text[], $2::int2[], $3::bytea[], $4::timestamptz[])
ON CONFLICT (pump_id) DO UPDATE
    SET partition = EXCLUDED.partition, body = EXCLUDED.body, through = EXCLUDED.through, saved_at = now()

-- name: snapshots
SELECT pump_id, body, through FROM diagnostics.pump_snapshots WHERE pump_id = ANY($1)

-- name: put_statuses
-- Present status of each pump; a row never goes back in time.
INSERT INTO diagnostics.pump_status AS s (
    pump_id, field_id, time, state, since, latest, operating_point, residuals, health, health_terms, hypotheses,
    path, gauge_fault, anomaly, rule_version
)
SELECT
    pump_id, field_id, time, state, since, latest::jsonb, operating_point::jsonb, residuals::jsonb, health,
    health_terms::jsonb, hypotheses::jsonb, path::jsonb, gauge_fault, anomaly::jsonb, $15
FROM unnest(
    $1::text[], $2::text[], $3::timestamptz[], $4::text[], $5::timestamptz[], $6::text[], $7::text[], $8::text[],
    $9::float8[], $10::text[], $11::text[], $12::text[], $13::boolean[], $14::text[]
) AS now_known (
    pump_id, field_id, time, state, since, latest, operating_point, residuals, health, health_terms, hypotheses,
    path, gauge_fault, anomaly
)
ON CONFLICT (pump_id) DO UPDATE SET
    field_id = EXCLUDED.field_id, time = EXCLUDED.time, state = EXCLUDED.state, since = EXCLUDED.since,
    latest = EXCLUDED.latest, operating_point = EXCLUDED.operating_point, residuals = EXCLUDED.residuals,
    health = EXCLUDED.health, health_terms = EXCLUDED.health_terms, hypotheses = EXCLUDED.hypotheses,
    path = EXCLUDED.path, gauge_fault = EXCLUDED.gauge_fault, anomaly = EXCLUDED.anomaly,
    rule_version = EXCLUDED.rule_version, updated_at = now()
WHERE s.time <= EXCLUDED.time

-- name: status
-- Status of a pump, its newest known reading, and the lag of its diagnosis.
SELECT
    s.*, greatest(s.time, a.received) AS received,
    (SELECT min(started_at) FROM diagnostics.state_log AS l WHERE l.pump_id = $1) AS judged_since,
    greatest(
        0, extract(epoch FROM b.until - b.judged), extract(epoch FROM a.received - s.time)
    )::float8 AS diagnosis_lag_s
FROM (SELECT $1::text AS pump_id) AS asked
LEFT JOIN diagnostics.pump_status AS s USING (pump_id)
LEFT JOIN diagnostics.pump_activity AS a USING (pump_id)
LEFT JOIN diagnostics.backlogs AS b USING (pump_id)

-- name: open_spells
SELECT pump_id, started_at, state FROM diagnostics.state_log WHERE pump_id = ANY($1) AND ended_at IS NULL

-- name: first_spells
SELECT pump_id, min(started_at) AS started_at FROM diagnostics.state_log WHERE pump_id = ANY($1) GROUP BY pump_id

-- name: spells_at
-- Start and state of each pump's interval at its given time.
SELECT asked.pump_id, l.started_at, l.state
FROM unnest($1::text[], $2::timestamptz[]) AS asked (pump_id, at)
CROSS JOIN LATERAL (
    SELECT started_at, state FROM diagnostics.state_log AS l
    WHERE l.pump_id = asked.pump_id AND l.started_at <= asked.at
    ORDER BY l.started_at DESC
    LIMIT 1
) AS l

-- name: end_spells
-- Ends the interval in which the first new one starts; for past readings that is not the open one.
UPDATE diagnostics.state_log AS l SET ended_at = new.started_at
FROM unnest($1::text[], $2::timestamptz[]) AS new (pump_id, started_at)
WHERE l.pump_id = new.pump_id AND l.started_at < new.started_at
    AND (l.ended_at IS NULL OR l.ended_at > new.started_at)

-- name: begin_spells
-- A past interval ends where the next recorded one starts.
INSERT INTO diagnostics.state_log (pump_id, started_at, state, ended_at, trip_code)
SELECT
    new.pump_id, new.started_at, new.state,
    coalesce(new.ended_at, (
        SELECT min(l.started_at) FROM diagnostics.state_log AS l
        WHERE l.pump_id = new.pump_id AND l.started_at > new.started_at
    )), new.trip_code
FROM unnest($1::text[], $2::timestamptz[], $3::text[], $4::timestamptz[], $5::int4[])
    AS new (pump_id, started_at, state, ended_at, trip_code)
ON CONFLICT DO NOTHING

-- name: mark
-- Changes with any pump, its settings or any rules.
SELECT concat_ws(
    ' ',
    (SELECT md5(string_agg(pump_id || updated_at || (removed_at IS NULL), ',' ORDER BY pump_id))
     FROM diagnostics.pumps),
    (SELECT md5(string_agg(pump_id || parameter || value, ',' ORDER BY pump_id, parameter))
     FROM diagnostics.rule_overrides),
    (SELECT version || md5(body) FROM diagnostics.rule_sets WHERE active),
    (SELECT version || md5(body) FROM diagnostics.alert_rule_sets WHERE active)
)
