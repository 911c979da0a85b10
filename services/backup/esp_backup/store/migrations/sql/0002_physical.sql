-- Differential and incremental backups, and the holes of the log's archive.

ALTER TABLE backup.backups DROP CONSTRAINT backups_kind_check;
ALTER TABLE backup.backups ADD CONSTRAINT backups_kind_check
    CHECK (kind IN ('dump', 'full', 'diff', 'incr', 'set'));
ALTER TABLE backup.jobs DROP CONSTRAINT jobs_kind_check;
ALTER TABLE backup.jobs ADD CONSTRAINT jobs_kind_check
    CHECK (kind IN ('dump', 'full', 'diff', 'incr', 'set', 'verify', 'drill'));

-- Times that the database cannot be put back to. Can be made again from storage.
CREATE TABLE backup.holes (
    begin_at timestamptz NOT NULL,
    end_at timestamptz NOT NULL,
    first_segment text NOT NULL,
    segments int8 NOT NULL
);
GRANT SELECT, INSERT, DELETE ON backup.holes TO esp_backup;
