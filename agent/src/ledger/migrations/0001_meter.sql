-- The meter: who there is, what each used, and how far the kernel's counters were taken over.
--
-- Instants are UTC milliseconds, bytes are integers. `rev` is the ledger-wide revision of the
-- transaction that changed the row last. Nothing is ever hard-deleted but buckets past their retention.

CREATE TABLE meta (
    only_row            INTEGER NOT NULL PRIMARY KEY CHECK (only_row = 1),
    node_id             BLOB    NOT NULL CHECK (length(node_id) = 16),
    ledger_id           BLOB    NOT NULL CHECK (length(ledger_id) = 16),
    created_ms          INTEGER NOT NULL,
    rev                 INTEGER NOT NULL,
    committed_ms        INTEGER,
    -- Minutes (hours) that began earlier may have been removed; their sums are in hours and days.
    minutes_from_ms     INTEGER NOT NULL,
    hours_from_ms       INTEGER NOT NULL,
    -- Hours and days that began since then are those of this time zone.
    zone                TEXT    NOT NULL,
    zone_since_ms       INTEGER NOT NULL
) STRICT;

CREATE TABLE users (
    id                  BLOB    NOT NULL PRIMARY KEY CHECK (length(id) = 16),
    name                TEXT    NOT NULL,
    created_ms          INTEGER NOT NULL,
    tombstoned_ms       INTEGER,
    policy              TEXT    NOT NULL,
    -- The account in force: usage is tagged with it when it is counted.
    account_start_ms    INTEGER NOT NULL,
    account_generation  INTEGER NOT NULL,
    email               TEXT,
    note                TEXT,
    expires_ms          INTEGER,
    rev                 INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- A name belongs to one user at a time; one who comes back after a tombstone is another user.
CREATE UNIQUE INDEX users_by_name ON users (name) WHERE tombstoned_ms IS NULL;

CREATE TABLE inbounds (
    no                  INTEGER NOT NULL PRIMARY KEY,
    tag                 TEXT    NOT NULL UNIQUE,
    kind                TEXT    NOT NULL,
    port                INTEGER NOT NULL CHECK (port BETWEEN 0 AND 65535),
    created_ms          INTEGER NOT NULL,
    tombstoned_ms       INTEGER,
    rev                 INTEGER NOT NULL
) STRICT;

-- On which inbounds a user is, as last found in the proxy's configuration.
CREATE TABLE user_inbounds (
    user_id             BLOB    NOT NULL REFERENCES users (id),
    inbound_no          INTEGER NOT NULL REFERENCES inbounds (no),
    tombstoned_ms       INTEGER,
    rev                 INTEGER NOT NULL,
    PRIMARY KEY (user_id, inbound_no)
) STRICT, WITHOUT ROWID;

CREATE TABLE epochs (
    no                  INTEGER NOT NULL PRIMARY KEY,
    epoch               BLOB    NOT NULL UNIQUE CHECK (length(epoch) = 16),
    first_ms            INTEGER NOT NULL,
    rev                 INTEGER NOT NULL
) STRICT;

-- What usage is kept by: a small number instead of a long key in millions of rows. A NULL user
-- stands for the unattributed bytes of the inbound.
CREATE TABLE usage_keys (
    no                  INTEGER NOT NULL PRIMARY KEY,
    user_id             BLOB    REFERENCES users (id),
    inbound_no          INTEGER NOT NULL REFERENCES inbounds (no),
    account_start_ms    INTEGER NOT NULL,
    account_generation  INTEGER NOT NULL,
    rev                 INTEGER NOT NULL
) STRICT;

CREATE UNIQUE INDEX usage_keys_by_subject ON usage_keys
    (coalesce(user_id, x''), inbound_no, account_start_ms, account_generation);

-- How far each kernel counter was taken over: absolute within the slot's generation in the epoch.
CREATE TABLE cursors (
    epoch_no            INTEGER NOT NULL REFERENCES epochs (no),
    slot                INTEGER NOT NULL,
    generation          INTEGER NOT NULL,
    user_id             BLOB    REFERENCES users (id),
    inbound_no          INTEGER NOT NULL REFERENCES inbounds (no),
    upload_payload      INTEGER NOT NULL CHECK (upload_payload >= 0),
    download_payload    INTEGER NOT NULL CHECK (download_payload >= 0),
    upload_wire         INTEGER NOT NULL CHECK (upload_wire >= 0),
    download_wire       INTEGER NOT NULL CHECK (download_wire >= 0),
    rev                 INTEGER NOT NULL,
    PRIMARY KEY (epoch_no, slot, generation)
) STRICT, WITHOUT ROWID;

-- Everything that crossed an inbound, owned or not: what an audit compares with.
CREATE TABLE watched (
    epoch_no            INTEGER NOT NULL REFERENCES epochs (no),
    inbound_no          INTEGER NOT NULL REFERENCES inbounds (no),
    upload_payload      INTEGER NOT NULL CHECK (upload_payload >= 0),
    download_payload    INTEGER NOT NULL CHECK (download_payload >= 0),
    upload_wire         INTEGER NOT NULL CHECK (upload_wire >= 0),
    download_wire       INTEGER NOT NULL CHECK (download_wire >= 0),
    rev                 INTEGER NOT NULL,
    PRIMARY KEY (epoch_no, inbound_no)
) STRICT, WITHOUT ROWID;

-- Sums per account and kernel epoch. They grow in the same transaction as the cursors.
CREATE TABLE usage_totals (
    key_no              INTEGER NOT NULL REFERENCES usage_keys (no),
    epoch_no            INTEGER NOT NULL REFERENCES epochs (no),
    upload_payload      INTEGER NOT NULL CHECK (upload_payload >= 0),
    download_payload    INTEGER NOT NULL CHECK (download_payload >= 0),
    upload_wire         INTEGER NOT NULL CHECK (upload_wire >= 0),
    download_wire       INTEGER NOT NULL CHECK (download_wire >= 0),
    first_ms            INTEGER NOT NULL,
    last_ms             INTEGER NOT NULL,
    rev                 INTEGER NOT NULL,
    PRIMARY KEY (key_no, epoch_no)
) STRICT, WITHOUT ROWID;

-- Buckets begin with the instant: one tick's rows lie together (few pages to write), and what is
-- past its retention is one range. One user's rows are found by one look-up per bucket.
CREATE TABLE usage_minutes (
    start_ms            INTEGER NOT NULL,
    key_no              INTEGER NOT NULL,
    upload_payload      INTEGER NOT NULL CHECK (upload_payload >= 0),
    download_payload    INTEGER NOT NULL CHECK (download_payload >= 0),
    upload_wire         INTEGER NOT NULL CHECK (upload_wire >= 0),
    download_wire       INTEGER NOT NULL CHECK (download_wire >= 0),
    rev                 INTEGER NOT NULL,
    PRIMARY KEY (start_ms, key_no)
) STRICT, WITHOUT ROWID;

CREATE TABLE usage_hours (
    start_ms            INTEGER NOT NULL,
    key_no              INTEGER NOT NULL,
    upload_payload      INTEGER NOT NULL CHECK (upload_payload >= 0),
    download_payload    INTEGER NOT NULL CHECK (download_payload >= 0),
    upload_wire         INTEGER NOT NULL CHECK (upload_wire >= 0),
    download_wire       INTEGER NOT NULL CHECK (download_wire >= 0),
    rev                 INTEGER NOT NULL,
    PRIMARY KEY (start_ms, key_no)
) STRICT, WITHOUT ROWID;

CREATE TABLE usage_days (
    start_ms            INTEGER NOT NULL,
    key_no              INTEGER NOT NULL,
    upload_payload      INTEGER NOT NULL CHECK (upload_payload >= 0),
    download_payload    INTEGER NOT NULL CHECK (download_payload >= 0),
    upload_wire         INTEGER NOT NULL CHECK (upload_wire >= 0),
    download_wire       INTEGER NOT NULL CHECK (download_wire >= 0),
    rev                 INTEGER NOT NULL,
    PRIMARY KEY (start_ms, key_no)
) STRICT, WITHOUT ROWID;

-- What happened and why. Append-only; `no` is the order in this ledger.
CREATE TABLE events (
    no                  INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    id                  BLOB    NOT NULL UNIQUE CHECK (length(id) = 16),
    at_ms               INTEGER NOT NULL,
    kind                TEXT    NOT NULL,
    user_id             BLOB    REFERENCES users (id),
    actor               TEXT    NOT NULL,
    data                TEXT    NOT NULL CHECK (json_valid(data)),
    rev                 INTEGER NOT NULL
) STRICT;

CREATE INDEX events_by_time ON events (at_ms);
CREATE INDEX events_by_user ON events (user_id, no) WHERE user_id IS NOT NULL;
