-- Daily partitions, and rollup tables that the maintenance role keeps current from dirty_buckets.

DO $$
BEGIN
    EXECUTE format('CREATE TABLE ingest.telemetry (%s) PARTITION BY RANGE (time)', ingest.telemetry_columns());
    EXECUTE format(
        'CREATE TABLE ingest.telemetry_1min AS SELECT pump_id, time AS bucket, %s '
        'FROM ingest.telemetry JOIN ingest.pumps USING (pump_no) GROUP BY 1, 2',
        ingest.aggregates_of_readings()
    );
END $$;
ALTER TABLE ingest.telemetry_1min ADD PRIMARY KEY (pump_id, bucket);
CREATE TABLE ingest.telemetry_1hour (LIKE ingest.telemetry_1min INCLUDING ALL);
CREATE TABLE ingest.telemetry_1day (LIKE ingest.telemetry_1min INCLUDING ALL);

-- Any writer may need tomorrow's partition, none may own the table: hence SECURITY DEFINER. Attaching takes a
-- lock that lets writers go on, which CREATE TABLE ... PARTITION OF would not.
CREATE FUNCTION ingest.ensure_partitions(days date[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' AS $$
DECLARE
    day date;
    name text;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('ingest.ensure_partitions'));
    FOREACH day IN ARRAY days LOOP
        name := to_char(day, '"telemetry_"YYYYMMDD');
        CONTINUE WHEN to_regclass('ingest.' || name) IS NOT NULL;
        EXECUTE format('CREATE TABLE ingest.%I (LIKE ingest.telemetry INCLUDING ALL)', name);
        EXECUTE format(
            'ALTER TABLE ingest.telemetry ATTACH PARTITION ingest.%I FOR VALUES FROM (%L) TO (%L)',
            name, day::timestamptz, (day + 1)::timestamptz
        );
    END LOOP;
END $$;
REVOKE ALL ON FUNCTION ingest.ensure_partitions(date[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION ingest.ensure_partitions(date[]) TO esp_ingest;

-- Each makes the buckets of `pump_nos` that begin in [first, until) afresh from the next finer grain.
DO $$
DECLARE
    grain record;
BEGIN
    FOR grain IN VALUES
        ('1min', 'minute', 'telemetry', 'time', ingest.aggregates_of_readings(), 'pump_no'),
        ('1hour', 'hour', 'telemetry_1min', 'bucket', ingest.aggregates_of_aggregates(), 'pump_id'),
        ('1day', 'day', 'telemetry_1hour', 'bucket', ingest.aggregates_of_aggregates(), 'pump_id')
    LOOP
        EXECUTE format(
            $f$
            CREATE FUNCTION ingest.refresh_%1$s(pump_nos int4[], first timestamptz, until timestamptz) RETURNS void
            LANGUAGE sql SET timezone = 'UTC' AS $body$
                DELETE FROM ingest.telemetry_%1$s AS t USING ingest.pumps AS p
                WHERE p.pump_id = t.pump_id AND pump_no = ANY (pump_nos) AND bucket >= first AND bucket < until;
                INSERT INTO ingest.telemetry_%1$s
                SELECT pump_id, date_trunc('%2$s', %4$s), %5$s
                FROM ingest.%3$s JOIN ingest.pumps USING (%6$s)
                WHERE pump_no = ANY (pump_nos) AND %4$s >= first AND %4$s < until
                GROUP BY 1, 2;
            $body$
            $f$,
            grain.column1, grain.column2, grain.column3, grain.column4, grain.column5, grain.column6
        );
        EXECUTE format(
            'REVOKE ALL ON FUNCTION ingest.refresh_%s(int4[], timestamptz, timestamptz) FROM PUBLIC', grain.column1
        );
    END LOOP;
END $$;

CREATE FUNCTION ingest.raw_days() RETURNS SETOF date LANGUAGE sql STABLE AS $$
    SELECT to_date(right(relname, 8), 'YYYYMMDD')
    FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid WHERE inhparent = 'ingest.telemetry'::regclass
$$;

-- Returns how many readings went. Locking the whole table first keeps writers from waiting for this in a circle;
-- giving up after 5 s keeps them from queueing behind this behind a long query.
CREATE FUNCTION ingest.drop_day(day date) RETURNS bigint LANGUAGE plpgsql SET lock_timeout = '5s' AS $$
DECLARE
    name text := to_char(day, '"telemetry_"YYYYMMDD');
    readings bigint;
BEGIN
    LOCK TABLE ONLY ingest.telemetry IN ACCESS EXCLUSIVE MODE;
    EXECUTE format('SELECT count(*) FROM ingest.%I', name) INTO readings;
    EXECUTE format('DROP TABLE ingest.%I', name);
    RETURN readings;
END $$;
REVOKE ALL ON FUNCTION ingest.drop_day(date) FROM PUBLIC;
