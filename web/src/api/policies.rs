//! Policies and packages: what is asked and what is answered.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    error::ApiError,
    fields::{Fields, FromFields},
    names::check_name,
    terms::{Overrides, Terms, check_size},
    time::Time,
    types::Schema,
};

/// A plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    pub name: String,
    /// UUID v7: stays when the name changes.
    pub id: String,
    #[serde(flatten)]
    pub terms: Terms,
    /// How many users have it.
    pub users: u64,
    pub rev: u64,
}

/// `GET /policies`, by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyList {
    #[serde(default)]
    pub schema: Schema,
    pub policies: Vec<Policy>,
    pub rev: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// `GET /policies/{name}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyShow {
    #[serde(default)]
    pub schema: Schema,
    pub policy: Policy,
}

/// The answer to a new or changed policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyChanged {
    #[serde(default)]
    pub schema: Schema,
    /// `false`: it was so already, and nothing was done.
    pub changed: bool,
    pub policy: Policy,
    pub rev: u64,
}

/// `POST /policies`: no limits but those that are given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct NewPolicy {
    pub name: String,
    #[serde(flatten)]
    pub terms: Overrides,
}

impl FromFields for NewPolicy {
    fn from_fields(fields: &mut Fields) -> Result<Self, ApiError> {
        Ok(NewPolicy { name: fields.need("name")?, terms: Overrides::from_fields(fields)? })
    }
}

impl NewPolicy {
    /// The terms of the new policy.
    ///
    /// # Errors
    /// `Invalid` with the field's name.
    pub fn check(&self) -> Result<Terms, ApiError> {
        check_name(&self.name).map_err(|error| ApiError::invalid("name", error))?;
        self.terms.check()?;
        let terms = Terms::default().with(&self.terms);
        terms.check()?;
        Ok(terms)
    }
}

/// `PATCH /policies/{name}`. A field that is not there stays; `null` is no limit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PolicyChange {
    #[serde(flatten)]
    pub terms: Overrides,
}

impl FromFields for PolicyChange {
    fn from_fields(fields: &mut Fields) -> Result<Self, ApiError> {
        Ok(PolicyChange { terms: Overrides::from_fields(fields)? })
    }
}

impl PolicyChange {
    /// The terms after the change.
    ///
    /// # Errors
    /// `Invalid` with the field's name; `BadRequest` for a change of nothing.
    pub fn check(&self, before: &Terms) -> Result<Terms, ApiError> {
        if self.terms.is_empty() {
            return Err(ApiError::bad_request("nothing to change: name at least one field"));
        }
        self.terms.check()?;
        let terms = before.with(&self.terms);
        terms.check()?;
        Ok(terms)
    }
}

/// Extra bytes that were bought once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Package {
    /// UUID v7.
    pub id: String,
    pub bought_at: Time,
    pub bytes: u64,
    pub remaining_bytes: u64,
    pub expires_at: Option<Time>,
    pub origin: PackageOrigin,
    /// Who added it: `uid:0`, a panel session, `agent` for what was carried over.
    pub who: String,
    pub note: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PackageOrigin {
    Bought,
    /// What was left of a period's quota.
    Rollover,
}

/// `GET /users/{name}/packages`: the purchase history, oldest first, also what is used up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackageList {
    #[serde(default)]
    pub schema: Schema,
    pub user: String,
    pub packages: Vec<Package>,
    /// Of all packages that have not expired.
    pub remaining_bytes: u64,
    pub rev: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// `POST /users/{name}/packages`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct NewPackage {
    pub bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

impl FromFields for NewPackage {
    fn from_fields(fields: &mut Fields) -> Result<Self, ApiError> {
        Ok(NewPackage {
            bytes: fields.need("bytes")?,
            expires_at: fields.take::<Option<_>>("expires_at")?.flatten(),
            note: fields.take::<Option<_>>("note")?.flatten(),
        })
    }
}

impl NewPackage {
    /// # Errors
    /// `Invalid` with the field's name.
    pub fn check(&self, now: Timestamp) -> Result<(), ApiError> {
        if self.bytes == 0 {
            return Err(ApiError::invalid("bytes", "a package of 0 bytes changes nothing"));
        }
        check_size("bytes", Some(self.bytes))?;
        super::change::check_note(self.note.as_deref())?;
        super::change::check_expiry(self.expires_at.as_ref(), now)
    }
}

/// The answer to a new package.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackageAdded {
    #[serde(default)]
    pub schema: Schema,
    pub user: String,
    pub package: Package,
    /// Of all packages that have not expired.
    pub remaining_bytes: u64,
    pub rev: u64,
}
