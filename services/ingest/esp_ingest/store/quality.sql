-- Data quality per pump and hour.

-- name: tally
INSERT INTO ingest.quality_tally AS t (pump_no, hour, duplicates, late, rejected, conflicts)
SELECT pump_no, hour, sum(duplicates), sum(late), sum(rejected), sum(conflicts)
FROM unnest($1::int4[], $2::timestamptz[], $3::int4[], $4::int4[], $5::int4[], $6::int4[])
    AS noticed (pump_no, hour, duplicates, late, rejected, conflicts)
GROUP BY pump_no, hour ORDER BY pump_no, hour
ON CONFLICT (pump_no, hour) DO UPDATE
SET duplicates = t.duplicates + excluded.duplicates, late = t.late + excluded.late,
    rejected = t.rejected + excluded.rejected, conflicts = t.conflicts + excluded.conflicts

