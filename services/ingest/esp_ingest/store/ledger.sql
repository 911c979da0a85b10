-- Accounts of flushes.

-- name: account
-- The flush's line in the ledger, and what it touched: per pump and hour, the first and the last minute.
WITH entry AS (
    INSERT INTO ingest.ledger (
        worker, messages, readings, stored, merged, duplicates, quarantined, refused_channels
    )
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
)
INSERT INTO ingest.dirty_buckets (hour, first, last, pump_nos)
SELECT
    to_timestamp(hour * 3600.0), to_timestamp(min(first) * 60.0), to_timestamp(max(last) * 60.0), array_agg(pump_no)
FROM unnest($9::int4[], $10::int4[], $11::int4[], $12::int4[]) AS touched (pump_no, hour, first, last)
GROUP BY hour

