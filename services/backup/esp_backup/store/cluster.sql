-- What is asked of a cluster as its superuser: the one that is backed up, or one that was restored.

-- name: identity
SELECT current_database() AS database, current_setting('server_version') AS server_version,
       (SELECT extversion FROM pg_extension WHERE extname = 'timescaledb') AS timescale_version

-- name: archiver
SELECT pg_current_wal_insert_lsn()::text AS position, last_archived_wal AS newest_segment,
       (SELECT count(*) FROM pg_ls_archive_statusdir() WHERE name LIKE '%.ready')::int4 AS waiting_segments,
       (SELECT setting::bigint FROM pg_settings WHERE name = 'wal_segment_size') AS segment_bytes
FROM pg_stat_archiver

-- name: restore_point
SELECT pg_create_restore_point($1)::text AS position

-- name: switch
-- The segment that is over with this, once its archiving is due.
SELECT pg_walfile_name(pg_switch_wal())

-- name: is_archived
SELECT coalesce(last_archived_wal >= $1, false) FROM pg_stat_archiver

-- name: in_recovery
SELECT pg_is_in_recovery()

-- name: tables
-- Every table that holds rows itself: partitions and chunks, not what they are of.
SELECT format('%I.%I', n.nspname, c.relname) AS name, coalesce(s.n_tup_del, 0) AS deleted
FROM pg_class AS c
JOIN pg_namespace AS n ON n.oid = c.relnamespace
LEFT JOIN pg_stat_all_tables AS s ON s.relid = c.oid
WHERE c.relkind = 'r' AND c.relpersistence = 'p'
  AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'backup', '_timescaledb_catalog', '_timescaledb_config',
                        '_timescaledb_cache', '_timescaledb_debug')
  -- An outbox is empty and full many times a second; so is what the engine's own jobs note.
  AND c.relname <> 'outbox'
  AND NOT (n.nspname = '_timescaledb_internal' AND c.relname LIKE 'bgw\_%')
ORDER BY 1

-- name: has_audit_log
SELECT to_regclass('auth.audit_log') IS NOT NULL AND to_regclass('auth.audit_head') IS NOT NULL

-- name: audit_head
SELECT seq, hash FROM auth.audit_head

-- name: audit_links
-- The log has each number from its first to its head once, and ends with the head's seal.
SELECT head.seq AS head, log.records, log.numbers, log.first, log.last,
       (SELECT bool_or(hash = head.hash) FROM auth.audit_log WHERE seq = head.seq) AS sealed
FROM auth.audit_head AS head,
     (SELECT count(*) AS records, count(DISTINCT seq) AS numbers, min(seq) AS first, max(seq) AS last
      FROM auth.audit_log) AS log

-- name: audit_has
SELECT EXISTS (SELECT FROM auth.audit_log WHERE seq = $1 AND hash = $2)

-- name: heartbeat
SELECT at FROM backup.heartbeat

-- name: log_segment
-- Segment of the log that is being written.
SELECT pg_walfile_name(pg_current_wal_lsn())

-- name: has_mark
SELECT EXISTS (SELECT FROM backup.marks WHERE name = $1)

-- name: database_bytes
SELECT sum(pg_database_size(oid))::bigint FROM pg_database
