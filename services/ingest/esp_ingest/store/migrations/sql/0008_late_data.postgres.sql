SELECT ingest.create_late_functions('ingest.telemetry_1min');
