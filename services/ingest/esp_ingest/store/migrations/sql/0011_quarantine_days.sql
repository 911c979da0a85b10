-- How much of each gateway's refusals was kept on a UTC day, and how much was not because the day was full.

CREATE TABLE ingest.quarantine_days (
    gateway_id text NOT NULL,
    day date NOT NULL,
    kept_rows int8 NOT NULL DEFAULT 0,
    unkept_readings int8 NOT NULL DEFAULT 0,
    unkept_channels int8 NOT NULL DEFAULT 0,
    PRIMARY KEY (gateway_id, day)
);
COMMENT ON TABLE ingest.quarantine_days IS
    'Per gateway and UTC day: new rows in quarantine, and refusals beyond the limit of a day, which have no row.';
GRANT SELECT, INSERT, UPDATE ON ingest.quarantine_days TO esp_ingest;
