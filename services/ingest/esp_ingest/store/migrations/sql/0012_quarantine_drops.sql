-- What retention dropped from quarantine, one row per batch: reconciliation adds it to what is there.

CREATE TABLE ingest.quarantine_drops (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    dropped_at timestamptz NOT NULL DEFAULT now(),
    reason text NOT NULL CHECK (reason IN ('age', 'size')),
    dropped_rows int8 NOT NULL,
    readings int8 NOT NULL,
    channels int8 NOT NULL
);
COMMENT ON TABLE ingest.quarantine_drops IS
    'Batches of rows that retention dropped from quarantine: for their age, or because there were too many.';
GRANT SELECT ON ingest.quarantine_drops TO esp_ingest;
