GRANT SELECT, INSERT, UPDATE ON ingest.telemetry TO esp_ingest;
GRANT SELECT ON ingest.telemetry_1min, ingest.telemetry_1hour, ingest.telemetry_1day TO esp_ingest;
