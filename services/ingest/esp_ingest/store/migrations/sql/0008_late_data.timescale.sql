SELECT ingest.create_late_functions(
    format('%I.%I', materialization_hypertable_schema, materialization_hypertable_name)
) FROM timescaledb_information.continuous_aggregates
WHERE view_schema = 'ingest' AND view_name = 'telemetry_1min';

-- The maintenance role refreshes and converts by itself, on both engines alike: on some pairs of PostgreSQL and
-- TimescaleDB every background job fails, and a job that fails always is no safety net.
SELECT remove_continuous_aggregate_policy('ingest.telemetry_1min', if_exists => true);
SELECT remove_continuous_aggregate_policy('ingest.telemetry_1hour', if_exists => true);
SELECT remove_continuous_aggregate_policy('ingest.telemetry_1day', if_exists => true);
CALL remove_columnstore_policy('ingest.telemetry', if_exists => true);
CALL remove_columnstore_policy('ingest.telemetry_1min', if_exists => true);
CALL remove_columnstore_policy('ingest.telemetry_1hour', if_exists => true);
