-- Diagnostics raises one alert when all pumps of a gateway are silent.

CREATE VIEW telemetry_v1.gateways AS SELECT gateway_id, field_id, name FROM ingest.gateways;

CREATE VIEW telemetry_v1.gateway_pumps AS SELECT gateway_id, pump_id FROM ingest.gateway_pumps;

GRANT SELECT ON telemetry_v1.gateways, telemetry_v1.gateway_pumps TO esp_diagnostics, esp_archiver;
