-- One bad channel no longer costs a reading: what was refused or clamped of a stored row, and of which channel a
-- quarantined value is.

ALTER TABLE ingest.telemetry ADD COLUMN refused_mask int4, ADD COLUMN clamped_mask int4;
COMMENT ON COLUMN ingest.telemetry.refused_mask IS
    'Channels of which a value was refused at this time: the channel is null, or (conflict) holds the first value.';
COMMENT ON COLUMN ingest.telemetry.clamped_mask IS
    'Channels whose value was beyond a physical limit by no more than the channel''s tolerance, and stored as the limit.';

ALTER TABLE ingest.quarantine ADD COLUMN channel text;
COMMENT ON COLUMN ingest.quarantine.channel IS
    'The channel (or unknown name) that was refused alone; null: the whole reading was.';

ALTER TABLE ingest.ledger ADD COLUMN refused_channels int4 NOT NULL DEFAULT 0;
COMMENT ON COLUMN ingest.ledger.refused_channels IS 'Channels of stored readings that were new in quarantine.';

ALTER TABLE ingest.quality_hours
    ADD COLUMN rejected int4 NOT NULL DEFAULT 0,
    ADD COLUMN refused_channels int4 NOT NULL DEFAULT 0,
    ADD COLUMN clamped_channels int4 NOT NULL DEFAULT 0;

-- Bits 24 and 25 are the states, which are no rows of ingest.channels.
DO $$
DECLARE
    flagged text := 'CASE WHEN %1$s IS NULL THEN ''{}''::text[] ELSE ARRAY('
        'SELECT c.name FROM ingest.channels c WHERE %1$s & (1 << c.position) <> 0 ORDER BY c.position) END';
    marked text := 'CASE WHEN %1$s IS NULL THEN ''{}''::text[] ELSE ARRAY('
        'SELECT c.name FROM (SELECT position, name FROM ingest.channels '
        'UNION ALL VALUES (24, ''running''), (25, ''trip_code'')) AS c (position, name) '
        'WHERE %1$s & (1 << c.position) <> 0 ORDER BY c.position) END';
BEGIN
    EXECUTE format(
        'CREATE OR REPLACE VIEW telemetry_v1.readings AS '
        'SELECT p.pump_id, w.field_id, time, %s, running, trip_code, %s AS fault_channels, %s AS frozen_channels, '
        'fault_mask, frozen_mask, %s AS refused_channels, %s AS clamped_channels, refused_mask, clamped_mask '
        'FROM ingest.telemetry JOIN ingest.pumps p USING (pump_no) JOIN ingest.wells w USING (well_id)',
        (SELECT string_agg(format('%1$I::float8 / %2$s AS %1$I', name, steps_per_unit), ', ' ORDER BY position)
         FROM ingest.channels),
        format(flagged, 'fault_mask'), format(flagged, 'frozen_mask'),
        format(marked, 'refused_mask'), format(marked, 'clamped_mask')
    );
END $$;
