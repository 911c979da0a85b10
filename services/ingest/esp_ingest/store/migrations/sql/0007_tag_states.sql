ALTER TABLE ingest.tag_maps ADD COLUMN states jsonb;
COMMENT ON COLUMN ingest.tag_maps.states IS 'A vendor''s own words for running (true, false) or trip_code (integers).';
