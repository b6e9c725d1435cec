//! What a browser's form sends, and what stands in the form when it is shown again.

use std::collections::BTreeMap;

use axum::extract::{FromRequest, Request};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::frame::PageError;
use crate::{
    api::order::IdempotencyKey,
    backend::{ApiError, ErrorKind},
    locale::Lang,
};

/// The hidden field that makes a form safe to send twice.
pub const ONCE: &str = "once";

/// Fields of a form: several users at once are the longest.
const PAIRS_MAX: usize = 2_000;

/// The fields as they came.
#[derive(Clone, Debug, Default)]
pub struct Form {
    pairs: Vec<(String, String)>,
}

impl Form {
    #[cfg(test)]
    pub fn of(pairs: Vec<(String, String)>) -> Self {
        Form { pairs }
    }

    /// The first value of a field, without blanks around it; empty where there is none.
    pub fn get(&self, name: &str) -> &str {
        self.pairs.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value.trim())
    }

    /// The first value exactly as it was typed: for passwords and notes.
    pub fn raw(&self, name: &str) -> &str {
        self.pairs.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value)
    }

    /// `None` for a field that is empty or not there.
    pub fn some(&self, name: &str) -> Option<&str> {
        Some(self.get(name)).filter(|it| !it.is_empty())
    }

    pub fn all(&self, name: &str) -> Vec<&str> {
        self.pairs.iter().filter(|(key, _)| key == name).map(|(_, value)| &**value).collect()
    }

    pub fn has(&self, name: &str) -> bool {
        self.pairs.iter().any(|(key, _)| key == name)
    }

    /// The key of [`ONCE`] with what it is for: every field but the secrets of the session.
    pub fn once(&self, path: &str) -> Option<IdempotencyKey> {
        let key = self.some(ONCE).filter(|it| it.len() <= 64)?.to_owned();
        let mut hash = Sha256::new();
        hash.update(path.as_bytes());
        for (name, value) in self.pairs.iter().filter(|(name, _)| name != "csrf") {
            for part in [name, value] {
                hash.update((part.len() as u64).to_le_bytes());
                hash.update(part.as_bytes());
            }
        }
        Some(IdempotencyKey { key, fingerprint: hash.finalize().into() })
    }
}

/// A new value for [`ONCE`].
pub fn fresh_once() -> String {
    Uuid::new_v4().to_string()
}

impl<S: Send + Sync> FromRequest<S> for Form {
    type Rejection = PageError;

    async fn from_request(request: Request, state: &S) -> Result<Self, PageError> {
        let (parts, body) = request.into_parts();
        let body = axum::body::Bytes::from_request(Request::from_parts(parts.clone(), body), state).await;
        let body = match body {
            Ok(body) if body.iter().filter(|it| **it == b'&').count() < PAIRS_MAX => body,
            Ok(_) => {
                return Err(PageError(ApiError::new(ErrorKind::TooLarge, "the form has too many fields")));
            }
            Err(error) if error.status() == http::StatusCode::PAYLOAD_TOO_LARGE => {
                return Err(PageError(ApiError::new(ErrorKind::TooLarge, "the form is too long")));
            }
            Err(error) => {
                return Err(PageError(ApiError::bad_request(format!("the form cannot be read: {error}"))));
            }
        };
        let request = Request::from_parts(parts, axum::body::Body::from(body));
        let read = axum::Form::<Vec<(String, String)>>::from_request(request, state).await;
        match read {
            Ok(axum::Form(pairs)) => Ok(Form { pairs }),
            Err(error) => Err(PageError(ApiError::bad_request(format!("the form cannot be read: {error}")))),
        }
    }
}

/// What stands in the fields, and what is wrong with it.
#[derive(Clone, Debug, Default)]
pub struct Fields {
    values: BTreeMap<String, String>,
    errors: BTreeMap<String, String>,
}

impl Fields {
    pub fn set(&mut self, name: &str, value: impl Into<String>) {
        self.values.insert(name.to_owned(), value.into());
    }

    /// What was typed stays typed.
    pub fn typed(form: &Form, names: &[&str]) -> Fields {
        let mut fields = Fields::default();
        for name in names {
            fields.set(name, form.raw(name));
        }
        fields
    }

    pub fn fail(&mut self, name: &str, text: impl Into<String>) {
        self.errors.entry(name.to_owned()).or_insert_with(|| text.into());
    }

    /// The value of a field.
    pub fn v(&self, name: &str) -> &str {
        self.values.get(name).map_or("", String::as_str)
    }

    /// Some fields as JSON, for a field of the form itself.
    pub fn json(&self, names: &[&str]) -> String {
        let some: BTreeMap<&str, &str> = names.iter().map(|name| (*name, self.v(name))).collect();
        serde_json::to_string(&some).unwrap_or_default()
    }

    /// Whether a field has this value.
    pub fn is(&self, name: &str, value: &str) -> bool {
        self.v(name) == value
    }

    /// What is wrong with a field; empty if nothing is.
    pub fn e(&self, name: &str) -> &str {
        self.errors.get(name).map_or("", String::as_str)
    }

    pub fn wrong(&self) -> bool {
        !self.errors.is_empty()
    }

    /// What no field is to blame for, or one that has no place for it.
    pub fn general(&self) -> &str {
        const WITHOUT_A_PLACE: [&str; 6] = ["", "period", "over", "wins", "rollover", "sharing"];
        let errors = WITHOUT_A_PLACE.iter().map(|name| self.e(name));
        errors.into_iter().find(|text| !text.is_empty()).unwrap_or_default()
    }

    #[cfg(test)]
    pub fn values(&self) -> &BTreeMap<String, String> {
        &self.values
    }

    /// Puts the answerer's error to the field that it names: in the reader's words where the
    /// catalogue has some, else as it was said.
    pub fn refused(&mut self, lang: Lang, error: &ApiError) {
        let field = error.field.as_deref().map(field_of).unwrap_or_default();
        let key = format!("panel.invalid.{field}");
        let own = lang.text(&key);
        let text = if lang != Lang::En && own != key {
            own.to_owned()
        } else {
            let prefix = error.field.as_deref().map(|it| format!("{it}: ")).unwrap_or_default();
            error.message.strip_prefix(&prefix).unwrap_or(&error.message).to_owned()
        };
        self.fail(field, super::view::shown(&text));
    }
}

/// The form's name of a field of the API.
fn field_of(field: &str) -> &str {
    match field {
        "quota_bytes" => "quota",
        "total_quota_bytes" => "total_quota",
        "warn_percents" => "warn",
        "over_quota" => "over",
        "expires_at" => "expires",
        "bytes" => "size",
        other => other,
    }
}
