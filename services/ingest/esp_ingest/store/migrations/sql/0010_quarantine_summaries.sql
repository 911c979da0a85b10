-- One row may stand for many refusals: what exceeds the limit of one message is kept as the whole message, once.

ALTER TABLE ingest.quarantine ADD COLUMN rest_readings int4, ADD COLUMN rest_channels int4;
COMMENT ON COLUMN ingest.quarantine.rest_readings IS
    'Summary rows: refused readings of the message that have no rows of their own; the payload is the whole message.';
COMMENT ON COLUMN ingest.quarantine.rest_channels IS
    'Summary rows: refused channels of the message that have no rows of their own.';
