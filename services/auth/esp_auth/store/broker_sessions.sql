-- name: ended
-- Numbers of the connections (gateway $1, open since $2) whose gateway has no valid key, or had one end
-- since: which of its keys a connection was opened with is not known.
SELECT session.number
FROM unnest($1::text[], $2::timestamptz[]) WITH ORDINALITY AS session (gateway_id, since, number)
WHERE NOT EXISTS (
    SELECT FROM auth.api_keys AS key
    WHERE key.gateway_id = session.gateway_id AND key.revoked_at IS NULL
      AND (key.expires_at IS NULL OR key.expires_at > clock_timestamp())
) OR EXISTS (
    SELECT FROM auth.api_keys AS key,
        LATERAL (VALUES
            (key.revoked_at),
            (key.expires_at),
            -- A secret that was replaced ends with its overlap, or at once where there was none.
            (coalesce(key.previous_expires_at, key.rotated_at))
        ) AS secret (ended_at)
    WHERE key.gateway_id = session.gateway_id
      AND secret.ended_at > session.since AND secret.ended_at <= clock_timestamp()
)
ORDER BY session.number
