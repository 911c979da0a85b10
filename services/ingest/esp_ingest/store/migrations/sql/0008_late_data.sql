-- Late data of days whose raw rows were dropped, and how far the aggregates are behind.

CREATE TABLE ingest.aggregate_state (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    current_until timestamptz NOT NULL,
    behind boolean NOT NULL DEFAULT false,
    failing_jobs text
);
COMMENT ON COLUMN ingest.aggregate_state.current_until IS 'All that was stored before this is in the aggregates.';
COMMENT ON COLUMN ingest.aggregate_state.behind IS 'Whether maintenance.behind was published last.';
COMMENT ON COLUMN ingest.aggregate_state.failing_jobs IS 'The failing jobs published last; null: none.';
INSERT INTO ingest.aggregate_state (current_until) VALUES (now());
GRANT SELECT ON ingest.aggregate_state TO esp_ingest;

-- The keys of readings whose raw rows were dropped, so that a reading sent again is not counted twice.
CREATE TABLE ingest.dropped_readings (
    pump_no int4 NOT NULL,
    day date NOT NULL,
    keys bytea NOT NULL,
    PRIMARY KEY (pump_no, day)
);
CREATE INDEX ON ingest.dropped_readings (day);
COMMENT ON COLUMN ingest.dropped_readings.keys IS 'Times and measured channels, see esp_ingest.domain.known.';

ALTER TABLE ingest.dropped_chunks ADD COLUMN keys_kept boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN ingest.dropped_chunks.keys_kept IS 'Whether dropped_readings has the keys; false: dropped before revision 0008.';

-- Minutes of dropped days as they were before late data: a minute's aggregate is its base plus the raw rows of now.
CREATE TABLE ingest.late_bases (LIKE ingest.telemetry_1min);
ALTER TABLE ingest.late_bases ADD PRIMARY KEY (pump_id, bucket);

-- Makes the functions that fold late data into `target`, the table that holds the aggregates of a minute.
CREATE FUNCTION ingest.create_late_functions(target text) RETURNS void LANGUAGE plpgsql AS $make$
DECLARE
    columns text := (
        SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) FROM pg_attribute
        WHERE attrelid = 'ingest.late_bases'::regclass AND attnum > 0 AND NOT attisdropped
    );
    running_bit text := (1 << 24)::text;
    novel_channels text := (
        SELECT string_agg(format('CASE WHEN known & %2$s = 0 THEN %1$I END AS %1$I', name, 1 << position), ', ')
        FROM ingest.channels
    );
    known_of_minute text := (
        SELECT string_agg(
            format('CASE WHEN b.%1$s_count > 0 OR b.fault_mask & %2$s <> 0 THEN %2$s ELSE 0 END', name, 1 << position),
            ' | '
        ) FROM ingest.channels
    ) || format(' | CASE WHEN b.running_known > 0 THEN %s ELSE 0 END', running_bit);
BEGIN
    -- Keeps the minutes of late readings as they were before the first of them, once.
    EXECUTE format($f$
        CREATE FUNCTION ingest.keep_late_bases(pump int4, first timestamptz, until timestamptz) RETURNS void
        LANGUAGE sql SET timezone = 'UTC' AS $body$
            WITH touched AS (
                SELECT DISTINCT pump_id, date_trunc('minute', time) AS bucket
                FROM ingest.telemetry JOIN ingest.pumps USING (pump_no)
                WHERE pump_no = pump AND time >= first AND time < until
            )
            INSERT INTO ingest.late_bases (%1$s)
            SELECT %1$s FROM touched JOIN %2$s USING (pump_id, bucket)
            WHERE bucket >= first AND bucket < until
            ON CONFLICT DO NOTHING;
            INSERT INTO ingest.late_bases (pump_id, bucket, readings)
            SELECT DISTINCT pump_id, date_trunc('minute', time), 0
            FROM ingest.telemetry JOIN ingest.pumps USING (pump_no)
            WHERE pump_no = pump AND time >= first AND time < until
            ON CONFLICT DO NOTHING;
        $body$
    $f$, columns, target);

    -- Makes the minutes of late readings afresh: base plus what the raw rows add to it. `times` and `masks`: raw rows
    -- that were dropped before, and what was measured in them. Where the keys were not kept (`unkeyed`), whatever
    -- the base has of a minute counts as known.
    EXECUTE format($f$
        CREATE FUNCTION ingest.fold_late(
            pump int4, first timestamptz, until timestamptz, unkeyed boolean, times timestamptz[], masks int4[]
        ) RETURNS void LANGUAGE plpgsql SET timezone = 'UTC' AS $body$
        BEGIN
            -- With constants: only they keep a deletion from unpacking a whole chunk of the columnstore.
            EXECUTE format(
                'DELETE FROM %2$s WHERE pump_id = %%L AND bucket >= %%L AND bucket < %%L AND bucket IN ('
                'SELECT date_trunc(''minute'', time) FROM ingest.telemetry '
                'WHERE pump_no = %%L AND time >= %%L AND time < %%L)',
                (SELECT pump_id FROM ingest.pumps WHERE pump_no = pump), first, until, pump, first, until
            );
            INSERT INTO %2$s (%1$s)
            WITH read AS (
                SELECT
                    b.pump_id, b.bucket, t.*,
                    k.time IS NULL AND NOT (unkeyed AND b.readings > 0) AS fresh,
                    coalesce(k.mask, 0) | CASE WHEN unkeyed THEN %3$s ELSE 0 END AS known
                FROM ingest.telemetry AS t
                JOIN ingest.pumps AS p USING (pump_no)
                JOIN ingest.late_bases AS b ON b.pump_id = p.pump_id AND b.bucket = date_trunc('minute', t.time)
                LEFT JOIN unnest(times, masks) AS k (time, mask) ON k.time = t.time
                WHERE t.pump_no = pump AND t.time >= first AND t.time < until
            ),
            novel AS (
                SELECT
                    pump_id, bucket, fresh, %4$s, CASE WHEN known & %5$s = 0 THEN running END AS running,
                    NULLIF(fault_mask & ~known, 0) AS fault_mask, NULLIF(frozen_mask & ~known, 0) AS frozen_mask
                FROM read
            ),
            added AS (SELECT pump_id, bucket, %6$s FROM novel GROUP BY 1, 2),
            terms AS (
                SELECT %1$s FROM added
                UNION ALL
                SELECT %1$s FROM ingest.late_bases JOIN (SELECT pump_id, bucket FROM added) AS a USING (pump_id, bucket)
            )
            SELECT %1$s FROM (SELECT pump_id, bucket, %7$s FROM terms GROUP BY 1, 2) AS whole;
        END $body$
    $f$, columns, target, known_of_minute, novel_channels, running_bit,
        replace(
            ingest.aggregates_of_readings(), 'count(*)::int4 AS readings',
            '(count(*) FILTER (WHERE fresh))::int4 AS readings'
        ),
        ingest.aggregates_of_aggregates());
    REVOKE ALL ON FUNCTION
        ingest.keep_late_bases(int4, timestamptz, timestamptz),
        ingest.fold_late(int4, timestamptz, timestamptz, boolean, timestamptz[], int4[])
    FROM PUBLIC;
END $make$;
REVOKE ALL ON FUNCTION ingest.create_late_functions(text) FROM PUBLIC;
