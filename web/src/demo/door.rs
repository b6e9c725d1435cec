//! Signing in to the demonstration: a password that everybody knows, sessions and tokens in memory.

use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use jiff::{Timestamp, ToSpan};
use uuid::Uuid;

use super::Demo;
use crate::{
    access::{
        ADMIN, By, Door, NewToken, PasswordChange, PasswordChanged, Presented, Session, SessionList, SignIn,
        SignedIn, Token, TokenAdded, TokenList, TotpCode, TotpOffer, Visitor, Which, Who,
    },
    api::{
        order::Envelope,
        routes::Access,
        types::{Schema, Time},
    },
    backend::{ApiError, Backend as _, ErrorKind},
};

/// What the demonstration's page of signing in tells.
pub const PASSWORD: &str = "demo";

/// Sessions and tokens that are kept; the oldest go.
const KEPT_MAX: usize = 1000;

/// Who is in.
#[derive(Default)]
pub struct Doors(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    sessions: Vec<(String, Session)>,
    tokens: Vec<(String, Token)>,
}

impl Doors {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn secret() -> String {
    format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple())
}

fn not_in() -> ApiError {
    ApiError::not_permitted("you are not signed in (any more)")
}

impl Demo {
    /// Sessions are real even where the shown server's clock stands still.
    fn moment(&self, instant: Timestamp) -> Time {
        Time::new(instant, self.now().time_zone())
    }
}

#[async_trait]
impl Door for Demo {
    async fn who(&self, visitor: &Visitor) -> Result<Who, ApiError> {
        let kept = self.doors.kept();
        let who = |by, name: &str, id: &str, access, expires_at| Who {
            schema: Schema,
            by,
            name: name.to_owned(),
            id: id.to_owned(),
            access,
            expires_at,
            totp: false,
        };
        match &visitor.presented {
            Some(Presented::Session(secret)) => {
                let found = kept.sessions.iter().find(|(known, _)| known == secret);
                found.map(|(_, it)| who(By::Session, ADMIN, &it.id, Access::Admin, Some(it.expires_at)))
            }
            Some(Presented::Token(secret)) => {
                let found = kept.tokens.iter().find(|(known, _)| known == secret);
                found.map(|(_, it)| who(By::Token, &it.name, &it.id, it.scope, it.expires_at))
            }
            None => None,
        }
        .ok_or_else(not_in)
    }

    async fn sign_in(&self, visitor: &Visitor, sign_in: SignIn) -> Result<SignedIn, ApiError> {
        if sign_in.password != PASSWORD {
            return Err(ApiError::not_permitted("the password or the code is wrong"));
        }
        let (now, secret) = (Timestamp::now(), secret());
        let expires_at = self.moment(now.saturating_add(24.hours()).unwrap_or(now));
        let session = Session {
            id: Uuid::now_v7().to_string(),
            created_at: self.moment(now),
            last_seen_at: self.moment(now),
            expires_at,
            from: visitor.from.to_string(),
            browser: visitor.browser.clone(),
            current: false,
        };
        let mut kept = self.doors.kept();
        if kept.sessions.len() >= KEPT_MAX {
            kept.sessions.remove(0);
        }
        kept.sessions.push((secret.clone(), session));
        Ok(SignedIn { schema: Schema, session: secret, expires_at })
    }

    async fn sign_out(&self, _envelope: Envelope, who: &Who) -> Result<(), ApiError> {
        self.doors.kept().sessions.retain(|(_, session)| session.id != who.id);
        Ok(())
    }

    async fn sessions(&self, who: &Who) -> Result<SessionList, ApiError> {
        let kept = self.doors.kept();
        let sessions = kept.sessions.iter().rev();
        let sessions = sessions.map(|(_, it)| Session { current: it.id == who.id, ..it.clone() }).collect();
        Ok(SessionList { schema: Schema, sessions })
    }

    async fn end_sessions(&self, _envelope: Envelope, who: &Who, which: Which) -> Result<(), ApiError> {
        let mut kept = self.doors.kept();
        let before = kept.sessions.len();
        match which {
            Which::Others => kept.sessions.retain(|(_, it)| it.id == who.id),
            Which::One(id) => {
                kept.sessions.retain(|(_, it)| it.id != id);
                if kept.sessions.len() == before {
                    return Err(ApiError::not_found("there is no such session (any more)"));
                }
            }
        }
        Ok(())
    }

    async fn change_password(
        &self,
        _envelope: Envelope,
        _who: &Who,
        change: PasswordChange,
    ) -> Result<PasswordChanged, ApiError> {
        match change.current.as_deref() {
            Some(PASSWORD) => Err(demo_only("the demonstration keeps its password")),
            _ => Err(ApiError::invalid("current", "is not the password")),
        }
    }

    async fn offer_totp(&self, _who: &Who) -> Result<TotpOffer, ApiError> {
        Err(demo_only("the demonstration has no second factor"))
    }

    async fn set_totp(
        &self,
        _envelope: Envelope,
        _who: &Who,
        _code: TotpCode,
        _on: bool,
    ) -> Result<(), ApiError> {
        Err(demo_only("the demonstration has no second factor"))
    }

    async fn tokens(&self) -> Result<TokenList, ApiError> {
        let mut tokens: Vec<Token> = self.doors.kept().tokens.iter().map(|(_, it)| it.clone()).collect();
        tokens.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(TokenList { schema: Schema, tokens })
    }

    async fn add_token(&self, _envelope: Envelope, new: NewToken) -> Result<TokenAdded, ApiError> {
        let mut kept = self.doors.kept();
        if kept.tokens.iter().any(|(_, it)| it.name == new.name) || kept.tokens.len() >= KEPT_MAX {
            return Err(ApiError::conflict("there is a token of this name, or there are too many"));
        }
        let secret = format!("bm_{}", secret());
        let token = Token {
            id: Uuid::now_v7().to_string(),
            name: new.name,
            scope: new.scope,
            created_at: self.moment(Timestamp::now()),
            expires_at: new.expires_at.map(|at| self.moment(at)),
            last_used_at: None,
        };
        kept.tokens.push((secret.clone(), token.clone()));
        Ok(TokenAdded { schema: Schema, token, secret })
    }

    async fn delete_token(&self, _envelope: Envelope, id: &str) -> Result<(), ApiError> {
        let mut kept = self.doors.kept();
        let before = kept.tokens.len();
        kept.tokens.retain(|(_, it)| it.id != id);
        match kept.tokens.len() == before {
            true => Err(ApiError::not_found("there is no such token (any more)")),
            false => Ok(()),
        }
    }
}

fn demo_only(text: &str) -> ApiError {
    ApiError::new(ErrorKind::Unsupported, text)
}
