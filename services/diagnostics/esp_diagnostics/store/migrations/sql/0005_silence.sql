-- When pumps and gateways were last heard of, noted from the clock: nothing need arrive for it.
CREATE TABLE diagnostics.pump_activity (
    pump_id text PRIMARY KEY,
    received timestamptz NOT NULL,
    silent_since timestamptz,
    covered_by text
);
COMMENT ON COLUMN diagnostics.pump_activity.received IS
'Newest reading in ingest''s store, as far as it was looked for: newer than the pump''s status while diagnosis is behind.';
COMMENT ON COLUMN diagnostics.pump_activity.covered_by IS 'Gateway whose alert stands for the pump''s.';

CREATE TABLE diagnostics.gateway_activity (
    gateway_id text PRIMARY KEY,
    silent_since timestamptz,
    returned_at timestamptz
);
GRANT SELECT, INSERT, UPDATE, DELETE ON diagnostics.pump_activity, diagnostics.gateway_activity TO esp_diagnostics;
