-- The spool of one gateway: messages ready to publish, oldest first.
-- `body` comes last so that sums over the other columns need not read it.
CREATE TABLE IF NOT EXISTS batches (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    message_id TEXT NOT NULL,
    content_type TEXT NOT NULL,
    readings INTEGER NOT NULL,
    size INTEGER NOT NULL,
    spooled_at REAL NOT NULL,
    body BLOB NOT NULL
);

-- How far into a source (a replayed file) readings have been taken over: kept in the same
-- transaction as the readings, so that a replay that was killed goes on where it stopped.
CREATE TABLE IF NOT EXISTS bookmarks (
    source TEXT PRIMARY KEY,
    position INTEGER NOT NULL
);

-- One row: whose spool this is and what became of its readings.
CREATE TABLE IF NOT EXISTS ledger (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    gateway_id TEXT NOT NULL,
    spooled INTEGER NOT NULL DEFAULT 0,
    confirmed INTEGER NOT NULL DEFAULT 0,
    dropped INTEGER NOT NULL DEFAULT 0,
    last_confirm REAL,
    link TEXT NOT NULL DEFAULT 'down: never connected',
    link_since REAL
);
