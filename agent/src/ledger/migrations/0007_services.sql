-- Services that keep totals themselves: how far each of their counters was taken over.

-- A service without a row was never seen: what it has counted then is its baseline.
CREATE TABLE services (
    name                TEXT    NOT NULL PRIMARY KEY,
    -- From which of its starts the cursors are; NULL where that cannot be told. The boot of the machine, the
    -- process (0: not known), and the time after that boot.
    boot                BLOB    CHECK (length(boot) = 16),
    pid                 INTEGER CHECK (pid >= 0),
    started_ms          INTEGER,
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
    PRIMARY KEY (service, key)
) STRICT, WITHOUT ROWID;
