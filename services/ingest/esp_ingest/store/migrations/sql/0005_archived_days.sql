-- What the archiver told of each day last: whoever drops a day by hand holds what it has against this.
CREATE TABLE ingest.archived_days (
    day date PRIMARY KEY,
    archive_id text NOT NULL,
    readings bigint NOT NULL,
    digest numeric NOT NULL
);
COMMENT ON TABLE ingest.archived_days IS 'What the last archive.verified of each day said that the archive has of it.';
