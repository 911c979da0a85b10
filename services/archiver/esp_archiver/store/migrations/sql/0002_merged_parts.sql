-- Parts that late readings were merged into, and the objects that this made obsolete.

ALTER TABLE archiver.parts ADD COLUMN source_rows bigint;
COMMENT ON COLUMN archiver.parts.source_rows IS 'Rows the source held when this was read; null: as many as it has.';
COMMENT ON COLUMN archiver.parts.sole IS 'Replaced only by what holds all of it: what it holds may be nowhere else.';

CREATE TABLE archiver.obsolete (
    object text PRIMARY KEY,
    since timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE archiver.obsolete IS 'Objects whose readings are all in another part, still to be deleted.';

GRANT DELETE ON archiver.parts TO esp_archiver;
GRANT SELECT, INSERT, DELETE ON archiver.obsolete TO esp_archiver;
