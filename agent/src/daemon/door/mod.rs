//! Who comes in by the web, as the ledger knows it: asked anew for every call, so that what was ended is
//! over at once. The panel hands on what visitors present, and is believed nothing else of them than
//! their address.

mod secrets;
#[cfg(test)]
mod tests;

use std::net::IpAddr;

use async_trait::async_trait;
use boxmeter_web::{
    access::{
        ADMIN, By, Door, NewToken, PasswordChange, PasswordChanged, Presented, Session, SessionList, SignIn,
        SignedIn, Token, TokenAdded, TokenList, TotpCode, TotpOffer, Visitor, Which, Who,
    },
    api::{
        order::{Envelope, Identity},
        routes::Access,
        types::{Schema, Time},
    },
    backend::ApiError,
};
use uuid::Uuid;

pub use secrets::Hashing;

use super::{
    backend::Answerer,
    changes::{asked, refused},
};
use crate::{
    clock,
    ledger::{self, Asked, Attempt, Ended, NewSession, PanelAdmin, SessionRecord, TokenRecord},
};

/// A session ends after this, however much it is used.
const SESSION_MS: i64 = 14 * 86_400_000;
const WRONG: &str = "the password or the code is wrong";
const NO_PASSWORD: &str = "the panel has no password yet: run `sudo boxmeter panel password` on the server";

/// What attempts are counted by: an address, or all of those that one connection usually gets.
fn bucket(from: IpAddr) -> String {
    match from.to_canonical() {
        IpAddr::V4(it) => it.to_string(),
        IpAddr::V6(it) => {
            let [a, b, c, d, ..] = it.segments();
            format!("{a:x}:{b:x}:{c:x}:{d:x}::/64")
        }
    }
}

fn gone() -> ApiError {
    ApiError::not_permitted("you are not signed in (any more)")
}

/// A password or a second factor is changed by a person, or by root.
fn need_person(who: &Who) -> Result<(), ApiError> {
    match who.by {
        By::Token => Err(ApiError::not_permitted("a token may not do this: sign in")),
        By::Session | By::Socket => Ok(()),
    }
}

/// Tokens are made and taken away by people: one that was stolen could outlive its expiry.
fn by_person(envelope: &Envelope) -> Result<(), ApiError> {
    match envelope.actor.identity {
        Identity::Visitor { by: By::Token, .. } => {
            Err(ApiError::not_permitted("a token may not do this: sign in"))
        }
        _ => Ok(()),
    }
}

fn scope(record: &TokenRecord) -> Result<Access, ApiError> {
    match record.scope.as_str() {
        "read" => Ok(Access::Read),
        "users" => Ok(Access::Users),
        "admin" => Ok(Access::Admin),
        other => Err(ApiError::internal(format!("a token has the scope {other:?}"))),
    }
}

fn scope_word(scope: Access) -> Result<&'static str, ApiError> {
    match scope {
        Access::Read => Ok("read"),
        Access::Users => Ok("users"),
        Access::Admin => Ok("admin"),
        Access::Panel => Err(ApiError::invalid("scope", "give read, users or admin")),
    }
}

fn id(text: &str) -> Option<Uuid> {
    text.parse().ok()
}

impl Answerer {
    fn moment(&self, ms: i64) -> Time {
        Time::from_ms(ms, &self.zone)
    }

    async fn panel_admin(&self) -> Result<PanelAdmin, ApiError> {
        let found = self.read(|reader| reader.panel_admin()).await?;
        found.ok_or_else(|| ApiError::conflict(NO_PASSWORD))
    }

    /// Takes an attempt of an address; whether many try at once.
    async fn attempt(&self, from: IpAddr) -> Result<bool, ApiError> {
        match self.ledger.take_attempt(bucket(from), clock::wall_ms()).await.map_err(refused)? {
            Attempt::Granted { crowded } => Ok(crowded),
            Attempt::After(ms) => Err(ApiError::too_many(format!(
                "too many wrong passwords from your address: try again in {} s",
                ms / 1_000 + 1
            ))),
        }
    }

    /// Takes an attempt at a code, whoever asks: the codes are few.
    async fn attempt_code(&self) -> Result<(), ApiError> {
        match self.ledger.take_code_attempt(clock::wall_ms()).await.map_err(refused)? {
            Attempt::Granted { .. } => Ok(()),
            Attempt::After(ms) => Err(ApiError::too_many(format!(
                "too many wrong codes: try again in {} s, and if it was not you, set another password: \
                 sudo boxmeter panel password",
                ms / 1_000 + 1
            ))),
        }
    }

    /// Somebody who is in was right: what the attempt cost is given back.
    async fn right(&self, from: IpAddr) {
        if let Err(error) = self.ledger.give_back_attempt(bucket(from), clock::wall_ms()).await {
            tracing::warn!("giving an attempt back: {error}");
        }
    }

    /// A wrong password or code. When everybody tries at once, the audit trail is not filled with it.
    async fn failed(&self, from: IpAddr, why: &'static str, crowded: bool) {
        tracing::warn!(%from, why, "somebody could not sign in to the panel");
        let asked = Asked::new(format!("?@{from}"), clock::wall_ms());
        if !crowded && let Err(error) = self.ledger.sign_in_failed(from.to_string(), why, asked).await {
            tracing::warn!("noting it: {error}");
        }
    }

    /// The step of a right code.
    fn step(&self, secret: &[u8], code: &str) -> Option<i64> {
        let now = u64::try_from(clock::wall_ms() / 1_000).ok()?;
        secrets::totp(secret.to_vec())?.check(&code.replace(' ', ""), now).and_then(|it| it.try_into().ok())
    }

    fn session_shown(&self, record: &SessionRecord, current: &str) -> Session {
        let id = record.id.to_string();
        Session {
            current: id == current,
            id,
            created_at: self.moment(record.created_ms),
            last_seen_at: self.moment(record.seen_ms),
            expires_at: self.moment(record.expires_ms),
            from: record.address.clone(),
            browser: record.browser.clone(),
        }
    }

    fn token_shown(&self, record: &TokenRecord) -> Result<Token, ApiError> {
        Ok(Token {
            id: record.id.to_string(),
            name: record.name.clone(),
            scope: scope(record)?,
            created_at: self.moment(record.created_ms),
            expires_at: record.expires_ms.map(|ms| self.moment(ms)),
            last_used_at: record.used_ms.map(|ms| self.moment(ms)),
        })
    }

    async fn who_of_session(&self, secret: &str, visitor: &Visitor) -> Result<Who, ApiError> {
        let (hash, now_ms) = (secrets::hash(secret), clock::wall_ms());
        let found =
            self.read(move |reader| Ok((reader.session(&hash, now_ms)?, reader.panel_admin()?))).await?;
        let (Some(session), Some(admin)) = found else { return Err(gone()) };
        let who = Who {
            schema: Schema,
            by: By::Session,
            name: ADMIN.to_owned(),
            id: session.id.to_string(),
            access: Access::Admin,
            expires_at: Some(self.moment(session.expires_ms)),
            totp: admin.totp.is_some(),
        };
        if !visitor.unattended {
            // Nobody waits for it: the next call says it again.
            drop(self.ledger.session_seen(session, visitor.from.to_string(), now_ms));
        }
        Ok(who)
    }

    async fn who_of_token(&self, secret: &str) -> Result<Who, ApiError> {
        let (hash, now_ms) = (secrets::hash(secret), clock::wall_ms());
        let found = self.read(move |reader| reader.token(&hash, now_ms)).await?;
        let token = found.ok_or_else(|| ApiError::not_permitted("nobody knows this token (any more)"))?;
        drop(self.ledger.token_used(&token, now_ms));
        Ok(Who {
            schema: Schema,
            by: By::Token,
            access: scope(&token)?,
            id: token.id.to_string(),
            expires_at: token.expires_ms.map(|ms| self.moment(ms)),
            name: token.name,
            totp: false,
        })
    }

    /// The step of a right code of somebody who is in.
    async fn proven_by_code(
        &self,
        identity: &Identity,
        secret: &[u8],
        code: &str,
        last_step: i64,
    ) -> Result<i64, ApiError> {
        if matches!(identity, Identity::Visitor { .. }) {
            self.attempt_code().await?;
        }
        if let Some(step) = self.step(secret, code).filter(|step| *step > last_step) {
            return Ok(step);
        }
        if let Identity::Visitor { from, .. } = identity {
            self.failed(*from, "code", false).await;
        }
        Err(ApiError::invalid("code", "is wrong: give the one that is shown now"))
    }

    /// The password that was there before, proven by whoever is not root.
    async fn proven(
        &self,
        envelope: &Envelope,
        who: &Who,
        change: &PasswordChange,
    ) -> Result<Option<String>, ApiError> {
        let known = self.read(|reader| reader.panel_admin()).await?.map(|admin| admin.password);
        if who.by == By::Socket {
            if change.first && known.is_some() {
                return Err(ApiError::conflict("the panel has a password already"));
            }
            return Ok(known);
        }
        let known = known.ok_or_else(|| ApiError::conflict(NO_PASSWORD))?;
        let Identity::Visitor { from, .. } = &envelope.actor.identity else {
            return Err(ApiError::internal("a session without an address"));
        };
        let crowded = self.attempt(*from).await?;
        let given = change.current.clone().ok_or_else(|| ApiError::invalid("current", "is missing"))?;
        if !self.hashing.verify(given, known.clone()).await? {
            self.failed(*from, "password", crowded).await;
            return Err(ApiError::invalid("current", "is not the password"));
        }
        self.right(*from).await;
        Ok(Some(known))
    }
}

#[async_trait]
impl Door for Answerer {
    async fn who(&self, visitor: &Visitor) -> Result<Who, ApiError> {
        match &visitor.presented {
            Some(Presented::Session(secret)) => self.who_of_session(secret, visitor).await,
            Some(Presented::Token(secret)) => self.who_of_token(secret).await,
            None => Err(gone()),
        }
    }

    async fn sign_in(&self, visitor: &Visitor, sign_in: SignIn) -> Result<SignedIn, ApiError> {
        let from = visitor.from.to_canonical();
        let admin = self.panel_admin().await?;
        let crowded = self.attempt(from).await?;
        if !self.hashing.verify(sign_in.password, admin.password.clone()).await? {
            self.failed(from, "password", crowded).await;
            return Err(ApiError::not_permitted(WRONG));
        }
        let totp_step = match (&admin.totp, sign_in.code.filter(|code| !code.is_empty())) {
            (None, _) => None,
            (Some(_), None) => {
                // Half of a sign-in, as the page asks for it; who guesses passwords has gained none to guess with.
                self.right(from).await;
                return Err(ApiError::invalid("code", "is missing: the account has a second factor"));
            }
            (Some(secret), Some(code)) => {
                self.attempt_code().await?;
                match self.step(secret, &code).filter(|step| *step > admin.totp_step) {
                    Some(step) => Some(step),
                    None => {
                        self.failed(from, "code", crowded).await;
                        return Err(ApiError::not_permitted(WRONG));
                    }
                }
            }
        };
        let (session, now_ms) = (secrets::random(""), clock::wall_ms());
        let new = NewSession {
            secret_hash: secrets::hash(&session),
            expires_ms: now_ms + SESSION_MS,
            address: from.to_string(),
            bucket: bucket(from),
            browser: visitor.browser.clone(),
            password: admin.password,
            totp_step,
        };
        let begun = self.ledger.begin_session(new, Asked::new(format!("{ADMIN}@{from}"), now_ms)).await;
        let begun = begun.map_err(|error| match error.refusal() {
            // A code that another request used at the same moment.
            Some(_) => ApiError::not_permitted(WRONG),
            None => refused(error),
        })?;
        Ok(SignedIn { schema: Schema, session, expires_at: self.moment(begun.expires_ms) })
    }

    async fn sign_out(&self, envelope: Envelope, who: &Who) -> Result<(), ApiError> {
        let (By::Session, Some(id)) = (who.by, id(&who.id)) else {
            return Err(ApiError::bad_request("there is no session to end"));
        };
        self.ledger.end_sessions(Ended::One(id), asked(&envelope)).await.map(drop).map_err(refused)
    }

    async fn sessions(&self, who: &Who) -> Result<SessionList, ApiError> {
        let now_ms = clock::wall_ms();
        let found = self.read(move |reader| reader.sessions(now_ms)).await?;
        let sessions = found.iter().map(|it| self.session_shown(it, &who.id)).collect();
        Ok(SessionList { schema: Schema, sessions })
    }

    async fn end_sessions(&self, envelope: Envelope, who: &Who, which: Which) -> Result<(), ApiError> {
        let ended = match &which {
            Which::Others => Ended::AllBut(id(&who.id).filter(|_| who.by == By::Session)),
            Which::One(wanted) => match id(wanted) {
                Some(id) => Ended::One(id),
                None => return Err(ApiError::not_found("there is no such session (any more)")),
            },
        };
        match self.ledger.end_sessions(ended, asked(&envelope)).await.map_err(refused)? {
            0 if matches!(which, Which::One(_)) => {
                Err(ApiError::not_found("there is no such session (any more)"))
            }
            _ => Ok(()),
        }
    }

    async fn change_password(
        &self,
        envelope: Envelope,
        who: &Who,
        change: PasswordChange,
    ) -> Result<PasswordChanged, ApiError> {
        need_person(who)?;
        change.check()?;
        let before = self.proven(&envelope, who, &change).await?;
        let (new, told) = match (change.new, who.by) {
            (Some(new), _) => (new, None),
            (None, By::Socket) => {
                let made = secrets::password();
                (made.clone(), Some(made))
            }
            (None, _) => return Err(ApiError::invalid("new", "is missing")),
        };
        let hash = self.hashing.hash(new).await?;
        let keep = id(&who.id).filter(|_| who.by == By::Session);
        self.ledger.set_password(hash, before, keep, asked(&envelope)).await.map_err(refused)?;
        Ok(PasswordChanged { schema: Schema, password: told })
    }

    async fn offer_totp(&self, who: &Who) -> Result<TotpOffer, ApiError> {
        need_person(who)?;
        let (bytes, secret, uri) = secrets::offer().map_err(ApiError::internal)?;
        self.ledger.offer_totp(bytes).await.map_err(|error| match error.refusal() {
            Some(refusal) => ApiError::conflict(refusal),
            None => refused(error),
        })?;
        Ok(TotpOffer { schema: Schema, secret, uri })
    }

    async fn set_totp(
        &self,
        envelope: Envelope,
        who: &Who,
        code: TotpCode,
        on: bool,
    ) -> Result<(), ApiError> {
        need_person(who)?;
        let admin = self.panel_admin().await?;
        let secret = if on { admin.totp_offered } else { admin.totp };
        let Some(secret) = secret else {
            let text = if on { "ask for a second factor first" } else { "there is no second factor" };
            return Err(ApiError::conflict(text));
        };
        let step = match (&envelope.actor.identity, on) {
            // Root has the machine: what is lost is turned off without it.
            (Identity::Uid(_), false) => None,
            (identity, _) => Some(self.proven_by_code(identity, &secret, &code.code, admin.totp_step).await?),
        };
        self.ledger.set_totp(secret, step, on, asked(&envelope)).await.map_err(refused)
    }

    async fn tokens(&self) -> Result<TokenList, ApiError> {
        let found = self.read(|reader| reader.tokens()).await?;
        let tokens = found.iter().map(|it| self.token_shown(it)).collect::<Result<_, _>>()?;
        Ok(TokenList { schema: Schema, tokens })
    }

    async fn add_token(&self, envelope: Envelope, new: NewToken) -> Result<TokenAdded, ApiError> {
        by_person(&envelope)?;
        let secret = secrets::random("bm_");
        let record = ledger::NewToken {
            name: new.name.trim().to_owned(),
            scope: scope_word(new.scope)?.to_owned(),
            secret_hash: secrets::hash(&secret),
            expires_ms: new.expires_at.map(|at| at.as_millisecond()),
        };
        let added = self.ledger.add_token(record, asked(&envelope)).await.map_err(refused)?;
        Ok(TokenAdded { schema: Schema, token: self.token_shown(&added)?, secret })
    }

    async fn delete_token(&self, envelope: Envelope, wanted: &str) -> Result<(), ApiError> {
        by_person(&envelope)?;
        let no_such = || ApiError::not_found("there is no such token (any more)");
        let id = id(wanted).ok_or_else(no_such)?;
        match self.ledger.delete_token(id, asked(&envelope)).await.map_err(refused)? {
            true => Ok(()),
            false => Err(no_such()),
        }
    }
}
