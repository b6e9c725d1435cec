//! Changes of users: what is asked and what is answered. Everything about a request that can be
//! said without knowing the ledger is checked here, for whoever answers.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use jiff::{Timestamp, civil::Date};
use serde::{Deserialize, Deserializer, Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::{
    error::ApiError,
    fields::{Fields, FromFields},
    names::check_name,
    terms::{Overrides, check_size},
    time::Time,
    types::{Schema, User},
};

/// The longest e-mail address (RFC 5321's path), note and tag, in bytes.
const EMAIL_BYTES_MAX: usize = 254;
const NOTE_BYTES_MAX: usize = 1_000;
const TAG_BYTES_MAX: usize = 256;
/// More inbounds than any server has.
const INBOUNDS_MAX: usize = 1_000;

/// `POST /users`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct NewUser {
    pub name: String,
    /// `None`: the default policy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    #[serde(flatten)]
    pub terms: Overrides,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Time>,
    /// Tags; `None`: every inbound with users.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inbounds: Option<Vec<String>>,
}

impl FromFields for NewUser {
    fn from_fields(fields: &mut Fields) -> Result<Self, ApiError> {
        Ok(NewUser {
            name: fields.need("name")?,
            policy: fields.take::<Option<_>>("policy")?.flatten(),
            terms: Overrides::from_fields(fields)?,
            email: fields.take::<Option<_>>("email")?.flatten(),
            note: fields.take::<Option<_>>("note")?.flatten(),
            expires_at: fields.take::<Option<_>>("expires_at")?.flatten(),
            inbounds: fields.take::<Option<_>>("inbounds")?.flatten(),
        })
    }
}

impl NewUser {
    /// # Errors
    /// `Invalid` with the field's name.
    pub fn check(&self, now: Timestamp) -> Result<(), ApiError> {
        check_name(&self.name).map_err(|error| ApiError::invalid("name", error))?;
        check_own_terms(&self.terms)?;
        check_email(self.email.as_deref())?;
        check_note(self.note.as_deref())?;
        check_expiry(self.expires_at.as_ref(), now)?;
        check_inbounds(self.inbounds.as_deref())
    }
}

/// `PATCH /users/{name}`. A field that is not there stays; `null` is none, or no limit; `inherit`
/// names terms that come from the policy again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct UserChange {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    #[serde(flatten)]
    pub terms: Overrides,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub inherit: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub email: Option<Option<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<Option<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Option<Time>>,
    /// The tags of all inbounds that the user is to be in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inbounds: Option<Vec<String>>,
}

impl FromFields for UserChange {
    fn from_fields(fields: &mut Fields) -> Result<Self, ApiError> {
        Ok(UserChange {
            policy: fields.take("policy")?,
            terms: Overrides::from_fields(fields)?,
            inherit: fields.take("inherit")?.unwrap_or_default(),
            email: fields.take("email")?,
            note: fields.take("note")?,
            expires_at: fields.take("expires_at")?,
            inbounds: fields.take("inbounds")?,
        })
    }
}

impl UserChange {
    pub fn is_empty(&self) -> bool {
        *self == UserChange::default()
    }

    /// # Errors
    /// `Invalid` with the field's name; `BadRequest` for a change of nothing.
    pub fn check(&self, now: Timestamp) -> Result<(), ApiError> {
        if self.is_empty() {
            return Err(ApiError::bad_request("nothing to change: name at least one field"));
        }
        check_own_terms(&self.terms)?;
        Overrides::default().changed(&self.terms, &self.inherit)?;
        check_email(self.email.as_ref().and_then(Option::as_deref))?;
        check_note(self.note.as_ref().and_then(Option::as_deref))?;
        check_expiry(self.expires_at.as_ref().and_then(Option::as_ref), now)?;
        check_inbounds(self.inbounds.as_deref())
    }
}

/// A user's zone is a name, or the policy's.
fn check_own_terms(terms: &Overrides) -> Result<(), ApiError> {
    if terms.time_zone == Some(None) {
        let text = "give an IANA name, or name it in `inherit` to have the policy's";
        return Err(ApiError::invalid("time_zone", text));
    }
    terms.check()
}

fn check_email(email: Option<&str>) -> Result<(), ApiError> {
    let Some(email) = email else { return Ok(()) };
    let (local, domain) = email.rsplit_once('@').unwrap_or_default();
    let plain = !email.chars().any(|c| c.is_whitespace() || c.is_control() || matches!(c, '<' | '>' | ','));
    if email.len() > EMAIL_BYTES_MAX || local.is_empty() || domain.is_empty() || !plain {
        let text = format!("{:?} is not an address like alice@example.com", head(email));
        return Err(ApiError::invalid("email", text));
    }
    Ok(())
}

pub(crate) fn check_note(note: Option<&str>) -> Result<(), ApiError> {
    let Some(note) = note else { return Ok(()) };
    if note.len() > NOTE_BYTES_MAX {
        return Err(ApiError::invalid("note", format!("longer than {NOTE_BYTES_MAX} bytes")));
    }
    if note.chars().any(|c| c.is_control() && c != '\n' && c != '\t') {
        return Err(ApiError::invalid("note", "may not hold control characters"));
    }
    Ok(())
}

pub(crate) fn check_expiry(expires: Option<&Time>, now: Timestamp) -> Result<(), ApiError> {
    match expires {
        Some(time) if time.instant <= now => {
            let text = format!("{time} lies in the past: give a time to come, or null for none");
            Err(ApiError::invalid("expires_at", text))
        }
        _ => Ok(()),
    }
}

fn check_inbounds(inbounds: Option<&[String]>) -> Result<(), ApiError> {
    let Some(inbounds) = inbounds else { return Ok(()) };
    let wrong = |text: String| Err(ApiError::invalid("inbounds", text));
    if inbounds.is_empty() {
        return wrong("give at least one tag; to keep a user out, disable it".to_owned());
    }
    if inbounds.len() > INBOUNDS_MAX {
        return wrong(format!("{} tags are more than {INBOUNDS_MAX}", inbounds.len()));
    }
    let mut seen = BTreeSet::new();
    for tag in inbounds {
        if tag.is_empty() || tag.len() > TAG_BYTES_MAX {
            return wrong(format!("a tag has 1 to {TAG_BYTES_MAX} bytes"));
        }
        if !seen.insert(tag) {
            return wrong(format!("{tag:?} is given twice"));
        }
    }
    Ok(())
}

/// The beginning of a text that may be of any length.
fn head(text: &str) -> String {
    text.chars().take(80).collect()
}

/// The answer to `POST /users`: the only time that credentials are told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserAdded {
    #[serde(default)]
    pub schema: Schema,
    pub user: User,
    pub credentials: Vec<Credential>,
    pub rev: u64,
}

/// What a client must be given for one inbound.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credential {
    pub inbound: String,
    /// sing-box's word: `trojan`, `vless`, …
    #[serde(rename = "type")]
    pub kind: String,
    /// The fields of the entry as sing-box names them: `name`, `password`, `uuid`, `flow`, …
    pub entry: BTreeMap<String, Value>,
}

/// Credentials reach no log: only the names of the fields are shown.
impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fields: Vec<&str> = self.entry.keys().map(String::as_str).collect();
        f.debug_struct("Credential")
            .field("inbound", &self.inbound)
            .field("kind", &self.kind)
            .field("entry", &fields)
            .finish()
    }
}

/// The answer to a change of a user: the user as it is now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserChanged {
    #[serde(default)]
    pub schema: Schema,
    /// `false`: it was so already, and nothing was done.
    pub changed: bool,
    pub user: User,
    pub rev: u64,
}

/// The answer to a deletion.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deleted {
    #[serde(default)]
    pub schema: Schema,
    pub name: String,
    /// The history is gone too.
    #[serde(default)]
    pub purged: bool,
    pub rev: u64,
}

/// `POST /import`: at most [`IMPORT_USERS_MAX`] users of another program.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ImportRequest {
    /// Say what would be done, and do nothing.
    pub dry_run: bool,
    pub users: Vec<ImportUser>,
}

/// Serde would take a list for an object as well, its values in the order of the fields.
fn object<'de, D: Deserializer<'de>, T: DeserializeOwned>(deserializer: D) -> Result<T, D::Error> {
    let fields = serde_json::Map::<String, Value>::deserialize(deserializer)?;
    T::deserialize(Value::Object(fields)).map_err(serde::de::Error::custom)
}

/// Of vless.
const FLOWS: [&str; 2] = ["", "xtls-rprx-vision"];

/// Users of one request; who has more sends several.
pub const IMPORT_USERS_MAX: usize = 2_000;

/// One user of another program. A user that exists is changed, one that does not is added.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImportUser {
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    #[serde(default, skip_serializing_if = "Overrides::is_empty", deserialize_with = "object")]
    pub terms: Overrides,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// Also one in the past: the user then comes over as expired.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Time>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inbounds: Option<Vec<String>>,
    /// `None`: as it is, or enabled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// For inbounds that have one; others get a new one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// Of vless; absent: what the inbound's other users have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flow: Option<String>,
    /// By inbound, instead of the three above, where the other program had a login for each.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub logins: BTreeMap<String, ImportLogin>,
    /// When the user was made there. Periods of so many days are counted from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_at: Option<Time>,
    /// What was used there: the running period's part counts against its quota, all of it against
    /// the total quota.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub used: Vec<ImportUsage>,
    /// Bought beyond the quota and not used up.
    #[serde(default)]
    pub package_bytes: u64,
}

/// What a client logs in with on one inbound.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImportLogin {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flow: Option<String>,
}

/// Credentials reach no log.
impl fmt::Debug for ImportLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ImportLogin").finish_non_exhaustive()
    }
}

/// What was used in one calendar month of the other program, or before any month is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImportUsage {
    /// `2026-11`, or `earlier`: before any month that is known. Absent: in the period that runs.
    #[serde(default)]
    pub month: Option<String>,
    pub upload_bytes: u64,
    pub download_bytes: u64,
}

impl ImportUsage {
    pub const EARLIER: &str = "earlier";

    /// The first day of the month; `None` where no month is told.
    ///
    /// # Errors
    /// `Invalid` for what is no month.
    pub fn first_day(&self) -> Result<Option<Date>, ApiError> {
        let Some(month) = self.month.as_ref().filter(|month| *month != Self::EARLIER) else {
            return Ok(None);
        };
        let wrong = || ApiError::invalid("used", format!("{month:?} is not a month like 2026-11"));
        if month.len() != 7 {
            return Err(wrong());
        }
        format!("{month}-01").parse().map(Some).map_err(|_| wrong())
    }
}

/// Credentials reach no log.
impl fmt::Debug for ImportUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ImportUser").field("name", &self.name).finish_non_exhaustive()
    }
}

impl FromFields for ImportRequest {
    fn from_fields(fields: &mut Fields) -> Result<Self, ApiError> {
        Ok(ImportRequest { dry_run: fields.take("dry_run")?.unwrap_or(false), users: fields.need("users")? })
    }
}

impl ImportRequest {
    /// # Errors
    /// `Invalid` for a list that is too long. Single users are judged one by one: see
    /// [`ImportUser::check`].
    pub fn check(&self) -> Result<(), ApiError> {
        if self.users.len() > IMPORT_USERS_MAX {
            let text = format!("{} are more than {IMPORT_USERS_MAX}: send several", self.users.len());
            return Err(ApiError::invalid("users", text));
        }
        Ok(())
    }
}

impl ImportUser {
    /// Whether the user can come over. The name of one who exists already is not judged.
    ///
    /// # Errors
    /// `Invalid` with the field's name.
    pub fn check(&self, exists: bool) -> Result<(), ApiError> {
        if !exists {
            check_name(&self.name).map_err(|error| ApiError::invalid("name", error))?;
            self.check_logins()?;
        }
        check_own_terms(&self.terms)?;
        check_email(self.email.as_deref())?;
        check_note(self.note.as_deref())?;
        check_inbounds(self.inbounds.as_deref())?;
        let mut sum = self.package_bytes;
        for used in &self.used {
            used.first_day()?;
            sum = sum.saturating_add(used.upload_bytes).saturating_add(used.download_bytes);
        }
        check_size("used", Some(sum).filter(|sum| *sum > 0))
    }

    /// sing-box would make something else of an identifier that is no UUID, and would not start with a flow
    /// that it does not know.
    fn check_logins(&self) -> Result<(), ApiError> {
        let own = (None, self.uuid.as_deref(), self.flow.as_deref());
        let on = self.logins.iter().map(|(tag, it)| (Some(tag), it.uuid.as_deref(), it.flow.as_deref()));
        for (tag, uuid, flow) in std::iter::once(own).chain(on) {
            let place = tag.map(|tag| format!(" on {tag}")).unwrap_or_default();
            if uuid.is_some_and(|uuid| uuid::Uuid::try_parse(uuid).is_err()) {
                return Err(ApiError::invalid("uuid", format!("the identifier{place} is no UUID")));
            }
            if flow.is_some_and(|flow| !FLOWS.contains(&flow)) {
                return Err(ApiError::invalid("flow", format!("sing-box does not know the flow{place}")));
            }
        }
        Ok(())
    }
}

/// The answer to an import, in the order of the request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportReport {
    #[serde(default)]
    pub schema: Schema,
    pub dry_run: bool,
    pub users: Vec<Imported>,
    pub rev: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Imported {
    pub name: String,
    pub outcome: ImportOutcome,
    /// Why it was refused, or what did not come over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ImportOutcome {
    Added,
    Updated,
    Unchanged,
    Refused,
}

impl ImportOutcome {
    pub const ALL: [ImportOutcome; 4] =
        [ImportOutcome::Added, ImportOutcome::Updated, ImportOutcome::Unchanged, ImportOutcome::Refused];

    /// The word of the contract.
    pub fn as_str(self) -> &'static str {
        match self {
            ImportOutcome::Added => "added",
            ImportOutcome::Updated => "updated",
            ImportOutcome::Unchanged => "unchanged",
            ImportOutcome::Refused => "refused",
        }
    }
}
