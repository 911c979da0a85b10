-- Alerts with their log, their rules, and whom to tell of them.

-- One row lives of each pump, condition and subject; the columns are those of the domain's Alarm, and its state.
CREATE TABLE diagnostics.alerts (
    alert_id uuid PRIMARY KEY,
    pump_id text,
    field_id text,
    condition text NOT NULL,
    subject text NOT NULL DEFAULT '',
    source text NOT NULL CHECK (source IN ('finding', 'limit', 'platform')),
    title text NOT NULL,
    action text NOT NULL DEFAULT '',
    finding_id uuid,
    severity text NOT NULL CHECK (severity IN ('info', 'low', 'medium', 'high', 'critical')),
    priority text NOT NULL CHECK (priority IN ('low', 'medium', 'high', 'critical')),
    state text NOT NULL CHECK (state IN (
        'pending', 'active_unacknowledged', 'active_acknowledged', 'cleared_unacknowledged', 'normal', 'shelved',
        'suppressed', 'out_of_service', 'closed'
    )),
    active boolean NOT NULL,
    acknowledged boolean NOT NULL,
    occurrences int4 NOT NULL,
    signalled_at timestamptz NOT NULL,
    raised_at timestamptz NOT NULL,
    last_raised_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    due_at timestamptz,
    cleared_at timestamptz,
    acknowledged_at timestamptz,
    acknowledged_by text,
    shelved_until timestamptz,
    shelved_by text,
    shelve_reason text,
    suppressed_by text,
    out_of_service_by text,
    out_of_service_reason text,
    assignee text,
    closed_at timestamptz,
    closed_by text
);
CREATE UNIQUE INDEX one_living_alert ON diagnostics.alerts (coalesce(pump_id, ''), condition, subject)
WHERE closed_at IS NULL;
CREATE INDEX alerts_by_key ON diagnostics.alerts (coalesce(pump_id, ''), condition, subject, raised_at DESC);
CREATE INDEX ON diagnostics.alerts (last_raised_at, alert_id);
CREATE INDEX ON diagnostics.alerts (field_id, last_raised_at, alert_id);
CREATE INDEX ON diagnostics.alerts (pump_id, last_raised_at, alert_id);
CREATE INDEX ON diagnostics.alerts (raised_at);
CREATE INDEX ON diagnostics.alerts (cleared_at);
CREATE INDEX ON diagnostics.alerts (acknowledged_at);
-- What time does something to, and what the fleet view counts.
CREATE INDEX living_alerts ON diagnostics.alerts (pump_id, state) WHERE closed_at IS NULL;
COMMENT ON COLUMN diagnostics.alerts.signalled_at IS 'Time of the signal that changed `active` last.';
COMMENT ON COLUMN diagnostics.alerts.due_at IS 'When `active` changes unless the condition changes back before.';

CREATE TABLE diagnostics.alert_log (
    log_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    alert_id uuid NOT NULL REFERENCES diagnostics.alerts,
    pump_id text,
    field_id text,
    condition text NOT NULL,
    what text NOT NULL,
    notice text CHECK (notice IN ('raised', 'escalated', 'cleared')),
    priority text NOT NULL,
    state text NOT NULL,
    time timestamptz NOT NULL,
    logged_at timestamptz NOT NULL,
    actor text,
    detail jsonb NOT NULL DEFAULT '{}'
);
CREATE INDEX ON diagnostics.alert_log (alert_id, log_id);
CREATE INDEX annunciations ON diagnostics.alert_log (field_id, logged_at) WHERE notice = 'raised';
CREATE INDEX ON diagnostics.alert_log (logged_at) WHERE notice = 'raised';
COMMENT ON COLUMN diagnostics.alert_log.time IS 'When it happened: by the readings'' clock where readings tell of it.';
COMMENT ON COLUMN diagnostics.alert_log.notice IS 'Why people were told, if they were; raised: it was annunciated.';

CREATE TABLE diagnostics.alert_floods (
    field_id text NOT NULL,
    began_at timestamptz NOT NULL,
    ended_at timestamptz,
    most_in_window int4 NOT NULL,
    PRIMARY KEY (field_id, began_at)
);
CREATE UNIQUE INDEX one_flood ON diagnostics.alert_floods (field_id) WHERE ended_at IS NULL;

-- None active: the rules that are shipped with the service.
CREATE TABLE diagnostics.alert_rule_sets (
    version text PRIMARY KEY,
    body text NOT NULL,
    loaded_by text NOT NULL,
    loaded_at timestamptz NOT NULL DEFAULT now(),
    active boolean NOT NULL
);
CREATE UNIQUE INDEX ON diagnostics.alert_rule_sets (active) WHERE active;

-- Where messages go. The URL holds passwords and tokens: sealed (AES-256-GCM), and never given out again.
CREATE TABLE diagnostics.notification_destinations (
    destination_id text PRIMARY KEY,
    name text NOT NULL,
    scheme text NOT NULL,
    sealed_url bytea NOT NULL,
    shown_url text NOT NULL,
    enabled boolean NOT NULL DEFAULT true,
    changed_by text NOT NULL,
    changed_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON COLUMN diagnostics.notification_destinations.shown_url IS 'The URL without its secrets.';

-- Who is told of what, and when; null: of any.
CREATE TABLE diagnostics.notification_routes (
    route_id text PRIMARY KEY,
    name text NOT NULL,
    field_ids text[],
    least_priority text NOT NULL CHECK (least_priority IN ('low', 'medium', 'high', 'critical')),
    notices text[] NOT NULL,
    shift jsonb,
    destination_ids text[] NOT NULL,
    enabled boolean NOT NULL DEFAULT true,
    changed_by text NOT NULL,
    changed_at timestamptz NOT NULL DEFAULT now()
);

-- What was sent where. A message that comes again finds here what is done of it.
CREATE TABLE diagnostics.notifications (
    notification_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    event_id text NOT NULL,
    destination_id text NOT NULL,
    alert_id uuid,
    pump_id text,
    field_id text,
    condition text,
    priority text,
    notice text NOT NULL,
    title text NOT NULL,
    outcome text NOT NULL CHECK (outcome IN ('sent', 'failed', 'repeated', 'unrouted')),
    attempts int4 NOT NULL,
    reason text,
    happened_at timestamptz NOT NULL,
    settled_at timestamptz NOT NULL,
    UNIQUE (event_id, destination_id)
);
CREATE INDEX ON diagnostics.notifications (settled_at, notification_id);
CREATE INDEX ON diagnostics.notifications (alert_id, destination_id, settled_at);
COMMENT ON COLUMN diagnostics.notifications.destination_id IS 'Empty: no route wanted it.';
COMMENT ON COLUMN diagnostics.notifications.outcome IS
'repeated: the same was sent there so lately that it was not sent again. unrouted: no route wanted it.';

GRANT SELECT, INSERT, UPDATE, DELETE ON
    diagnostics.alerts, diagnostics.alert_floods, diagnostics.alert_rule_sets,
    diagnostics.notification_destinations, diagnostics.notification_routes, diagnostics.notifications
    TO esp_diagnostics;
GRANT SELECT, INSERT ON diagnostics.alert_log TO esp_diagnostics;
