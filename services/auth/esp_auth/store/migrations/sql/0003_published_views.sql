-- audit_v1: the audit log as the archiver takes copies of it. Every field that a seal is over is there, so a copy can
-- be verified with the chain's key. Columns may be added, never renamed or removed.

CREATE SCHEMA audit_v1;

CREATE VIEW audit_v1.records AS
SELECT
    seq, time, id::text AS id, service, actor_id, actor_kind, action, object, outcome, status, source_address, trace_id,
    count, detail::text AS detail, encode(hash, 'hex') AS hash
FROM auth.audit_log
WHERE isfinite(time);

-- Records are numbered in the order of their commits: those after a head that was read before are all new.
CREATE VIEW audit_v1.head AS SELECT seq, encode(hash, 'hex') AS hash FROM auth.audit_head;

GRANT USAGE ON SCHEMA audit_v1 TO esp_archiver;
GRANT SELECT ON ALL TABLES IN SCHEMA audit_v1 TO esp_archiver;
