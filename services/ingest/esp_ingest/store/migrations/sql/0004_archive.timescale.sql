-- Keeps everybody from changing a day until the transaction ends; false where there is none. Readers go on.
CREATE FUNCTION ingest.freeze_day(day date) RETURNS boolean
LANGUAGE plpgsql SET lock_timeout = '5s' SET timezone = 'UTC' AS $$
DECLARE
    chunk regclass;
BEGIN
    FOR chunk IN SELECT show_chunks('ingest.telemetry', newer_than => day, older_than => day + 1) LOOP
        EXECUTE format('LOCK TABLE %s IN SHARE MODE', chunk);
    END LOOP;
    RETURN FOUND;
END $$;
REVOKE ALL ON FUNCTION ingest.freeze_day(date) FROM PUBLIC;
