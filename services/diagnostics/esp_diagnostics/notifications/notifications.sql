-- Destinations, routes, and the log of notifications.

-- name: destinations
SELECT destination_id, name, scheme, shown_url, enabled, changed_by, changed_at
FROM diagnostics.notification_destinations ORDER BY destination_id;

-- name: destination
SELECT destination_id, name, scheme, shown_url, enabled, changed_by, changed_at, sealed_url
FROM diagnostics.notification_destinations WHERE destination_id = $1;

-- name: lock
-- Serializes changes, because routes refer to destinations.
SELECT pg_advisory_xact_lock(hashtext('diagnostics.notification_routing'));

-- name: put_destination
INSERT INTO diagnostics.notification_destinations AS d (
    destination_id, name, scheme, sealed_url, shown_url, enabled, changed_by
) VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT (destination_id) DO UPDATE SET
    name = $2, scheme = $3, sealed_url = $4, shown_url = $5, enabled = $6, changed_by = $7, changed_at = now()
RETURNING destination_id, name, scheme, shown_url, enabled, changed_by, changed_at;

-- name: routes_to
SELECT route_id FROM diagnostics.notification_routes WHERE $1 = ANY(destination_ids) ORDER BY route_id;

-- name: delete_destination
DELETE FROM diagnostics.notification_destinations WHERE destination_id = $1 RETURNING destination_id;

-- name: routes
SELECT * FROM diagnostics.notification_routes ORDER BY route_id;

-- name: route
SELECT * FROM diagnostics.notification_routes WHERE route_id = $1;

-- name: unknown_destinations
SELECT id FROM unnest($1::text[]) AS id
WHERE NOT EXISTS (SELECT FROM diagnostics.notification_destinations AS d WHERE d.destination_id = id);

-- name: put_route
INSERT INTO diagnostics.notification_routes AS r (
    route_id, name, field_ids, least_priority, notices, shift, destination_ids, enabled, changed_by
) VALUES ($1, $2, $3, $4, $5, $6::text::jsonb, $7, $8, $9)
ON CONFLICT (route_id) DO UPDATE SET
    name = $2, field_ids = $3, least_priority = $4, notices = $5, shift = $6::text::jsonb, destination_ids = $7,
    enabled = $8, changed_by = $9, changed_at = now()
RETURNING *;

-- name: delete_route
DELETE FROM diagnostics.notification_routes WHERE route_id = $1 RETURNING route_id;

-- name: settled
-- Destinations that have a message, or do not need it.
SELECT destination_id FROM diagnostics.notifications WHERE event_id = $1 AND outcome <> 'failed';

-- name: last_sent
-- The last message to a destination about an alert since a time.
SELECT notice, priority FROM diagnostics.notifications
WHERE alert_id = $1 AND destination_id = $2 AND outcome = 'sent' AND settled_at > $3
ORDER BY settled_at DESC
LIMIT 1;

-- name: note
INSERT INTO diagnostics.notifications AS n (
    event_id, destination_id, alert_id, pump_id, field_id, condition, priority, notice, title, outcome, attempts,
    reason, happened_at, settled_at
) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, now())
ON CONFLICT (event_id, destination_id) DO UPDATE SET
    outcome = excluded.outcome, attempts = n.attempts + excluded.attempts, reason = excluded.reason,
    settled_at = excluded.settled_at;

-- name: page
-- Newest first; $8 and $9 are the last row of the page before, or null.
SELECT * FROM diagnostics.notifications
WHERE ($1::text IS NULL OR field_id = $1)
    AND ($2::text IS NULL OR pump_id = $2)
    AND ($3::uuid IS NULL OR alert_id = $3)
    AND ($4::text IS NULL OR destination_id = $4)
    AND ($5::text IS NULL OR outcome = $5)
    AND ($6::timestamptz IS NULL OR settled_at >= $6)
    AND ($7::timestamptz IS NULL OR settled_at < $7)
    AND ($8::timestamptz IS NULL OR (settled_at, notification_id) < ($8, $9::int8))
ORDER BY settled_at DESC, notification_id DESC
LIMIT $10;
