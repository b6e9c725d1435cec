-- Who comes in by the web: the admin's password, sessions, tokens, and how often somebody may try.
-- Secrets of sessions and tokens are random, so that a plain hash keeps them as well as a slow one.

CREATE TABLE panel_admin (
    only_row            INTEGER NOT NULL PRIMARY KEY CHECK (only_row = 1),
    -- Argon2id, as PHC text.
    password            TEXT    NOT NULL,
    password_ms         INTEGER NOT NULL,
    -- The second factor; offered until a code of it was seen.
    totp                BLOB,
    totp_offered        BLOB,
    -- The last step whose code was taken: an older one is not taken again.
    totp_step           INTEGER NOT NULL DEFAULT 0,
    rev                 INTEGER NOT NULL
) STRICT;

CREATE TABLE panel_sessions (
    id                  BLOB    NOT NULL PRIMARY KEY CHECK (length(id) = 16),
    secret_hash         BLOB    NOT NULL UNIQUE CHECK (length(secret_hash) = 32),
    created_ms          INTEGER NOT NULL,
    seen_ms             INTEGER NOT NULL,
    expires_ms          INTEGER NOT NULL,
    address             TEXT    NOT NULL,
    browser             TEXT    NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE panel_tokens (
    id                  BLOB    NOT NULL PRIMARY KEY CHECK (length(id) = 16),
    name                TEXT    NOT NULL UNIQUE,
    secret_hash         BLOB    NOT NULL UNIQUE CHECK (length(secret_hash) = 32),
    scope               TEXT    NOT NULL CHECK (scope IN ('read', 'users', 'admin')),
    created_ms          INTEGER NOT NULL,
    expires_ms          INTEGER,
    used_ms             INTEGER
) STRICT, WITHOUT ROWID;

-- Buckets of attempts: what was left at a moment, in thousandths of an attempt. Full ones have no row.
CREATE TABLE panel_attempts (
    who                 TEXT    NOT NULL PRIMARY KEY,
    left_milli          INTEGER NOT NULL,
    at_ms               INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
