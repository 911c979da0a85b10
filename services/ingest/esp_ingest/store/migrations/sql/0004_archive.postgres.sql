-- Keeps everybody from changing a day until the transaction ends; false where there is none. Readers go on.
CREATE FUNCTION ingest.freeze_day(day date) RETURNS boolean LANGUAGE plpgsql SET lock_timeout = '5s' AS $$
DECLARE
    name text := to_char(day, '"telemetry_"YYYYMMDD');
BEGIN
    IF to_regclass('ingest.' || name) IS NULL THEN
        RETURN false;
    END IF;
    EXECUTE format('LOCK TABLE ingest.%I IN SHARE MODE', name);
    RETURN true;
END $$;
REVOKE ALL ON FUNCTION ingest.freeze_day(date) FROM PUBLIC;
