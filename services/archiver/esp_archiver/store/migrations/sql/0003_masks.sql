-- Marks of refused and clamped channels, which archived readings of newer days have.

ALTER TABLE archiver.restored ADD COLUMN refused_mask int4, ADD COLUMN clamped_mask int4;
CREATE OR REPLACE VIEW archive_v1.restored AS SELECT * FROM archiver.restored;
COMMENT ON COLUMN archive_v1.restored.refused_mask IS
    'Channels of which a value was refused at this time, as in telemetry_v1.readings; null: none.';
COMMENT ON COLUMN archive_v1.restored.clamped_mask IS
    'Channels whose value was stored as the limit that it was beyond, as in telemetry_v1.readings; null: none.';
