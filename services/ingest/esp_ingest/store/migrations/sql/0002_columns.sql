-- Column lists made from the channel catalogue, so that the readings table, its aggregates and the views
-- agree with it and with each other on both engines.

CREATE FUNCTION ingest.telemetry_columns() RETURNS text LANGUAGE sql STABLE AS $$
    SELECT 'pump_no int4 NOT NULL, time timestamptz NOT NULL, '
        || string_agg(format('%I int4', name), ', ' ORDER BY position)
        || ', running boolean, trip_code int4, fault_mask int4, frozen_mask int4, PRIMARY KEY (pump_no, time)'
    FROM ingest.channels
$$;

-- A value with its bit in fault_mask is a gauge's error code, not a measurement: only the mask counts it.
CREATE FUNCTION ingest.aggregates_of_readings() RETURNS text LANGUAGE sql STABLE AS $$
    SELECT 'count(*)::int4 AS readings, count(running)::int4 AS running_known, '
        '(count(*) FILTER (WHERE running))::int4 AS running_count, '
        'bit_or(fault_mask) AS fault_mask, bit_or(frozen_mask) AS frozen_mask, '
        || string_agg(format(
            'sum(%1$I) FILTER (WHERE %2$s) AS %1$s_sum, (count(%1$I) FILTER (WHERE %2$s))::int4 AS %1$s_count, '
            'min(%1$I) FILTER (WHERE %2$s) AS %1$s_min, max(%1$I) FILTER (WHERE %2$s) AS %1$s_max',
            name, format('fault_mask IS NULL OR fault_mask & %s = 0', 1 << position)
        ), ', ' ORDER BY position)
    FROM ingest.channels
$$;

CREATE FUNCTION ingest.aggregates_of_aggregates() RETURNS text LANGUAGE sql STABLE AS $$
    SELECT 'sum(readings)::int4 AS readings, sum(running_known)::int4 AS running_known, '
        'sum(running_count)::int4 AS running_count, '
        'bit_or(fault_mask) AS fault_mask, bit_or(frozen_mask) AS frozen_mask, '
        || string_agg(format(
            'sum(%1$s_sum)::bigint AS %1$s_sum, sum(%1$s_count)::int4 AS %1$s_count, '
            'min(%1$s_min) AS %1$s_min, max(%1$s_max) AS %1$s_max',
            name
        ), ', ' ORDER BY position)
    FROM ingest.channels
$$;
