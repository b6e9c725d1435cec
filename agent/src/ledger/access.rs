//! Who comes in by the web: the admin's password and second factor, sessions, tokens. How often
//! somebody may try is in [`super::attempts`]. Only hashes of secrets are here, but for the second
//! factor's, which codes are made of.

use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    attempts,
    commit::Stale,
    error::{CommitError, QueryError},
    idempotency,
    reader::Reader,
    records::{Asked, Refusal},
    writer::{Ledger, Reply},
};

/// A session that nobody used for so long is over.
pub const IDLE_MS: i64 = 12 * 3_600_000;
/// Sessions at a time; the one not seen for longest goes first.
const SESSIONS_MAX: i64 = 100;
/// Tokens at a time.
const TOKENS_MAX: i64 = 200;
/// How exactly it is kept when a session or token was last seen.
const SEEN_EVERY_MS: i64 = 60_000;

/// The one account of the panel.
#[derive(Clone, PartialEq, Eq)]
pub struct PanelAdmin {
    /// Argon2id, as PHC text.
    pub password: String,
    pub totp: Option<Vec<u8>>,
    pub totp_offered: Option<Vec<u8>>,
    pub totp_step: i64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionRecord {
    pub id: Uuid,
    pub created_ms: i64,
    pub seen_ms: i64,
    pub expires_ms: i64,
    pub address: String,
    pub browser: String,
}

/// A session that is about to begin.
pub struct NewSession {
    pub secret_hash: [u8; 32],
    pub expires_ms: i64,
    pub address: String,
    /// Whose attempts are given back.
    pub bucket: String,
    pub browser: String,
    /// What the password was compared with: if it was changed meanwhile, nobody comes in.
    pub password: String,
    /// The step of the code, if the account asks for one.
    pub totp_step: Option<i64>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRecord {
    pub id: Uuid,
    pub name: String,
    /// `read`, `users` or `admin`.
    pub scope: String,
    pub created_ms: i64,
    pub expires_ms: Option<i64>,
    pub used_ms: Option<i64>,
}

pub struct NewToken {
    pub name: String,
    pub scope: String,
    pub secret_hash: [u8; 32],
    pub expires_ms: Option<i64>,
}

/// Which sessions end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    One(Uuid),
    AllBut(Option<Uuid>),
}

const SESSION: &str = "SELECT id, created_ms, seen_ms, expires_ms, address, browser FROM panel_sessions";
const TOKEN: &str = "SELECT id, name, scope, created_ms, expires_ms, used_ms FROM panel_tokens";

fn session(row: &Row<'_>) -> rusqlite::Result<SessionRecord> {
    Ok(SessionRecord {
        id: Uuid::from_bytes(row.get(0)?),
        created_ms: row.get(1)?,
        seen_ms: row.get(2)?,
        expires_ms: row.get(3)?,
        address: row.get(4)?,
        browser: row.get(5)?,
    })
}

fn token(row: &Row<'_>) -> rusqlite::Result<TokenRecord> {
    Ok(TokenRecord {
        id: Uuid::from_bytes(row.get(0)?),
        name: row.get(1)?,
        scope: row.get(2)?,
        created_ms: row.get(3)?,
        expires_ms: row.get(4)?,
        used_ms: row.get(5)?,
    })
}

fn admin(connection: &Connection) -> rusqlite::Result<Option<PanelAdmin>> {
    connection
        .prepare_cached("SELECT password, totp, totp_offered, totp_step FROM panel_admin")?
        .query_row([], |row| {
            Ok(PanelAdmin {
                password: row.get(0)?,
                totp: row.get(1)?,
                totp_offered: row.get(2)?,
                totp_step: row.get(3)?,
            })
        })
        .optional()
}

fn invalid(text: &str) -> CommitError {
    Refusal::Invalid(text.to_owned()).into()
}

/// Takes a step of the second factor, once.
fn take_step(transaction: &Transaction<'_>, step: i64, rev: i64) -> Result<(), CommitError> {
    let taken = transaction.execute(
        "UPDATE panel_admin SET totp_step = ?1, rev = ?2 WHERE totp_step < ?1",
        params![step, rev],
    )?;
    match taken {
        0 => Err(invalid("this code was used already: wait for the next one")),
        _ => Ok(()),
    }
}

fn begin(
    transaction: &Transaction<'_>,
    new: &NewSession,
    asked: &Asked,
    rev: i64,
) -> Result<SessionRecord, CommitError> {
    match admin(transaction)? {
        Some(admin) if admin.password == new.password && admin.totp.is_some() == new.totp_step.is_some() => {}
        _ => return Err(invalid("the way in was changed meanwhile: try again")),
    }
    if let Some(step) = new.totp_step {
        take_step(transaction, step, rev)?;
        attempts::give_back_code(transaction, asked.at_ms)?;
    }
    attempts::give_back(transaction, &new.bucket, asked.at_ms)?;
    transaction.execute(
        "DELETE FROM panel_sessions WHERE expires_ms <= ?1 OR seen_ms <= ?2",
        [asked.at_ms, asked.at_ms - IDLE_MS],
    )?;
    transaction.execute(
        "DELETE FROM panel_sessions WHERE id IN
             (SELECT id FROM panel_sessions ORDER BY seen_ms
              LIMIT max(0, (SELECT count(*) FROM panel_sessions) - ?1 + 1))",
        [SESSIONS_MAX],
    )?;
    let id = Uuid::now_v7();
    transaction.execute(
        "INSERT INTO panel_sessions VALUES (?1, ?2, ?3, ?3, ?4, ?5, ?6)",
        params![id.into_bytes(), new.secret_hash, asked.at_ms, new.expires_ms, new.address, new.browser],
    )?;
    let data = json!({ "from": new.address, "browser": new.browser, "session": id });
    asked.event(transaction, "signed_in", None, data, rev)?;
    Ok(SessionRecord {
        id,
        created_ms: asked.at_ms,
        seen_ms: asked.at_ms,
        expires_ms: new.expires_ms,
        address: new.address.clone(),
        browser: new.browser.clone(),
    })
}

fn end(transaction: &Transaction<'_>, ended: Ended) -> rusqlite::Result<usize> {
    match ended {
        Ended::One(id) => transaction.execute("DELETE FROM panel_sessions WHERE id = ?1", [id.into_bytes()]),
        Ended::AllBut(kept) => {
            let kept = kept.unwrap_or_default().into_bytes();
            transaction.execute("DELETE FROM panel_sessions WHERE id <> ?1", [kept])
        }
    }
}

fn set_password(
    transaction: &Transaction<'_>,
    new: &str,
    before: Option<&str>,
    keep: Option<Uuid>,
    asked: &Asked,
    rev: i64,
) -> Result<(), CommitError> {
    let known = admin(transaction)?.map(|admin| admin.password);
    if known.as_deref() != before {
        return Err(invalid("the password was changed meanwhile"));
    }
    transaction.execute(
        "INSERT INTO panel_admin (only_row, password, password_ms, rev) VALUES (1, ?1, ?2, ?3)
         ON CONFLICT (only_row) DO UPDATE SET password = ?1, password_ms = ?2, rev = ?3",
        params![new, asked.at_ms, rev],
    )?;
    attempts::forget_codes(transaction, asked.at_ms)?;
    let ended = end(transaction, Ended::AllBut(keep))?;
    let data = json!({ "first": before.is_none(), "sessions_ended": ended });
    Ok(asked.event(transaction, "password_changed", None, data, rev)?)
}

fn set_totp(
    transaction: &Transaction<'_>,
    (secret, step): (&[u8], Option<i64>),
    on: bool,
    asked: &Asked,
    rev: i64,
) -> Result<(), CommitError> {
    // Only the secret that the code was of: another page may have had another one offered meanwhile.
    let sql = match on {
        true => "UPDATE panel_admin SET totp = totp_offered, totp_offered = NULL WHERE totp_offered = ?1",
        false => "UPDATE panel_admin SET totp = NULL, totp_offered = NULL WHERE totp = ?1",
    };
    if transaction.execute(sql, [secret])? == 0 {
        return Err(invalid("the second factor was changed meanwhile"));
    }
    if let Some(step) = step {
        take_step(transaction, step, rev)?;
        attempts::give_back_code(transaction, asked.at_ms)?;
    }
    let kind = if on { "totp_on" } else { "totp_off" };
    Ok(asked.event(transaction, kind, None, json!({}), rev)?)
}

fn add_token(
    transaction: &Transaction<'_>,
    new: &NewToken,
    asked: &Asked,
    rev: i64,
) -> Result<TokenRecord, CommitError> {
    idempotency::claim(transaction, asked)?;
    let (taken, count): (bool, i64) = transaction.query_row(
        "SELECT EXISTS (SELECT 1 FROM panel_tokens WHERE name = ?1), (SELECT count(*) FROM panel_tokens)",
        [&new.name],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    if taken {
        return Err(Refusal::NameTaken("token", new.name.clone()).into());
    }
    if count >= TOKENS_MAX {
        return Err(invalid("there are too many tokens: delete some"));
    }
    let id = Uuid::now_v7();
    transaction.execute(
        "INSERT INTO panel_tokens VALUES (?1, ?2, ?3, ?4, ?5, ?6, NULL)",
        params![id.into_bytes(), new.name, new.secret_hash, new.scope, asked.at_ms, new.expires_ms],
    )?;
    let data = json!({ "token": new.name, "scope": new.scope, "expires_ms": new.expires_ms });
    asked.event(transaction, "token_added", None, data, rev)?;
    Ok(TokenRecord {
        id,
        name: new.name.clone(),
        scope: new.scope.clone(),
        created_ms: asked.at_ms,
        expires_ms: new.expires_ms,
        used_ms: None,
    })
}

/// An event about the way in, without more than it says.
fn note(
    transaction: &Transaction<'_>,
    asked: &Asked,
    kind: &str,
    data: Value,
    rev: i64,
) -> Result<(), CommitError> {
    Ok(asked.event(transaction, kind, None, data, rev)?)
}

impl Ledger {
    /// Begins a session, and gives back what trying it has cost.
    pub fn begin_session(&self, new: NewSession, asked: Asked) -> Reply<SessionRecord> {
        self.send(move |writer| {
            writer.change(Stale::Revision, |transaction, rev| begin(transaction, &new, &asked, rev))
        })
    }

    /// A wrong password or code, for the audit trail.
    pub fn sign_in_failed(&self, address: String, why: &'static str, asked: Asked) -> Reply<()> {
        self.send(move |writer| {
            writer.change(Stale::Revision, |transaction, rev| {
                let data = json!({ "from": address, "why": why, "severity": "warning" });
                note(transaction, &asked, "sign_in_failed", data, rev)
            })
        })
    }

    /// How many there were.
    pub fn end_sessions(&self, ended: Ended, asked: Asked) -> Reply<usize> {
        self.send(move |writer| {
            writer.change(Stale::Revision, |transaction, rev| {
                let count = end(transaction, ended)?;
                if count > 0 {
                    let kind = match ended {
                        Ended::One(_) => "session_ended",
                        Ended::AllBut(_) => "sessions_ended",
                    };
                    note(transaction, &asked, kind, json!({ "sessions": count }), rev)?;
                }
                Ok(count)
            })
        })
    }

    /// Keeps when and from where a session was seen; not more often than it is shown.
    pub fn session_seen(&self, known: SessionRecord, address: String, at_ms: i64) -> Option<Reply<()>> {
        (at_ms - known.seen_ms >= SEEN_EVERY_MS).then(|| {
            self.send(move |writer| {
                let sql = "UPDATE panel_sessions SET seen_ms = max(seen_ms, ?2), address = ?3 WHERE id = ?1";
                writer.connection.execute(sql, params![known.id.into_bytes(), at_ms, address])?;
                Ok(())
            })
        })
    }

    /// As [`Ledger::session_seen`], of a token.
    pub fn token_used(&self, known: &TokenRecord, at_ms: i64) -> Option<Reply<()>> {
        let id = known.id.into_bytes();
        known.used_ms.is_none_or(|used| at_ms - used >= SEEN_EVERY_MS).then(|| {
            self.send(move |writer| {
                let sql = "UPDATE panel_tokens SET used_ms = ?2 WHERE id = ?1";
                writer.connection.execute(sql, params![id, at_ms])?;
                Ok(())
            })
        })
    }

    /// Another password in the place of `before`; ends every session but `keep`.
    pub fn set_password(
        &self,
        new: String,
        before: Option<String>,
        keep: Option<Uuid>,
        asked: Asked,
    ) -> Reply<()> {
        self.send(move |writer| {
            writer.change(Stale::Revision, |transaction, rev| {
                set_password(transaction, &new, before.as_deref(), keep, &asked, rev)
            })
        })
    }

    /// A second factor that is not asked for yet.
    pub fn offer_totp(&self, secret: Vec<u8>) -> Reply<()> {
        self.send(move |writer| {
            writer.change(Stale::Revision, |transaction, rev| {
                let sql = "UPDATE panel_admin SET totp_offered = ?1, rev = ?2 WHERE totp IS NULL";
                match transaction.execute(sql, params![secret, rev])? {
                    0 => Err(invalid("there is a second factor already, or no password yet")),
                    _ => Ok(()),
                }
            })
        })
    }

    /// Turns the second factor of this secret on or off; a secret that is not the offered one, or not the
    /// one that is on, is refused. `step` is that of the code which proves it; root turns it off without.
    pub fn set_totp(&self, secret: Vec<u8>, step: Option<i64>, on: bool, asked: Asked) -> Reply<()> {
        self.send(move |writer| {
            writer.change(Stale::Revision, |transaction, rev| {
                set_totp(transaction, (&secret, step), on, &asked, rev)
            })
        })
    }

    pub fn add_token(&self, new: NewToken, asked: Asked) -> Reply<TokenRecord> {
        self.send(move |writer| {
            writer.change(Stale::Revision, |transaction, rev| add_token(transaction, &new, &asked, rev))
        })
    }

    /// Whether there was one.
    pub fn delete_token(&self, id: Uuid, asked: Asked) -> Reply<bool> {
        self.send(move |writer| {
            writer.change(Stale::Revision, |transaction, rev| {
                let name: Option<String> = transaction
                    .query_row(
                        "DELETE FROM panel_tokens WHERE id = ?1 RETURNING name",
                        [id.into_bytes()],
                        |row| row.get(0),
                    )
                    .optional()?;
                let Some(name) = name else { return Ok(false) };
                note(transaction, &asked, "token_deleted", json!({ "token": name }), rev)?;
                Ok(true)
            })
        })
    }
}

impl Reader {
    /// The panel's account; `None` before it has a password.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub fn panel_admin(&self) -> Result<Option<PanelAdmin>, QueryError> {
        Ok(admin(self.connection())?)
    }

    /// The session of a secret, if it goes on.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub fn session(&self, secret_hash: &[u8; 32], now_ms: i64) -> Result<Option<SessionRecord>, QueryError> {
        let sql = format!("{SESSION} WHERE secret_hash = ?1 AND expires_ms > ?2 AND seen_ms > ?3");
        let mut statement = self.connection().prepare_cached(&sql)?;
        Ok(statement.query_row(params![secret_hash, now_ms, now_ms - IDLE_MS], session).optional()?)
    }

    /// Those that go on, the one last seen first.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub fn sessions(&self, now_ms: i64) -> Result<Vec<SessionRecord>, QueryError> {
        let sql = format!("{SESSION} WHERE expires_ms > ?1 AND seen_ms > ?2 ORDER BY seen_ms DESC, id DESC");
        let mut statement = self.connection().prepare_cached(&sql)?;
        Ok(statement.query_map([now_ms, now_ms - IDLE_MS], session)?.collect::<Result<_, _>>()?)
    }

    /// The token of a secret, if it is not over.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub fn token(&self, secret_hash: &[u8; 32], now_ms: i64) -> Result<Option<TokenRecord>, QueryError> {
        let sql = format!("{TOKEN} WHERE secret_hash = ?1 AND (expires_ms IS NULL OR expires_ms > ?2)");
        let mut statement = self.connection().prepare_cached(&sql)?;
        Ok(statement.query_row(params![secret_hash, now_ms], token).optional()?)
    }

    /// By name.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub fn tokens(&self) -> Result<Vec<TokenRecord>, QueryError> {
        let mut statement = self.connection().prepare_cached(&format!("{TOKEN} ORDER BY name"))?;
        Ok(statement.query_map([], token)?.collect::<Result<_, _>>()?)
    }
}
