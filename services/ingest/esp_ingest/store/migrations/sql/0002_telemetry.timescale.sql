-- Hypertable, columnstore and hierarchical continuous aggregates.

DO $$ BEGIN EXECUTE format('CREATE TABLE ingest.telemetry (%s)', ingest.telemetry_columns()); END $$;

-- The primary key serves every question about a pump. What is asked of all pumps at once is recent, and rows lie in
-- the order in which they came: a BRIN index finds that, and costs writers next to nothing.
SELECT create_hypertable('ingest.telemetry', by_range('time', INTERVAL '1 day'), create_default_indexes => false);
CREATE INDEX telemetry_time ON ingest.telemetry USING brin (time);
ALTER TABLE ingest.telemetry SET (
    timescaledb.enable_columnstore = true,
    timescaledb.segmentby = 'pump_no',
    timescaledb.orderby = 'time'
);
CALL add_columnstore_policy('ingest.telemetry', after => INTERVAL '7 days');

-- Realtime (materialized_only = false): what is not yet materialised is aggregated while reading. Grouped by
-- pump_id, not pump_no: only a constant passes through the union of the two parts, and readers know the id.
DO $$
DECLARE
    options text := 'timescaledb.continuous, timescaledb.materialized_only = false';
    grain record;
BEGIN
    EXECUTE format(
        'CREATE MATERIALIZED VIEW ingest.telemetry_1min WITH (%s) AS '
        'SELECT pump_id, time_bucket(INTERVAL ''1 minute'', time) AS bucket, %s '
        'FROM ingest.telemetry JOIN ingest.pumps USING (pump_no) GROUP BY 1, 2 WITH NO DATA',
        options, ingest.aggregates_of_readings()
    );
    FOR grain IN VALUES ('1hour', INTERVAL '1 hour', '1min'), ('1day', INTERVAL '1 day', '1hour') LOOP
        EXECUTE format(
            'CREATE MATERIALIZED VIEW ingest.telemetry_%s WITH (%s) AS '
            'SELECT pump_id, time_bucket(INTERVAL %L, bucket) AS bucket, %s '
            'FROM ingest.telemetry_%s GROUP BY 1, 2 WITH NO DATA',
            grain.column1, options, grain.column2, ingest.aggregates_of_aggregates(), grain.column3
        );
    END LOOP;
END $$;

-- The policies look a week back at most, well inside raw retention: refreshing over a dropped day would
-- empty its aggregates. Older late data is refreshed by the maintenance role, from dirty_buckets.
SELECT add_continuous_aggregate_policy('ingest.telemetry_1min',
    start_offset => INTERVAL '7 days', end_offset => INTERVAL '1 minute', schedule_interval => INTERVAL '30 seconds');
SELECT add_continuous_aggregate_policy('ingest.telemetry_1hour',
    start_offset => INTERVAL '7 days', end_offset => INTERVAL '1 hour', schedule_interval => INTERVAL '10 minutes');
SELECT add_continuous_aggregate_policy('ingest.telemetry_1day',
    start_offset => INTERVAL '7 days', end_offset => INTERVAL '1 day', schedule_interval => INTERVAL '1 day');

-- Not for the day grain: a row per pump and day is too little to gain from it.
ALTER MATERIALIZED VIEW ingest.telemetry_1min SET (
    timescaledb.enable_columnstore = true, timescaledb.segmentby = 'pump_id', timescaledb.orderby = 'bucket'
);
ALTER MATERIALIZED VIEW ingest.telemetry_1hour SET (
    timescaledb.enable_columnstore = true, timescaledb.segmentby = 'pump_id', timescaledb.orderby = 'bucket'
);
CALL add_columnstore_policy('ingest.telemetry_1min', after => INTERVAL '8 days');
CALL add_columnstore_policy('ingest.telemetry_1hour', after => INTERVAL '30 days');

-- Writing late readings beside compressed ones unpacks those near them. A backlog of a whole field must not be
-- refused for the number of them; each flush is bounded anyway.
DO $$
BEGIN
    EXECUTE format(
        'ALTER DATABASE %I SET timescaledb.max_tuples_decompressed_per_dml_transaction = 0', current_database()
    );
END $$;

CREATE FUNCTION ingest.raw_days() RETURNS SETOF date LANGUAGE sql STABLE AS $$
    SELECT DISTINCT (range_start AT TIME ZONE 'UTC')::date FROM timescaledb_information.chunks
    WHERE hypertable_schema = 'ingest' AND hypertable_name = 'telemetry'
$$;

-- Returns how many readings went. Giving up after 5 s keeps writers from queueing behind this behind a long query.
CREATE FUNCTION ingest.drop_day(day date) RETURNS bigint
LANGUAGE plpgsql SET lock_timeout = '5s' SET timezone = 'UTC' AS $$
DECLARE
    chunk regclass;
    readings bigint;
BEGIN
    FOR chunk IN SELECT show_chunks('ingest.telemetry', newer_than => day, older_than => day + 1) LOOP
        EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', chunk);
    END LOOP;
    SELECT count(*) INTO readings FROM ingest.telemetry WHERE time >= day AND time < day + 1;
    PERFORM drop_chunks('ingest.telemetry', newer_than => day, older_than => day + 1);
    RETURN readings;
END $$;
REVOKE ALL ON FUNCTION ingest.drop_day(date) FROM PUBLIC;
