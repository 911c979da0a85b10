-- Assets travel as JSON documents, in the shape of the API. The first five queries give each kind's documents
-- with its id and field; `page` and `read` select from them.

-- name: fields
SELECT field_id AS id, field_id, to_jsonb(f) AS document FROM ingest.fields AS f

-- name: wells
SELECT well_id AS id, field_id, to_jsonb(w) AS document FROM ingest.wells AS w

-- name: pumps
SELECT p.pump_id AS id, w.field_id, to_jsonb(p) - 'pump_no' AS document
FROM ingest.pumps AS p JOIN ingest.wells AS w USING (well_id)

-- name: gateways
SELECT gateway_id AS id, field_id, to_jsonb(g) || jsonb_build_object('pumps', ARRAY(
    SELECT pump_id FROM ingest.gateway_pumps AS b WHERE b.gateway_id = g.gateway_id ORDER BY pump_id
)) AS document
FROM ingest.gateways AS g

-- name: tag_maps
SELECT gateway_id AS id, field_id, jsonb_build_object('gateway_id', gateway_id, 'tags', tags) AS document
FROM ingest.gateways AS g CROSS JOIN LATERAL (
    SELECT jsonb_object_agg(
        tag, CASE WHEN channel IS NOT NULL THEN jsonb_build_object('channel', channel, 'unit', unit, 'states', states) END
    ) AS tags
    FROM ingest.tag_maps AS m WHERE m.gateway_id = g.gateway_id
) AS mapped
WHERE tags IS NOT NULL

-- name: page
SELECT id, document::text FROM ({documents}) AS a
WHERE ($1::text IS NULL OR id > $1) AND ($2::text IS NULL OR field_id = $2)
ORDER BY id LIMIT $3

-- name: read
SELECT id, document::text FROM ({documents}) AS a WHERE id = ANY ($1::text[]) ORDER BY id

-- name: lock
-- Assets refer to each other: one change at a time keeps what was checked true until it commits.
SELECT pg_advisory_xact_lock(hashtext('ingest.assets'))

-- name: write_fields
INSERT INTO ingest.fields (field_id, name)
SELECT * FROM jsonb_to_recordset($1::jsonb) AS a (field_id text, name text)
ON CONFLICT (field_id) DO UPDATE SET name = excluded.name

-- name: write_wells
INSERT INTO ingest.wells (well_id, field_id, name)
SELECT * FROM jsonb_to_recordset($1::jsonb) AS a (well_id text, field_id text, name text)
ON CONFLICT (well_id) DO UPDATE SET field_id = excluded.field_id, name = excluded.name

-- name: write_pumps
INSERT INTO ingest.pumps (
    pump_id, well_id, model, stages, curve, motor_rated_kw, motor_rated_current_a, motor_rated_voltage_v,
    motor_rated_frequency_hz, setting_depth_ft, expected_interval_s
)
SELECT * FROM jsonb_to_recordset($1::jsonb) AS a (
    pump_id text, well_id text, model text, stages int4, curve jsonb, motor_rated_kw float8,
    motor_rated_current_a float8, motor_rated_voltage_v float8, motor_rated_frequency_hz float8,
    setting_depth_ft float8, expected_interval_s float8
)
ON CONFLICT (pump_id) DO UPDATE SET
    well_id = excluded.well_id, model = excluded.model, stages = excluded.stages, curve = excluded.curve,
    motor_rated_kw = excluded.motor_rated_kw, motor_rated_current_a = excluded.motor_rated_current_a,
    motor_rated_voltage_v = excluded.motor_rated_voltage_v,
    motor_rated_frequency_hz = excluded.motor_rated_frequency_hz,
    setting_depth_ft = excluded.setting_depth_ft, expected_interval_s = excluded.expected_interval_s

-- name: write_gateways
WITH stated AS (
    SELECT * FROM jsonb_to_recordset($1::jsonb) AS a (gateway_id text, field_id text, name text, pumps text[])
),
written AS (
    INSERT INTO ingest.gateways (gateway_id, field_id, name) SELECT gateway_id, field_id, name FROM stated
    ON CONFLICT (gateway_id) DO UPDATE SET field_id = excluded.field_id, name = excluded.name
),
unbound AS (
    DELETE FROM ingest.gateway_pumps AS b USING stated AS s
    WHERE b.gateway_id = s.gateway_id AND b.pump_id <> ALL (s.pumps)
)
INSERT INTO ingest.gateway_pumps (gateway_id, pump_id)
SELECT gateway_id, unnest(pumps) FROM stated
ON CONFLICT DO NOTHING

-- name: write_tag_maps
WITH stated AS (
    SELECT * FROM jsonb_to_recordset($1::jsonb) AS a (gateway_id text, tags jsonb)
),
removed AS (
    DELETE FROM ingest.tag_maps AS m USING stated AS s
    WHERE m.gateway_id = s.gateway_id AND NOT s.tags ? m.tag
)
INSERT INTO ingest.tag_maps (gateway_id, tag, channel, unit, factor, offset_, states)
SELECT
    gateway_id, key, value ->> 'channel', value ->> 'unit', (value ->> 'factor')::float8, (value ->> 'offset')::float8,
    nullif(value -> 'states', 'null')
FROM stated CROSS JOIN LATERAL jsonb_each(tags)
ON CONFLICT (gateway_id, tag) DO UPDATE SET
    channel = excluded.channel, unit = excluded.unit, factor = excluded.factor, offset_ = excluded.offset_,
    states = excluded.states

-- name: delete_fields
DELETE FROM ingest.fields WHERE field_id = $1

-- name: delete_wells
DELETE FROM ingest.wells WHERE well_id = $1

-- name: delete_pumps
DELETE FROM ingest.pumps WHERE pump_id = $1

-- name: delete_gateways
DELETE FROM ingest.gateways WHERE gateway_id = $1

-- name: delete_tag_maps
DELETE FROM ingest.tag_maps WHERE gateway_id = $1

-- name: fields_needed_by
SELECT 'well ' || well_id FROM ingest.wells WHERE field_id = $1
UNION ALL SELECT 'gateway ' || gateway_id FROM ingest.gateways WHERE field_id = $1
ORDER BY 1 LIMIT 5

-- name: wells_needed_by
SELECT 'pump ' || pump_id FROM ingest.pumps WHERE well_id = $1 ORDER BY 1 LIMIT 5

-- name: pumps_needed_by
-- Readings outlive their raw rows in aggregates; a scored hour tells that there were some.
SELECT 'gateway ' || gateway_id FROM ingest.gateway_pumps WHERE pump_id = $1
UNION ALL SELECT 'its readings' FROM ingest.pumps AS p
WHERE pump_id = $1 AND (
    EXISTS (SELECT FROM ingest.telemetry AS t WHERE t.pump_no = p.pump_no)
    OR EXISTS (SELECT FROM ingest.quality_hours AS q WHERE q.pump_no = p.pump_no)
)
ORDER BY 1 LIMIT 5

-- name: gateways_needed_by
SELECT DISTINCT 'its tag map' FROM ingest.tag_maps WHERE gateway_id = $1

-- name: tag_maps_needed_by
SELECT WHERE $1::text IS NULL

-- name: registry_pumps
SELECT pump_no, pump_id, well_id, field_id, expected_interval_s
FROM ingest.pumps JOIN ingest.wells USING (well_id)

-- name: registry_gateways
SELECT gateway_id, coalesce(array_agg(pump_no) FILTER (WHERE pump_no IS NOT NULL), '{}') AS pump_nos
FROM ingest.gateways LEFT JOIN ingest.gateway_pumps USING (gateway_id) LEFT JOIN ingest.pumps USING (pump_id)
GROUP BY gateway_id

-- name: registry_tags
SELECT gateway_id, tag, channel, factor, offset_, states::text FROM ingest.tag_maps
