-- The audit log: appending to its chain, and reading it.

-- name: engine
-- Which engine the database was migrated for.
SELECT CASE relkind WHEN 'p' THEN 'postgres' ELSE 'timescale' END
FROM pg_class WHERE oid = 'auth.audit_log'::regclass

-- name: ensure_weeks
SELECT auth.ensure_audit_weeks($1)

-- name: lock_head
-- Until the transaction ends nobody else appends.
SELECT seq, hash FROM auth.audit_head FOR UPDATE

-- name: head
SELECT seq, hash FROM auth.audit_head

-- name: move_head
UPDATE auth.audit_head SET seq = $1, hash = $2

-- name: known
-- Which of these records are stored; $3 and $4 are the first and last of the times, for the parts to look in.
SELECT l.id, l.time
FROM unnest($1::uuid[], $2::timestamptz[]) AS given (id, time)
JOIN auth.audit_log AS l USING (id, time)
WHERE l.time BETWEEN $3 AND $4

-- name: hashes_at
SELECT hash FROM auth.audit_log WHERE seq = $1 LIMIT 2

-- name: chain
-- The links from $1 to $2 in their order, to be verified.
SELECT {columns} FROM auth.audit_log WHERE seq BETWEEN $1 AND $2 ORDER BY seq, id

-- name: list
-- Newest first; where: the conditions that are asked for.
SELECT {columns} FROM auth.audit_log WHERE {where} ORDER BY time DESC, seq DESC LIMIT {limit}

-- name: columns
-- What a record is read from; its time may have become one that no program knows.
seq, CASE WHEN isfinite(time) THEN (extract(epoch FROM time) * 1000000)::bigint END AS time_us,
id, service, actor_id, actor_kind, action, object, outcome, status, source_address, trace_id, count,
detail::text AS detail, hash
