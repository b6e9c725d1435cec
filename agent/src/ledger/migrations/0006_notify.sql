-- What people are told: what waits to be sent, what became of it, and what was told once.

CREATE TABLE notify_state (
    only_row            INTEGER NOT NULL PRIMARY KEY CHECK (only_row = 1),
    -- The last event that was looked at: what it gives to tell is queued in the transaction that moves this.
    events_no           INTEGER NOT NULL,
    -- Messages for which there was no room.
    refused             INTEGER NOT NULL
) STRICT;

CREATE TABLE deliveries (
    no                  INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    -- The same at each attempt: what a receiver tells a repetition by.
    id                  BLOB    NOT NULL UNIQUE CHECK (length(id) = 16),
    channel             TEXT    NOT NULL CHECK (channel IN ('mail', 'telegram', 'webhook')),
    recipient           TEXT    NOT NULL,
    kind                TEXT    NOT NULL,
    -- The same thing is told to the same recipient once.
    topic               TEXT    NOT NULL,
    user_id             BLOB    REFERENCES users (id),
    -- What happened; the text is made of it when it is sent.
    data                TEXT    NOT NULL CHECK (json_valid(data)),
    created_ms          INTEGER NOT NULL,
    -- sending: committed before the first byte goes out. unsure: it may have arrived, and is not repeated.
    state               TEXT    NOT NULL
                                CHECK (state IN ('waiting', 'sending', 'sent', 'failed', 'expired', 'unsure')),
    attempts            INTEGER NOT NULL,
    next_ms             INTEGER NOT NULL,
    done_ms             INTEGER,
    error               TEXT,
    UNIQUE (channel, recipient, topic),
    CHECK ((state IN ('waiting', 'sending')) = (done_ms IS NULL))
) STRICT;

CREATE INDEX deliveries_open ON deliveries (channel, no) WHERE done_ms IS NULL;
CREATE INDEX deliveries_done ON deliveries (done_ms) WHERE done_ms IS NOT NULL;
CREATE INDEX deliveries_by_user ON deliveries (user_id) WHERE user_id IS NOT NULL;

-- What was told of a user once: of which quota or expiry, and which percentage or time before it.
CREATE TABLE notices (
    user_id             BLOB    NOT NULL REFERENCES users (id),
    what                TEXT    NOT NULL CHECK (what IN ('total_quota', 'expiry')),
    of                  INTEGER NOT NULL,
    mark                INTEGER NOT NULL,
    at_ms               INTEGER NOT NULL,
    PRIMARY KEY (user_id, what, of, mark)
) STRICT, WITHOUT ROWID;

-- Reports that were made, by the day or month that they are of.
CREATE TABLE notify_reports (
    name                TEXT    NOT NULL CHECK (name IN ('daily', 'monthly')),
    period              TEXT    NOT NULL,
    at_ms               INTEGER NOT NULL,
    PRIMARY KEY (name, period)
) STRICT, WITHOUT ROWID;

-- Parts of which people were told that they do not work, and not yet that they do.
CREATE TABLE notify_troubles (
    part                TEXT    NOT NULL PRIMARY KEY,
    since_ms            INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
