-- Alerts: as they are changed, listed and counted.

-- name: lock_keys
-- Serializes the first alert of a key; keys come sorted, so that transactions cannot deadlock.
SELECT pg_advisory_xact_lock(key) FROM unnest($1::int8[]) AS key;

-- name: latest
-- Lock and return the latest alert of each key, open or closed.
SELECT a.*
FROM unnest($1::text[], $2::text[], $3::text[]) AS k (pump_id, condition, subject)
CROSS JOIN LATERAL (
    SELECT * FROM diagnostics.alerts AS a
    WHERE coalesce(a.pump_id, '') = k.pump_id AND a.condition = k.condition AND a.subject = k.subject
    ORDER BY a.raised_at DESC
    LIMIT 1
    FOR UPDATE
) AS a;

-- name: lock_one
SELECT * FROM diagnostics.alerts WHERE alert_id = $1 FOR UPDATE;

-- name: write
INSERT INTO diagnostics.alerts AS a
SELECT * FROM jsonb_populate_recordset(NULL::diagnostics.alerts, $1::text::jsonb)
ON CONFLICT (alert_id) DO UPDATE SET
    field_id = excluded.field_id, title = excluded.title, action = excluded.action,
    finding_id = excluded.finding_id, severity = excluded.severity, priority = excluded.priority,
    state = excluded.state, active = excluded.active, acknowledged = excluded.acknowledged,
    occurrences = excluded.occurrences, signalled_at = excluded.signalled_at,
    last_raised_at = excluded.last_raised_at, updated_at = excluded.updated_at, due_at = excluded.due_at,
    cleared_at = excluded.cleared_at, acknowledged_at = excluded.acknowledged_at,
    acknowledged_by = excluded.acknowledged_by, shelved_until = excluded.shelved_until,
    shelved_by = excluded.shelved_by, shelve_reason = excluded.shelve_reason,
    suppressed_by = excluded.suppressed_by, out_of_service_by = excluded.out_of_service_by,
    out_of_service_reason = excluded.out_of_service_reason, assignee = excluded.assignee,
    closed_at = excluded.closed_at, closed_by = excluded.closed_by;

-- name: drop
-- Alerts that cleared within their on-delay.
DELETE FROM diagnostics.alerts WHERE alert_id = ANY($1::uuid[]) AND occurrences = 0;

-- name: log
INSERT INTO diagnostics.alert_log (
    alert_id, pump_id, field_id, condition, what, notice, priority, state, time, logged_at, actor, detail
)
SELECT alert_id, pump_id, field_id, condition, what, notice, priority, state, time, logged_at, actor, detail
FROM jsonb_populate_recordset(NULL::diagnostics.alert_log, $1::text::jsonb) WITH ORDINALITY
ORDER BY ordinality;

-- name: out_of_service
SELECT pump_id FROM diagnostics.pumps WHERE pump_id = ANY($1::text[]) AND NOT in_service;

-- name: due
-- Open alerts that time or the service state of their pump affects; skips alerts locked by other processes.
SELECT a.* FROM diagnostics.alerts AS a
LEFT JOIN diagnostics.pumps AS p USING (pump_id)
WHERE a.closed_at IS NULL AND (
    a.due_at <= $1
    OR a.shelved_until <= $1
    OR (a.state = 'normal' AND greatest(a.cleared_at, a.acknowledged_at) <= $1 - make_interval(secs => $2))
    OR (a.active AND a.suppressed_by IS NULL AND NOT p.in_service)
    OR (a.suppressed_by = $3 AND p.in_service IS DISTINCT FROM false)
)
ORDER BY a.alert_id
LIMIT $4
FOR UPDATE OF a SKIP LOCKED;

-- name: annunciated_since
SELECT field_id, count(*) AS annunciated FROM diagnostics.alert_log
WHERE notice = 'raised' AND field_id = ANY($1::text[]) AND logged_at > $2
GROUP BY field_id;

-- name: floods
-- Fields in a flood, locked in order.
SELECT field_id, most_in_window FROM diagnostics.alert_floods
WHERE ended_at IS NULL AND ($1::text[] IS NULL OR field_id = ANY($1))
ORDER BY field_id
FOR UPDATE;

-- name: begin_flood
INSERT INTO diagnostics.alert_floods (field_id, began_at, most_in_window) VALUES ($1, $2, $3)
ON CONFLICT DO NOTHING
RETURNING field_id;

-- name: grow_flood
UPDATE diagnostics.alert_floods SET most_in_window = greatest(most_in_window, $2)
WHERE field_id = $1 AND ended_at IS NULL;

-- name: end_flood
UPDATE diagnostics.alert_floods SET ended_at = $2 WHERE field_id = $1 AND ended_at IS NULL;

-- name: page
-- Last raised first; $19 and $20 are the last row of the page before, or null.
SELECT * FROM diagnostics.alerts
WHERE ($1::text IS NULL OR field_id = $1)
    AND ($2::text IS NULL OR pump_id = $2)
    AND ($3::text IS NULL OR condition = $3)
    AND ($4::text IS NULL OR source = $4)
    AND ($5::text[] IS NULL OR state = ANY($5))
    AND ($6::text[] IS NULL OR priority = ANY($6))
    AND ($7::boolean IS NULL OR active = $7)
    AND ($8::boolean IS NULL OR acknowledged = $8)
    AND ($9::text IS NULL OR assignee = $9)
    AND ($10::text IS NULL OR acknowledged_by = $10)
    AND ($11::timestamptz IS NULL OR last_raised_at >= $11)
    AND ($12::timestamptz IS NULL OR raised_at < $12)
    AND ($13::timestamptz IS NULL OR cleared_at >= $13)
    AND ($14::timestamptz IS NULL OR cleared_at < $14)
    AND ($15::timestamptz IS NULL OR acknowledged_at >= $15)
    AND ($16::timestamptz IS NULL OR acknowledged_at < $16)
    AND ($17::timestamptz IS NULL OR closed_at >= $17)
    AND ($18::timestamptz IS NULL OR closed_at < $18)
    AND ($19::timestamptz IS NULL OR (last_raised_at, alert_id) < ($19, $20::uuid))
ORDER BY last_raised_at DESC, alert_id DESC
LIMIT $21;

-- name: one
SELECT * FROM diagnostics.alerts WHERE alert_id = $1;

-- name: history
-- Newest first; $2 is the last entry of the page before, or null.
SELECT log_id, time, logged_at, what, notice, priority, state, actor, detail
FROM diagnostics.alert_log
WHERE alert_id = $1 AND ($2::int8 IS NULL OR log_id < $2)
ORDER BY log_id DESC
LIMIT $3;

-- name: rule_set
SELECT version, body, loaded_by, loaded_at FROM diagnostics.alert_rule_sets WHERE active;

-- name: rule_set_body
SELECT body FROM diagnostics.alert_rule_sets WHERE version = $1;

-- name: retire_rule_set
UPDATE diagnostics.alert_rule_sets SET active = false WHERE active;

-- name: load_rule_set
INSERT INTO diagnostics.alert_rule_sets AS r (version, body, loaded_by, active) VALUES ($1, $2, $3, true)
ON CONFLICT (version) DO UPDATE SET active = true, loaded_by = $3, loaded_at = now();

-- name: lock_rules
SELECT pg_advisory_xact_lock(hashtext('diagnostics.alert_rules'));

-- name: rule_sets
SELECT version, loaded_by, loaded_at, active FROM diagnostics.alert_rule_sets ORDER BY loaded_at DESC LIMIT 100;

-- name: orphans
-- Active limit alerts without a rule.
SELECT * FROM diagnostics.alerts
WHERE closed_at IS NULL AND source = 'limit' AND active AND condition <> ALL($1::text[]);

-- name: statistics_rate
-- Annunciated alerts of a span in slots of ten minutes (ISA-18.2).
WITH windows AS (
    SELECT floor(extract(epoch FROM logged_at) / 600) AS slot, count(*) AS alarms
    FROM diagnostics.alert_log
    WHERE notice = 'raised' AND logged_at >= $1 AND logged_at < $2 AND ($3::text IS NULL OR field_id = $3)
    GROUP BY field_id, slot
)
SELECT
    coalesce(sum(alarms), 0)::int8 AS annunciated,
    coalesce(max(alarms), 0)::int8 AS most_in_ten_minutes,
    count(*) FILTER (WHERE alarms > $4)::int8 AS slots_above
FROM windows;

-- name: statistics_top
SELECT
    pump_id, condition, count(*)::int8 AS annunciated, max(logged_at) AS last_at,
    count(*)::float8 / sum(count(*)) OVER () AS share
FROM diagnostics.alert_log
WHERE notice = 'raised' AND logged_at >= $1 AND logged_at < $2 AND ($3::text IS NULL OR field_id = $3)
GROUP BY pump_id, condition
ORDER BY annunciated DESC, last_at DESC
LIMIT 10;

-- name: statistics_priorities
SELECT priority, count(*)::int8 AS annunciated
FROM diagnostics.alert_log
WHERE notice = 'raised' AND logged_at >= $1 AND logged_at < $2 AND ($3::text IS NULL OR field_id = $3)
GROUP BY priority;

-- name: statistics_chattering
-- Alerts annunciated at least five times within an hour, with their highest count.
WITH hours AS (
    SELECT pump_id, condition, count(*) AS alarms
    FROM diagnostics.alert_log
    WHERE notice = 'raised' AND logged_at >= $1 AND logged_at < $2 AND ($3::text IS NULL OR field_id = $3)
    GROUP BY pump_id, condition, date_trunc('hour', logged_at, 'UTC')
)
SELECT pump_id, condition, max(alarms)::int8 AS most_in_an_hour
FROM hours
GROUP BY pump_id, condition
HAVING max(alarms) >= 5
ORDER BY most_in_an_hour DESC
LIMIT 10;

-- name: statistics_acknowledged
-- Time to acknowledge, of alerts acknowledged after their last activation.
SELECT
    count(*)::int8 AS acknowledged,
    avg(extract(epoch FROM acknowledged_at - last_raised_at))::float8 AS mean_s,
    percentile_cont(0.95) WITHIN GROUP (ORDER BY extract(epoch FROM acknowledged_at - last_raised_at))::float8 AS p95_s
FROM diagnostics.alerts
WHERE acknowledged_at >= $1 AND acknowledged_at < $2 AND acknowledged_at >= last_raised_at
    AND ($3::text IS NULL OR field_id = $3);

-- name: statistics_now
SELECT
    count(*) FILTER (WHERE active AND state LIKE 'active%')::int8 AS active,
    count(*) FILTER (WHERE state IN ('active_unacknowledged', 'cleared_unacknowledged'))::int8 AS unacknowledged,
    count(*) FILTER (WHERE state = 'shelved')::int8 AS shelved,
    count(*) FILTER (WHERE state = 'suppressed')::int8 AS suppressed,
    count(*) FILTER (WHERE state = 'out_of_service')::int8 AS out_of_service,
    count(*) FILTER (WHERE state LIKE 'active%' AND last_raised_at < $1::timestamptz - interval '24 hours')::int8 AS standing
FROM diagnostics.alerts
WHERE closed_at IS NULL AND ($2::text IS NULL OR field_id = $2);

-- name: statistics_floods
SELECT
    count(*)::int8 AS floods,
    coalesce(sum(extract(epoch FROM least(coalesce(ended_at, $2), $2) - greatest(began_at, $1))), 0)::float8 AS seconds,
    coalesce(max(most_in_window), 0)::int8 AS most_in_window
FROM diagnostics.alert_floods
WHERE began_at < $2 AND coalesce(ended_at, $2) > $1 AND ($3::text IS NULL OR field_id = $3);
