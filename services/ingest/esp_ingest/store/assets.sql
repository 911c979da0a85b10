-- Assets as documents: each read returns rows (id, document), each write takes an array of documents.
-- Pages: $1 ids or null, $2 id after which the page starts or null, $3 field_id or null, $4 most rows.

-- name: lock
-- Asset changes are rare and refer to each other: one at a time.
SELECT pg_advisory_xact_lock(hashtext('ingest.assets'));

-- name: read_fields
SELECT field_id AS id, to_jsonb(f) AS document
FROM ingest.fields AS f
WHERE ($1::text[] IS NULL OR field_id = ANY ($1))
    AND ($2::text IS NULL OR field_id > $2)
    AND ($3::text IS NULL OR field_id = $3)
ORDER BY field_id
LIMIT $4;

-- name: read_wells
SELECT well_id AS id, to_jsonb(w) AS document
FROM ingest.wells AS w
WHERE ($1::text[] IS NULL OR well_id = ANY ($1))
    AND ($2::text IS NULL OR well_id > $2)
    AND ($3::text IS NULL OR field_id = $3)
ORDER BY well_id
LIMIT $4;

-- name: read_pumps
SELECT pump_id AS id, to_jsonb(p) - 'pump_no' AS document
FROM ingest.pumps AS p
WHERE ($1::text[] IS NULL OR pump_id = ANY ($1))
    AND ($2::text IS NULL OR pump_id > $2)
    AND ($3::text IS NULL OR well_id IN (SELECT well_id FROM ingest.wells WHERE field_id = $3))
ORDER BY pump_id
LIMIT $4;

-- name: read_gateways
SELECT gateway_id AS id, to_jsonb(g) || jsonb_build_object('pumps', ARRAY(
    SELECT pump_id FROM ingest.gateway_pumps AS gp WHERE gp.gateway_id = g.gateway_id ORDER BY pump_id
)) AS document
FROM ingest.gateways AS g
WHERE ($1::text[] IS NULL OR gateway_id = ANY ($1))
    AND ($2::text IS NULL OR gateway_id > $2)
    AND ($3::text IS NULL OR field_id = $3)
ORDER BY gateway_id
LIMIT $4;

-- name: read_tag_maps
SELECT gateway_id AS id, jsonb_build_object(
    'gateway_id', gateway_id,
    'tags', jsonb_object_agg(
        tag, CASE WHEN channel IS NOT NULL THEN jsonb_build_object('channel', channel, 'unit', unit) END
    )
) AS document
FROM ingest.tag_maps
WHERE ($1::text[] IS NULL OR gateway_id = ANY ($1))
    AND ($2::text IS NULL OR gateway_id > $2)
    AND ($3::text IS NULL OR gateway_id IN (SELECT gateway_id FROM ingest.gateways WHERE field_id = $3))
GROUP BY gateway_id
ORDER BY gateway_id
LIMIT $4;

-- name: write_fields
INSERT INTO ingest.fields (field_id, name)
SELECT field_id, name FROM jsonb_populate_recordset(NULL::ingest.fields, $1)
ON CONFLICT (field_id) DO UPDATE SET name = excluded.name;

-- name: write_wells
INSERT INTO ingest.wells (well_id, field_id, name)
SELECT well_id, field_id, name FROM jsonb_populate_recordset(NULL::ingest.wells, $1)
ON CONFLICT (well_id) DO UPDATE SET field_id = excluded.field_id, name = excluded.name;

-- name: write_pumps
INSERT INTO ingest.pumps (
    pump_id, well_id, model, stages, curve, motor_rated_kw, motor_rated_current_a, motor_rated_voltage_v,
    motor_rated_frequency_hz, setting_depth_ft, expected_interval_s
)
SELECT
    pump_id, well_id, model, stages, nullif(curve, 'null'), motor_rated_kw, motor_rated_current_a,
    motor_rated_voltage_v, motor_rated_frequency_hz, setting_depth_ft, expected_interval_s
FROM jsonb_populate_recordset(NULL::ingest.pumps, $1)
ON CONFLICT (pump_id) DO UPDATE SET
    well_id = excluded.well_id,
    model = excluded.model,
    stages = excluded.stages,
    curve = excluded.curve,
    motor_rated_kw = excluded.motor_rated_kw,
    motor_rated_current_a = excluded.motor_rated_current_a,
    motor_rated_voltage_v = excluded.motor_rated_voltage_v,
    motor_rated_frequency_hz = excluded.motor_rated_frequency_hz,
    setting_depth_ft = excluded.setting_depth_ft,
    expected_interval_s = excluded.expected_interval_s;

-- name: write_gateways
INSERT INTO ingest.gateways (gateway_id, field_id, name)
SELECT gateway_id, field_id, name FROM jsonb_populate_recordset(NULL::ingest.gateways, $1)
ON CONFLICT (gateway_id) DO UPDATE SET field_id = excluded.field_id, name = excluded.name;

-- name: clear_gateways
DELETE FROM ingest.gateway_pumps
WHERE gateway_id IN (SELECT document ->> 'gateway_id' FROM jsonb_array_elements($1::jsonb) AS document);

-- name: fill_gateways
INSERT INTO ingest.gateway_pumps (gateway_id, pump_id)
SELECT document ->> 'gateway_id', jsonb_array_elements_text(document -> 'pumps')
FROM jsonb_array_elements($1::jsonb) AS document;

-- name: clear_tag_maps
DELETE FROM ingest.tag_maps
WHERE gateway_id IN (SELECT document ->> 'gateway_id' FROM jsonb_array_elements($1::jsonb) AS document);

-- name: fill_tag_maps
-- A target is null where the tag is known and not kept.
INSERT INTO ingest.tag_maps (gateway_id, tag, channel, unit, factor, offset_)
SELECT
    document ->> 'gateway_id',
    tag.key,
    tag.value ->> 'channel',
    tag.value ->> 'unit',
    (tag.value ->> 'factor')::float8,
    (tag.value ->> 'offset')::float8
FROM jsonb_array_elements($1::jsonb) AS document, jsonb_each(document -> 'tags') AS tag;

-- name: referring_to_fields
SELECT 'well ' || well_id FROM ingest.wells WHERE field_id = $1
UNION ALL
SELECT 'gateway ' || gateway_id FROM ingest.gateways WHERE field_id = $1
LIMIT 3;

-- name: referring_to_wells
SELECT 'pump ' || pump_id FROM ingest.pumps WHERE well_id = $1 LIMIT 3;

-- name: referring_to_pumps
-- Stored readings carry the pump's number only: without its row they would belong to nobody.
SELECT 'gateway ' || gateway_id FROM ingest.gateway_pumps WHERE pump_id = $1
UNION ALL
SELECT 'its stored readings'
WHERE EXISTS (SELECT FROM ingest.telemetry AS t JOIN ingest.pumps AS p USING (pump_no) WHERE p.pump_id = $1)
LIMIT 3;

-- name: referring_to_gateways
SELECT DISTINCT 'its tag map' FROM ingest.tag_maps WHERE gateway_id = $1;

-- name: referring_to_tag_maps
SELECT 'nothing' WHERE $1::text IS NULL;

-- name: delete_fields
DELETE FROM ingest.fields WHERE field_id = $1;

-- name: delete_wells
DELETE FROM ingest.wells WHERE well_id = $1;

-- name: delete_pumps
DELETE FROM ingest.pumps WHERE pump_id = $1;

-- name: delete_gateways
DELETE FROM ingest.gateways WHERE gateway_id = $1;

-- name: delete_tag_maps
DELETE FROM ingest.tag_maps WHERE gateway_id = $1;
