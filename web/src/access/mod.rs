//! Who comes in by the web: signing in, sessions, tokens, and what each may do.
//!
//! The panel only carries what a visitor presents; whoever answers (the agent) knows the secrets' hashes,
//! checks each call anew, and takes rights and the name in the audit trail from there.

mod remote;
mod rules;

use std::{fmt, net::IpAddr};

use async_trait::async_trait;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

pub use rules::{Need, need};

use crate::{
    api::{
        error::ApiError,
        fields::{Fields, FromFields},
        order::Envelope,
        routes::Access,
        time::Time,
        types::Schema,
    },
    backend::only_reads,
};

/// The one who may do everything. There are no other accounts; programs get tokens.
pub const ADMIN: &str = "admin";

/// Characters of a password, at least: length is what counts.
pub const PASSWORD_CHARS_MIN: usize = 10;
/// Bytes of a password, at most: hashing more is work for nothing.
pub const PASSWORD_BYTES_MAX: usize = 1000;
/// Bytes of a token's name.
const NAME_BYTES_MAX: usize = 100;

/// What somebody shows to be let in.
#[derive(Clone, PartialEq, Eq)]
pub enum Presented {
    /// Of a cookie.
    Session(String),
    /// Of `Authorization: Bearer`.
    Token(String),
}

/// Secrets are never printed.
impl fmt::Debug for Presented {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Presented::Session(_) => "Session(…)",
            Presented::Token(_) => "Token(…)",
        })
    }
}

/// For whom the panel asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Visitor {
    pub presented: Option<Presented>,
    /// The peer, or what a trusted proxy says.
    pub from: IpAddr,
    /// `User-Agent`, cut; for people who look at their sessions.
    pub browser: String,
    /// A page asks by itself, with nobody before it: that does not keep a session from ending.
    pub unattended: bool,
}

/// Who somebody is who was let in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Who {
    #[serde(default)]
    pub schema: Schema,
    /// `session`, `token`, or `socket` for who is on the machine itself.
    pub by: By,
    /// `admin`, a token's name, or `uid:0`.
    pub name: String,
    /// Of the session or token.
    pub id: String,
    pub access: Access,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Time>,
    /// Whether the account asks for a second factor.
    #[serde(default)]
    pub totp: bool,
}

impl Who {
    /// Who asks by the socket itself; whoever answers takes from there who it really is.
    pub fn on_the_machine() -> Self {
        Who {
            schema: Schema,
            by: By::Socket,
            name: String::new(),
            id: String::new(),
            access: Access::Admin,
            expires_at: None,
            totp: false,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum By {
    Session,
    Token,
    Socket,
}

/// `POST /session`.
#[derive(Clone, PartialEq, Eq, Serialize)]
pub struct SignIn {
    pub password: String,
    /// Of the second factor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
}

impl FromFields for SignIn {
    fn from_fields(fields: &mut Fields) -> Result<Self, ApiError> {
        Ok(SignIn { password: fields.need("password")?, code: fields.take("code")?.flatten() })
    }
}

/// The answer to a right password.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedIn {
    #[serde(default)]
    pub schema: Schema,
    /// For the cookie; told here and never again.
    pub session: String,
    pub expires_at: Time,
}

/// `GET /sessions`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionList {
    #[serde(default)]
    pub schema: Schema,
    /// The one last seen first.
    pub sessions: Vec<Session>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    pub id: String,
    pub created_at: Time,
    pub last_seen_at: Time,
    pub expires_at: Time,
    pub from: String,
    pub browser: String,
    /// The one that asks.
    pub current: bool,
}

/// Which sessions end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Which {
    One(String),
    /// All but the one that asks.
    Others,
}

/// `POST /password`. Root on the machine needs no `current`.
#[derive(Clone, PartialEq, Eq, Serialize)]
pub struct PasswordChange {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current: Option<String>,
    /// Absent: one is made and answered, which only root may ask for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub new: Option<String>,
    /// Only if there is no password yet.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub first: bool,
}

impl FromFields for PasswordChange {
    fn from_fields(fields: &mut Fields) -> Result<Self, ApiError> {
        Ok(PasswordChange {
            current: fields.take("current")?.flatten(),
            new: fields.take("new")?.flatten(),
            first: fields.take("first")?.unwrap_or(false),
        })
    }
}

impl PasswordChange {
    /// # Errors
    /// `Invalid` for a password that is too short or too long.
    pub fn check(&self) -> Result<(), ApiError> {
        let Some(new) = &self.new else { return Ok(()) };
        if new.chars().count() < PASSWORD_CHARS_MIN {
            let text = format!("at least {PASSWORD_CHARS_MIN} characters; a few words do well");
            return Err(ApiError::invalid("new", text));
        }
        if new.len() > PASSWORD_BYTES_MAX {
            return Err(ApiError::invalid("new", format!("at most {PASSWORD_BYTES_MAX} bytes")));
        }
        Ok(())
    }
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PasswordChanged {
    #[serde(default)]
    pub schema: Schema,
    /// The one that was made, told here and never again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
}

/// `POST /totp`: a secret to be confirmed by a code of it (RFC 6238, SHA-1, 6 digits, 30 s).
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TotpOffer {
    #[serde(default)]
    pub schema: Schema,
    /// Base32.
    pub secret: String,
    /// `otpauth://…`, as authenticators read it from a QR code.
    pub uri: String,
}

/// `PUT /totp` turns the offered second factor on; `DELETE /totp` turns it off. Both with a code.
#[derive(Clone, PartialEq, Eq, Serialize)]
pub struct TotpCode {
    pub code: String,
}

impl FromFields for TotpCode {
    fn from_fields(fields: &mut Fields) -> Result<Self, ApiError> {
        Ok(TotpCode { code: fields.need("code")? })
    }
}

/// `GET /tokens`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenList {
    #[serde(default)]
    pub schema: Schema,
    /// By name.
    pub tokens: Vec<Token>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    pub id: String,
    pub name: String,
    pub scope: Access,
    pub created_at: Time,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Time>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_used_at: Option<Time>,
}

/// `POST /tokens`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NewToken {
    pub name: String,
    pub scope: Access,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
}

impl FromFields for NewToken {
    fn from_fields(fields: &mut Fields) -> Result<Self, ApiError> {
        Ok(NewToken {
            name: fields.need("name")?,
            scope: fields.need("scope")?,
            expires_at: fields.take("expires_at")?.flatten(),
        })
    }
}

impl NewToken {
    /// # Errors
    /// `Invalid` with the field's name.
    pub fn check(&self, now: Timestamp) -> Result<(), ApiError> {
        let name = self.name.trim();
        if name.is_empty() || name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control) {
            return Err(ApiError::invalid("name", format!("1 to {NAME_BYTES_MAX} bytes that can be seen")));
        }
        if self.expires_at.is_some_and(|at| at <= now) {
            return Err(ApiError::invalid("expires_at", "is over already"));
        }
        if self.scope == Access::Panel {
            return Err(ApiError::invalid("scope", "give read, users or admin"));
        }
        Ok(())
    }
}

/// The answer to a new token.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenAdded {
    #[serde(default)]
    pub schema: Schema,
    pub token: Token,
    /// Told here and never again.
    pub secret: String,
}

/// Whoever knows passwords, sessions and tokens. The router has asked [`need`] before a method is called.
#[async_trait]
pub trait Door: Send + Sync {
    /// Who presents this. `NotPermitted` for a secret that opens nothing (any more).
    async fn who(&self, _visitor: &Visitor) -> Result<Who, ApiError> {
        Err(only_reads())
    }

    /// `NotPermitted` for a wrong password or code; `Unavailable` after too many of them.
    async fn sign_in(&self, _visitor: &Visitor, _sign_in: SignIn) -> Result<SignedIn, ApiError> {
        Err(only_reads())
    }

    async fn sign_out(&self, _envelope: Envelope, _who: &Who) -> Result<(), ApiError> {
        Err(only_reads())
    }

    async fn sessions(&self, _who: &Who) -> Result<SessionList, ApiError> {
        Err(only_reads())
    }

    async fn end_sessions(&self, _envelope: Envelope, _who: &Who, _which: Which) -> Result<(), ApiError> {
        Err(only_reads())
    }

    /// Ends every other session. `NotPermitted` for a wrong current one.
    async fn change_password(
        &self,
        _envelope: Envelope,
        _who: &Who,
        _change: PasswordChange,
    ) -> Result<PasswordChanged, ApiError> {
        Err(only_reads())
    }

    async fn offer_totp(&self, _who: &Who) -> Result<TotpOffer, ApiError> {
        Err(only_reads())
    }

    async fn set_totp(
        &self,
        _envelope: Envelope,
        _who: &Who,
        _code: TotpCode,
        _on: bool,
    ) -> Result<(), ApiError> {
        Err(only_reads())
    }

    async fn tokens(&self) -> Result<TokenList, ApiError> {
        Err(only_reads())
    }

    async fn add_token(&self, _envelope: Envelope, _new: NewToken) -> Result<TokenAdded, ApiError> {
        Err(only_reads())
    }

    async fn delete_token(&self, _envelope: Envelope, _id: &str) -> Result<(), ApiError> {
        Err(only_reads())
    }
}

/// What every form of a session carries, so that no other site can send it: a hash of the session's
/// secret, which only its own pages know.
pub fn csrf(session: &str) -> String {
    let mut hash = Sha256::new();
    hash.update(b"boxmeter csrf\n");
    hash.update(session);
    URL_SAFE_NO_PAD.encode(hash.finalize())
}
