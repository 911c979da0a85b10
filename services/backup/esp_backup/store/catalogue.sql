-- What backups there are.

-- name: note
-- What is found in storage, as it is there; what is known of it besides stays.
INSERT INTO backup.backups (kind, place, name, started_at, ended_at, bytes, stored_bytes, detail, problem)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::timestamptz[], $5::timestamptz[],
                     $6::bigint[], $7::bigint[], $8::jsonb[], $9::text[])
ON CONFLICT (kind, place, name) DO UPDATE
SET started_at = excluded.started_at, ended_at = excluded.ended_at, bytes = excluded.bytes,
    stored_bytes = excluded.stored_bytes, detail = excluded.detail,
    problem = coalesce(excluded.problem, backups.problem), gone_at = NULL

-- name: note_gone
-- What was in these places and is not there any more.
UPDATE backup.backups SET gone_at = now()
WHERE gone_at IS NULL AND kind = $1 AND place = ANY($2::text[])
  AND (place, name) NOT IN (SELECT * FROM unnest($3::text[], $4::text[]))

-- name: note_verified
UPDATE backup.backups SET verified_at = now(), problem = $4 WHERE kind = $1 AND place = $2 AND name = $3

-- name: page
SELECT kind, place, name, started_at, ended_at, bytes, stored_bytes, detail::text, verified_at, problem
FROM backup.backups
WHERE gone_at IS NULL AND ($1::text IS NULL OR kind = $1)
  AND ($2::timestamptz IS NULL OR (started_at, kind, place, name) < ($2, $3, $4, $5))
ORDER BY started_at DESC, kind DESC, place DESC, name DESC
LIMIT $6

-- name: problems
SELECT place, name, problem FROM backup.backups WHERE gone_at IS NULL AND kind = $1 AND problem IS NOT NULL

-- name: physical_ends
SELECT ended_at FROM backup.backups
WHERE gone_at IS NULL AND kind IN ('full', 'diff', 'incr') AND problem IS NULL

-- name: forget_holes
DELETE FROM backup.holes

-- name: note_holes
INSERT INTO backup.holes (begin_at, end_at, first_segment, segments)
SELECT * FROM unnest($1::timestamptz[], $2::timestamptz[], $3::text[], $4::int8[])

-- name: holes
SELECT begin_at, end_at, first_segment, segments FROM backup.holes ORDER BY begin_at

-- name: beat
INSERT INTO backup.heartbeat (at) VALUES (clock_timestamp())
ON CONFLICT (singleton) DO UPDATE SET at = excluded.at
RETURNING at

-- name: archiving
SELECT checked_at, covered_until, newest_segment, waiting_segments, behind FROM backup.archiving

-- name: note_archiving
INSERT INTO backup.archiving (checked_at, covered_until, newest_segment, waiting_segments, behind)
VALUES (now(), $1, $2, $3, $4)
ON CONFLICT (singleton) DO UPDATE
SET checked_at = excluded.checked_at,
    covered_until = greatest(excluded.covered_until, archiving.covered_until),
    newest_segment = excluded.newest_segment, waiting_segments = excluded.waiting_segments,
    behind = excluded.behind

-- name: mark
INSERT INTO backup.marks (name) VALUES ($1)

-- name: forget_marks
DELETE FROM backup.marks WHERE made_at < now() - interval '90 days'
