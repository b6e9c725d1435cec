-- The rule that each running account goes by: another reset day or zone must not end it early. NULL: what
-- held when it began is not known; it is noted at the first look.
ALTER TABLE users ADD COLUMN account_rule TEXT CHECK (account_rule IS NULL OR json_valid(account_rule));

-- Who wants a deleted user purged as soon as the entry is nowhere any more.
ALTER TABLE users ADD COLUMN purge_actor TEXT;
