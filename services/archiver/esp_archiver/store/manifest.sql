-- The manifest, and what was told of days.

-- name: lead
-- Held by the session: whoever loses it has lost the connection, and can write nothing more over it.
SELECT pg_try_advisory_lock(hashtext('archiver.lead'))

-- name: parts_of_day
SELECT {columns} FROM archiver.parts WHERE dataset = $1 AND day = $2 ORDER BY field_id, part

-- name: parts_of_pump
-- The parts that may have readings of a pump in [$2, $3), in the order of their days and numbers.
SELECT {columns} FROM archiver.parts
WHERE dataset = 'telemetry' AND pumps @> ARRAY[$1::text] AND first_time < $3 AND last_time >= $2
ORDER BY day, part, field_id

-- name: page
-- Newest day first; null: any.
SELECT {columns} FROM archiver.parts
WHERE ($1::text IS NULL OR dataset = $1) AND ($2::text IS NULL OR field_id = $2)
  AND ($3::date IS NULL OR day >= $3) AND ($4::date IS NULL OR day < $4)
  AND ($5::date IS NULL OR (day, object) < ($5, $6))
ORDER BY day DESC, object DESC LIMIT $7

-- name: least_checked
-- Those whose last reading was longest ago, $1 of them.
SELECT {columns} FROM archiver.parts
WHERE ($2::text IS NULL OR dataset = $2) AND ($3::date IS NULL OR day >= $3) AND ($4::date IS NULL OR day < $4)
ORDER BY coalesce(checked_at, verified_at), object LIMIT $1

-- name: count
SELECT count(*) FROM archiver.parts
WHERE ($1::text IS NULL OR dataset = $1) AND ($2::date IS NULL OR day >= $2) AND ($3::date IS NULL OR day < $3)

-- name: put
-- A part that was verified, or verified anew after it was written over.
INSERT INTO archiver.parts (
    dataset, field_id, day, part, object, rows, bytes, sha256, content_hash, digest, drops, sole, etag, footer_bytes,
    first_time, last_time, pumps, source_rows
) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18)
ON CONFLICT (dataset, day, field_id, part) DO UPDATE SET
    rows = excluded.rows, bytes = excluded.bytes, sha256 = excluded.sha256, content_hash = excluded.content_hash,
    digest = excluded.digest, drops = excluded.drops, sole = excluded.sole, etag = excluded.etag,
    footer_bytes = excluded.footer_bytes, first_time = excluded.first_time, last_time = excluded.last_time,
    pumps = excluded.pumps, source_rows = excluded.source_rows, verified_at = now(), damaged = NULL,
    revision = parts.revision + (parts.sha256 <> excluded.sha256)::int4,
    protected_at = CASE WHEN parts.etag = excluded.etag THEN parts.protected_at END

-- name: set_aside
UPDATE archiver.parts SET sole = true WHERE object = ANY ($1)

-- name: lock_damage
SELECT damaged FROM archiver.parts WHERE object = $1 FOR UPDATE

-- name: refresh
-- Only while nobody entered another version of the object.
UPDATE archiver.parts SET etag = $3, bytes = $4, sha256 = $5, footer_bytes = $6 WHERE object = $1 AND etag = $2

-- name: retire
-- Parts whose readings are all in another one now: their objects are to be deleted.
WITH retired AS (DELETE FROM archiver.parts WHERE object = ANY ($1) RETURNING object)
INSERT INTO archiver.obsolete (object) SELECT object FROM retired ON CONFLICT DO NOTHING

-- name: obsolete
SELECT object FROM archiver.obsolete ORDER BY object

-- name: forget_obsolete
DELETE FROM archiver.obsolete WHERE object = $1

-- name: scattered_days
-- Days of which a field has several parts that no policy of the store protects.
SELECT DISTINCT day FROM archiver.parts WHERE dataset = $1 GROUP BY day, field_id HAVING count(*) > 1 ORDER BY day

-- name: checked
UPDATE archiver.parts SET checked_at = now(), damaged = $2 WHERE object = $1

-- name: tell
INSERT INTO archiver.days (dataset, day, archive_id, rows) VALUES ($1, $2, $3, $4)
ON CONFLICT (dataset, day, archive_id) DO UPDATE SET told_at = now(), refused = NULL

-- name: settle
UPDATE archiver.days
SET dropped_at = CASE WHEN $2::text IS NULL THEN coalesce(dropped_at, now()) END, refused = $2
WHERE archive_id = $1

-- name: unprotected
-- Parts that hold what is nowhere else, and that no policy of the store protects yet.
SELECT {columns} FROM archiver.parts AS p
WHERE protected_at IS NULL AND (
    sole OR dataset <> 'telemetry'
    OR drops < (SELECT d.drops FROM telemetry_v1.dropped_days AS d WHERE d.day = p.day)
)
ORDER BY object LIMIT $1

-- name: protected
UPDATE archiver.parts SET protected_at = now() WHERE object = ANY ($1)

-- name: standing
-- For metrics: parts, rows and bytes of each dataset, its newest day, and how many are damaged.
SELECT dataset, count(*) AS parts, sum(rows)::int8 AS rows, sum(bytes)::int8 AS bytes, max(day) AS newest,
    count(damaged) AS damaged
FROM archiver.parts GROUP BY dataset

-- name: columns
dataset, field_id, day, part, object, revision, rows, bytes, sha256, content_hash, digest, drops, sole, etag,
footer_bytes, first_time, last_time, pumps, source_rows, verified_at, checked_at, damaged, protected_at
