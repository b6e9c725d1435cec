-- Services that keep totals themselves: how far each of their counters was taken over.

-- A service without a row was never seen: what it has counted then is its baseline.
CREATE TABLE services (
    name                TEXT    NOT NULL PRIMARY KEY,
    -- What it is, and where it says its totals: another one of the same name is as one that was never seen.
    kind                TEXT    NOT NULL,
    status              TEXT    NOT NULL,
    -- From which of its starts the cursors are; NULL where that cannot be told. The boot of the machine, the
    -- process (0: not known), and the time after that boot.
    boot                BLOB    CHECK (length(boot) = 16),
    pid                 INTEGER CHECK (pid >= 0),
    started_ms          INTEGER,
    -- What its answer said of itself, where it does: when it has read its configuration, when it answered (both by
    -- its own clock), how many requests there were since its start, and how many its counters have.
    loaded_ms           INTEGER CHECK (loaded_ms >= 0),
    answered_ms         INTEGER CHECK (answered_ms >= 0),
    requests            INTEGER CHECK (requests >= 0),
    counted             INTEGER CHECK (counted >= 0),
    -- Which reading of which start of the agent was committed last: an older one that comes late changes nothing.
    reporter            BLOB    NOT NULL CHECK (length(reporter) = 16),
    reading             INTEGER NOT NULL CHECK (reading >= 0),
    at_ms               INTEGER NOT NULL,
    rev                 INTEGER NOT NULL,
    CHECK ((boot IS NULL) = (pid IS NULL) AND (boot IS NULL) = (started_ms IS NULL))
) STRICT, WITHOUT ROWID;

-- The name of a counter is hashed: clients may choose it, as long as they like.
CREATE TABLE service_cursors (
    service             TEXT    NOT NULL REFERENCES services (name),
    key                 BLOB    NOT NULL CHECK (length(key) = 16),
    upload              INTEGER NOT NULL CHECK (upload >= 0),
    download            INTEGER NOT NULL CHECK (download >= 0),
    -- 1: the counter vanished, and if it comes back it may be where it was.
    vanished            INTEGER NOT NULL CHECK (vanished IN (0, 1)),
    PRIMARY KEY (service, key)
) STRICT, WITHOUT ROWID;

-- Names whose users somebody deleted: a service that still counts one makes nobody of it, until somebody makes a
-- user of that name again. Hashed with a salt, so that a purge leaves no name.
CREATE TABLE gone_names (
    hash                BLOB    NOT NULL PRIMARY KEY CHECK (length(hash) = 32),
    at_ms               INTEGER NOT NULL,
    rev                 INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE gone_salt (
    only_row            INTEGER NOT NULL PRIMARY KEY CHECK (only_row = 1),
    salt                BLOB    NOT NULL CHECK (length(salt) = 32)
) STRICT;
INSERT INTO gone_salt VALUES (1, randomblob(32));
