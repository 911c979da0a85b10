-- What a record is. The table itself is made of this by the engine's file.

CREATE TABLE auth.audit_row (
    seq bigint NOT NULL,
    time timestamptz NOT NULL,
    id uuid NOT NULL,
    service text NOT NULL,
    actor_id text,
    actor_kind text NOT NULL,
    action text NOT NULL,
    object text NOT NULL,
    outcome text NOT NULL,
    status int4,
    source_address text,
    trace_id text,
    count int4 NOT NULL,
    detail jsonb NOT NULL,
    hash bytea NOT NULL
);
-- Under this key a record that is delivered again is known.
CREATE UNIQUE INDEX ON auth.audit_row (id, time);
-- The chain is verified in the order of seq, which no index of an engine's parts can make unique.
CREATE INDEX ON auth.audit_row (seq);
-- Lists run from the newest to the oldest. What is looked for by who, what and which is a fraction of all; a
-- service is not, and of outcomes only success is most of it.
CREATE INDEX ON auth.audit_row (time, seq);
CREATE INDEX ON auth.audit_row (actor_id, time, seq);
CREATE INDEX ON auth.audit_row (action, time, seq);
CREATE INDEX ON auth.audit_row (object, time, seq);
CREATE INDEX ON auth.audit_row (time, seq) WHERE outcome <> 'success';

-- One row, locked by each batch: the last record of the chain.
CREATE TABLE auth.audit_head (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    seq bigint NOT NULL,
    hash bytea NOT NULL
);
INSERT INTO auth.audit_head (seq, hash) VALUES (0, decode(repeat('00', 32), 'hex'));
