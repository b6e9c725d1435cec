//! How many: a user's concurrent flows and client addresses, and whether the account is shared.
