-- A hypertable by week; it takes any time by itself.

CREATE TABLE auth.audit_log (LIKE auth.audit_row INCLUDING ALL);
SELECT create_hypertable('auth.audit_log', by_range('time', INTERVAL '1 week'), create_default_indexes => false);
