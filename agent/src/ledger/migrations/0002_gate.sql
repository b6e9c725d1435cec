-- The gate: plans, each user's own settings, what was bought, what was taken out of the proxy's
-- configuration, and bytes that only the proxy itself knows of.
--
-- Run with foreign keys off; a step in Rust follows, which makes the built-in policies and moves the
-- users over into `users_2`, which then is `users`.

-- Ids never change, names may. A policy that is in use is not deleted.
CREATE TABLE policies (
    id                  BLOB    NOT NULL PRIMARY KEY CHECK (length(id) = 16),
    name                TEXT    NOT NULL,
    terms               TEXT    NOT NULL CHECK (json_valid(terms)),
    built_in            INTEGER NOT NULL CHECK (built_in IN (0, 1)),
    tombstoned_ms       INTEGER,
    rev                 INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX policies_by_name ON policies (name) WHERE tombstoned_ms IS NULL;

CREATE TABLE users_2 (
    id                  BLOB    NOT NULL PRIMARY KEY CHECK (length(id) = 16),
    name                TEXT    NOT NULL,
    created_ms          INTEGER NOT NULL,
    tombstoned_ms       INTEGER,
    purged_ms           INTEGER,
    -- An edit of the proxy's configuration that is decided and not seen in the file yet.
    file_state          TEXT    NOT NULL CHECK (file_state IN ('adding', 'settled', 'removing')),
    policy_id           BLOB    NOT NULL REFERENCES policies (id),
    overrides           TEXT    NOT NULL CHECK (json_valid(overrides)),
    -- What people decided; the state that follows from it and from usage is below.
    admin_state         TEXT    NOT NULL CHECK (admin_state IN ('enabled', 'disabled', 'suspended')),
    admin_since_ms      INTEGER NOT NULL,
    admin_actor         TEXT    NOT NULL,
    admin_why           TEXT,
    -- Of a suspension: when it ends by itself, and what was seen.
    admin_until_ms      INTEGER,
    admin_evidence      TEXT    CHECK (admin_evidence IS NULL OR json_valid(admin_evidence)),
    -- The account in force: usage is tagged with it when it is counted.
    account_start_ms    INTEGER NOT NULL,
    account_generation  INTEGER NOT NULL,
    -- Percentages at which a warning was given in this account.
    warned              TEXT    NOT NULL CHECK (json_valid(warned)),
    first_use_ms        INTEGER,
    expires_ms          INTEGER,
    email               TEXT,
    note                TEXT,
    -- As last decided, so that "limited since" outlives the agent.
    state               TEXT    NOT NULL,
    state_cause         TEXT    NOT NULL,
    state_since_ms      INTEGER NOT NULL,
    -- The revision of the last change by people: what `if_rev` is compared with.
    settings_rev        INTEGER NOT NULL,
    rev                 INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- How much of the kernel's counters of one user is taken over is asked after each change of the user.
CREATE INDEX cursors_by_user ON cursors (user_id, epoch_no) WHERE user_id IS NOT NULL;

-- What a user was given and what of it was spent. Append-only: what is left is a sum.
CREATE TABLE wallet_entries (
    no                  INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    id                  BLOB    NOT NULL UNIQUE CHECK (length(id) = 16),
    user_id             BLOB    NOT NULL REFERENCES users (id),
    at_ms               INTEGER NOT NULL,
    kind                TEXT    NOT NULL CHECK (kind IN ('package', 'rollover', 'adjustment', 'spent', 'settled')),
    -- What the entry adds to the user's rights; negative for what is spent. Of `settled` it is no money:
    -- the byte of the account up to which packages are not asked any more.
    bytes               INTEGER NOT NULL,
    expires_ms          INTEGER,
    -- Of `spent`: from which package, rollover or adjustment.
    package_id          BLOB    REFERENCES wallet_entries (id),
    -- Of `spent`, `settled` and `rollover`: the account that it is about.
    account_start_ms    INTEGER,
    account_generation  INTEGER,
    actor               TEXT    NOT NULL,
    note                TEXT,
    rev                 INTEGER NOT NULL,
    CHECK ((kind = 'spent') = (package_id IS NOT NULL)),
    CHECK (kind NOT IN ('package', 'rollover', 'settled') OR bytes > 0),
    CHECK (kind <> 'spent' OR bytes < 0),
    CHECK ((kind IN ('spent', 'settled', 'rollover')) = (account_start_ms IS NOT NULL)),
    CHECK ((account_start_ms IS NULL) = (account_generation IS NULL))
) STRICT;

CREATE INDEX wallet_entries_by_user ON wallet_entries (user_id, no);

CREATE INDEX wallet_entries_by_package ON wallet_entries (package_id) WHERE package_id IS NOT NULL;

-- What an account leaves to the next one is booked once.
CREATE UNIQUE INDEX wallet_rolled_over_once ON wallet_entries
    (user_id, account_start_ms, account_generation) WHERE kind = 'rollover';

CREATE TRIGGER wallet_entries_stay BEFORE DELETE ON wallet_entries
BEGIN
    SELECT raise(ABORT, 'wallet entries are never deleted');
END;

-- Only a note may go, with the person that it is about.
CREATE TRIGGER wallet_entries_are_facts BEFORE UPDATE OF
    id, user_id, at_ms, kind, bytes, expires_ms, package_id, account_start_ms, account_generation, actor
    ON wallet_entries
BEGIN
    SELECT raise(ABORT, 'wallet entries are never changed');
END;

-- Entries of users that boxmeter takes out of the proxy's configuration, or is about to put there.
-- leaving: to be taken out; out: taken out; returning: to be put in; back: put in by somebody else.
CREATE TABLE parked (
    user_id             BLOB    NOT NULL REFERENCES users (id),
    inbound_tag         TEXT    NOT NULL,
    -- From 0, where one name stands several times in one inbound.
    nth                 INTEGER NOT NULL,
    stage               TEXT    NOT NULL CHECK (stage IN ('leaving', 'out', 'returning', 'back')),
    -- The enforcer's own record, with the entry's exact text: it has credentials.
    entry               TEXT    NOT NULL CHECK (json_valid(entry)),
    at_ms               INTEGER NOT NULL,
    rev                 INTEGER NOT NULL,
    PRIMARY KEY (user_id, inbound_tag, nth)
) STRICT, WITHOUT ROWID;

-- Changes that were asked for with a key: asked again, they are answered and not done again.
CREATE TABLE idempotency_keys (
    actor               TEXT    NOT NULL,
    key                 TEXT    NOT NULL,
    request             BLOB    NOT NULL CHECK (length(request) = 32),
    at_ms               INTEGER NOT NULL,
    -- Written after the change: NULL if the agent died between the two.
    status              INTEGER,
    answer              TEXT,
    PRIMARY KEY (actor, key)
) STRICT, WITHOUT ROWID;

CREATE INDEX idempotency_keys_by_age ON idempotency_keys (at_ms);

-- Bytes that the kernel does not see on a watched socket, as the proxy (or, at an import, another
-- system) tells them. In columns of their own: no audit counts them.
ALTER TABLE usage_totals  ADD COLUMN reported_upload   INTEGER NOT NULL DEFAULT 0 CHECK (reported_upload >= 0);
ALTER TABLE usage_totals  ADD COLUMN reported_download INTEGER NOT NULL DEFAULT 0 CHECK (reported_download >= 0);
ALTER TABLE usage_minutes ADD COLUMN reported_upload   INTEGER NOT NULL DEFAULT 0 CHECK (reported_upload >= 0);
ALTER TABLE usage_minutes ADD COLUMN reported_download INTEGER NOT NULL DEFAULT 0 CHECK (reported_download >= 0);
ALTER TABLE usage_hours   ADD COLUMN reported_upload   INTEGER NOT NULL DEFAULT 0 CHECK (reported_upload >= 0);
ALTER TABLE usage_hours   ADD COLUMN reported_download INTEGER NOT NULL DEFAULT 0 CHECK (reported_download >= 0);
ALTER TABLE usage_days    ADD COLUMN reported_upload   INTEGER NOT NULL DEFAULT 0 CHECK (reported_upload >= 0);
ALTER TABLE usage_days    ADD COLUMN reported_download INTEGER NOT NULL DEFAULT 0 CHECK (reported_download >= 0);

-- How far each reporter's counters were taken over. A reporter is one start of the agent, or one
-- file that was imported; its counters begin at 0 and only grow.
CREATE TABLE reported_cursors (
    reporter            BLOB    NOT NULL CHECK (length(reporter) = 16),
    user_id             BLOB    NOT NULL REFERENCES users (id),
    inbound_no          INTEGER NOT NULL REFERENCES inbounds (no),
    upload              INTEGER NOT NULL CHECK (upload >= 0),
    download            INTEGER NOT NULL CHECK (download >= 0),
    rev                 INTEGER NOT NULL,
    PRIMARY KEY (reporter, user_id, inbound_no)
) STRICT, WITHOUT ROWID;

-- How far each connection was when its bytes were last taken over: the next start of the agent
-- counts on from there when the proxy tells the same connection again.
CREATE TABLE reported_connections (
    id                  TEXT    NOT NULL PRIMARY KEY,
    upload              INTEGER NOT NULL CHECK (upload >= 0),
    download            INTEGER NOT NULL CHECK (download >= 0),
    at_ms               INTEGER NOT NULL,
    ended               INTEGER NOT NULL CHECK (ended IN (0, 1))
) STRICT, WITHOUT ROWID;

-- Everything that crossed an inbound, by time: what an audit of a range compares with.
CREATE TABLE watched_minutes (
    start_ms            INTEGER NOT NULL,
    inbound_no          INTEGER NOT NULL,
    upload_payload      INTEGER NOT NULL CHECK (upload_payload >= 0),
    download_payload    INTEGER NOT NULL CHECK (download_payload >= 0),
    upload_wire         INTEGER NOT NULL CHECK (upload_wire >= 0),
    download_wire       INTEGER NOT NULL CHECK (download_wire >= 0),
    rev                 INTEGER NOT NULL,
    PRIMARY KEY (start_ms, inbound_no)
) STRICT, WITHOUT ROWID;

CREATE TABLE watched_hours (
    start_ms            INTEGER NOT NULL,
    inbound_no          INTEGER NOT NULL,
    upload_payload      INTEGER NOT NULL CHECK (upload_payload >= 0),
    download_payload    INTEGER NOT NULL CHECK (download_payload >= 0),
    upload_wire         INTEGER NOT NULL CHECK (upload_wire >= 0),
    download_wire       INTEGER NOT NULL CHECK (download_wire >= 0),
    rev                 INTEGER NOT NULL,
    PRIMARY KEY (start_ms, inbound_no)
) STRICT, WITHOUT ROWID;

CREATE TABLE watched_days (
    start_ms            INTEGER NOT NULL,
    inbound_no          INTEGER NOT NULL,
    upload_payload      INTEGER NOT NULL CHECK (upload_payload >= 0),
    download_payload    INTEGER NOT NULL CHECK (download_payload >= 0),
    upload_wire         INTEGER NOT NULL CHECK (upload_wire >= 0),
    download_wire       INTEGER NOT NULL CHECK (download_wire >= 0),
    rev                 INTEGER NOT NULL,
    PRIMARY KEY (start_ms, inbound_no)
) STRICT, WITHOUT ROWID;

-- Since when the buckets of watched bytes are complete.
ALTER TABLE meta ADD COLUMN watched_from_ms INTEGER NOT NULL DEFAULT -9223372036854775808;
