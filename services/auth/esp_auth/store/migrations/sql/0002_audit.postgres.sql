-- Partitions by week, from Monday, UTC.

CREATE TABLE auth.audit_log (LIKE auth.audit_row INCLUDING ALL) PARTITION BY RANGE (time);

-- The writer meets times of any week, since records come late and clocks go wrong, and it must not own the table:
-- hence SECURITY DEFINER. A default partition would take such rows too, but then stand in the way of the partition
-- of its week, and of reading partitions one after the other in the order of time. Attaching takes a lock that
-- lets writers go on, which CREATE TABLE ... PARTITION OF would not.
CREATE FUNCTION auth.ensure_audit_weeks(mondays date[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' AS $$
DECLARE
    monday date;
    name text;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('auth.ensure_audit_weeks'));
    FOREACH monday IN ARRAY mondays LOOP
        IF extract(isodow FROM monday) <> 1 THEN
            RAISE EXCEPTION '% is not a Monday', monday USING ERRCODE = 'invalid_parameter_value';
        END IF;
        name := to_char(monday, '"audit_log_"YYYYMMDD');
        CONTINUE WHEN to_regclass('auth.' || name) IS NOT NULL;
        EXECUTE format('CREATE TABLE auth.%I (LIKE auth.audit_log INCLUDING ALL)', name);
        EXECUTE format(
            'ALTER TABLE auth.audit_log ATTACH PARTITION auth.%I FOR VALUES FROM (%L) TO (%L)',
            name, monday::timestamptz, (monday + 7)::timestamptz
        );
    END LOOP;
END $$;
REVOKE ALL ON FUNCTION auth.ensure_audit_weeks(date[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION auth.ensure_audit_weeks(date[]) TO esp_auth;
