-- The panel's public part: what opens a user's own page and subscription, and how links are written.

-- The secret itself is kept, since an admin may see the link again; it is found by its hash, so that how
-- long a search takes says nothing about it. Gone with its user.
CREATE TABLE subscriptions (
    user_id             BLOB    NOT NULL PRIMARY KEY REFERENCES users (id),
    token               TEXT    NOT NULL,
    token_hash          BLOB    NOT NULL UNIQUE CHECK (length(token_hash) = 32),
    created_ms          INTEGER NOT NULL,
    rev                 INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE sharing (
    only_row            INTEGER NOT NULL PRIMARY KEY CHECK (only_row = 1),
    settings            TEXT    NOT NULL CHECK (json_valid(settings)),
    rev                 INTEGER NOT NULL
) STRICT;
