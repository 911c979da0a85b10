DROP TABLE auth.audit_row;

-- Whoever runs the service can add records, and change none.
GRANT SELECT, INSERT ON auth.audit_log TO esp_auth;
GRANT SELECT, UPDATE (seq, hash) ON auth.audit_head TO esp_auth;
