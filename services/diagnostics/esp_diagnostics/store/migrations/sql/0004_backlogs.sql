-- Pumps with readings that wait to be judged. Their messages are acknowledged once this row is committed: the
-- readings themselves are read from ingest's store.
CREATE TABLE diagnostics.backlogs (
    pump_id text PRIMARY KEY,
    partition int2 NOT NULL,
    judged timestamptz NOT NULL,
    until timestamptz NOT NULL,
    body bytea,
    body_through timestamptz NOT NULL,
    noted_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX ON diagnostics.backlogs (partition);
COMMENT ON COLUMN diagnostics.backlogs.judged IS 'Readings up to this time are judged.';
COMMENT ON COLUMN diagnostics.backlogs.until IS 'Newest reading that waits to be judged.';
COMMENT ON COLUMN diagnostics.backlogs.body IS 'State of the pump after its reading of body_through; null: none yet.';

GRANT SELECT, INSERT, UPDATE, DELETE ON diagnostics.backlogs TO esp_diagnostics;
