//! Errors as the contract has them: RFC 9457 problem JSON over HTTP, and
//! `{"schema":1,"error":{…}}` on the command line's standard error.

use std::fmt;

use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use serde::{Deserialize, Serialize};

use super::types::Schema;

/// What kind of error it is; scripts match on these words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// The named thing does not exist.
    NotFound,
    /// A parameter is wrong; the message names it and the accepted forms.
    BadRequest,
    /// The caller may not do this.
    NotPermitted,
    /// A field of the body is wrong; the message says what would be right.
    Invalid,
    /// It is there already, or something else stands in the way.
    Conflict,
    /// It was changed meanwhile: `If-Match` named another revision.
    Stale,
    /// The body is longer than what is read.
    TooLarge,
    /// Too many wrong attempts: not before some time has passed.
    TooMany,
    /// This answerer cannot do it at all.
    Unsupported,
    /// The answerer cannot do it now (starting, ledger not readable, too slow).
    Unavailable,
    /// Nobody listens on the socket. Only made by the client.
    NotRunning,
    /// A word that is kept for later.
    Reserved,
    /// A local command did not succeed; the message says why. Only made by the command line.
    Failed,
    /// A defect of the answerer, or an answer that cannot be understood.
    Internal,
}

impl ErrorKind {
    /// The word of the contract.
    pub fn as_str(self) -> &'static str {
        match self {
            ErrorKind::NotFound => "not_found",
            ErrorKind::BadRequest => "bad_request",
            ErrorKind::NotPermitted => "not_permitted",
            ErrorKind::Invalid => "invalid",
            ErrorKind::Conflict => "conflict",
            ErrorKind::Stale => "stale",
            ErrorKind::TooLarge => "too_large",
            ErrorKind::TooMany => "too_many",
            ErrorKind::Unsupported => "unsupported",
            ErrorKind::Unavailable => "unavailable",
            ErrorKind::NotRunning => "not_running",
            ErrorKind::Reserved => "reserved",
            ErrorKind::Failed => "failed",
            ErrorKind::Internal => "internal",
        }
    }

    /// The status that carries it.
    pub fn status(self) -> StatusCode {
        match self {
            ErrorKind::NotFound => StatusCode::NOT_FOUND,
            ErrorKind::BadRequest | ErrorKind::Reserved => StatusCode::BAD_REQUEST,
            ErrorKind::NotPermitted => StatusCode::FORBIDDEN,
            ErrorKind::Invalid => StatusCode::UNPROCESSABLE_ENTITY,
            ErrorKind::Conflict => StatusCode::CONFLICT,
            ErrorKind::Stale => StatusCode::PRECONDITION_FAILED,
            ErrorKind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            ErrorKind::TooMany => StatusCode::TOO_MANY_REQUESTS,
            ErrorKind::Unsupported => StatusCode::NOT_IMPLEMENTED,
            ErrorKind::Unavailable | ErrorKind::NotRunning => StatusCode::SERVICE_UNAVAILABLE,
            ErrorKind::Failed | ErrorKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// What an answer without problem JSON means, for instance one of the HTTP server itself.
    pub fn of_status(status: StatusCode) -> Self {
        match status {
            StatusCode::NOT_FOUND => ErrorKind::NotFound,
            StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED => ErrorKind::NotPermitted,
            StatusCode::UNPROCESSABLE_ENTITY => ErrorKind::Invalid,
            StatusCode::CONFLICT => ErrorKind::Conflict,
            StatusCode::PRECONDITION_FAILED => ErrorKind::Stale,
            StatusCode::PAYLOAD_TOO_LARGE => ErrorKind::TooLarge,
            StatusCode::TOO_MANY_REQUESTS => ErrorKind::TooMany,
            StatusCode::NOT_IMPLEMENTED => ErrorKind::Unsupported,
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => ErrorKind::Unavailable,
            _ if status.is_client_error() => ErrorKind::BadRequest,
            _ => ErrorKind::Internal,
        }
    }
}

/// An error with a text that says what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    pub kind: ErrorKind,
    pub message: String,
    /// The field or parameter that is wrong.
    pub field: Option<String>,
    /// Of [`ErrorKind::Stale`].
    pub stale: Option<Box<Stale>>,
}

/// What the caller had and what there is now, so that it can decide anew.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stale {
    /// The revision of `If-Match`.
    pub given_rev: u64,
    pub current_rev: u64,
    /// The object as it is now.
    pub current: serde_json::Value,
}

impl ApiError {
    pub fn new(kind: ErrorKind, message: impl fmt::Display) -> Self {
        ApiError { kind, message: message.to_string(), field: None, stale: None }
    }

    /// A field with a wrong value; the text goes on after `field: `.
    pub fn invalid(field: &str, text: impl fmt::Display) -> Self {
        let error = Self::new(ErrorKind::Invalid, format!("{field}: {text}"));
        ApiError { field: Some(field.to_owned()), ..error }
    }

    pub fn conflict(message: impl fmt::Display) -> Self {
        Self::new(ErrorKind::Conflict, message)
    }

    /// `current` is the object as it is now.
    pub fn stale(given_rev: u64, current_rev: u64, current: &impl Serialize) -> Self {
        let text = format!(
            "it was changed meanwhile: you had revision {given_rev}, it is at {current_rev}; look \
             at it again, then decide"
        );
        let current = serde_json::to_value(current).unwrap_or_default();
        let stale = Stale { given_rev, current_rev, current };
        ApiError { stale: Some(Box::new(stale)), ..Self::new(ErrorKind::Stale, text) }
    }

    pub fn unsupported(message: impl fmt::Display) -> Self {
        Self::new(ErrorKind::Unsupported, message)
    }

    pub fn not_found(message: impl fmt::Display) -> Self {
        Self::new(ErrorKind::NotFound, message)
    }

    pub fn bad_request(message: impl fmt::Display) -> Self {
        Self::new(ErrorKind::BadRequest, message)
    }

    pub fn not_permitted(message: impl fmt::Display) -> Self {
        Self::new(ErrorKind::NotPermitted, message)
    }

    pub fn unavailable(message: impl fmt::Display) -> Self {
        Self::new(ErrorKind::Unavailable, message)
    }

    pub fn too_many(message: impl fmt::Display) -> Self {
        Self::new(ErrorKind::TooMany, message)
    }

    pub fn internal(message: impl fmt::Display) -> Self {
        Self::new(ErrorKind::Internal, message)
    }

    /// The usual answer to a name that nobody has.
    pub fn no_such_user(name: &str) -> Self {
        Self::not_found(format!("there is no user {name:?}"))
    }

    /// The one answer to every secret that opens nothing.
    pub fn no_such_subscription() -> Self {
        Self::not_found("there is no such subscription")
    }

    /// The usual answer to a policy that does not exist.
    pub fn no_such_policy(name: &str) -> Self {
        Self::not_found(format!("there is no policy {name:?}"))
    }
}

/// RFC 9457 problem details, with the word of [`ErrorKind`] as an extension member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    #[serde(default)]
    pub schema: Schema,
    #[serde(rename = "type")]
    pub type_uri: String,
    pub title: String,
    pub status: u16,
    pub detail: String,
    pub kind: ErrorKind,
    /// The field of the body that is wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// Both values of a change that came too late.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stale: Option<Box<Stale>>,
}

impl From<Problem> for ApiError {
    fn from(problem: Problem) -> Self {
        let Problem { kind, detail, field, stale, .. } = problem;
        ApiError { kind, message: detail, field, stale }
    }
}

impl From<&ApiError> for Problem {
    fn from(error: &ApiError) -> Self {
        let status = error.kind.status();
        Problem {
            schema: Schema,
            type_uri: "about:blank".to_owned(),
            title: status.canonical_reason().unwrap_or("Error").to_owned(),
            status: status.as_u16(),
            detail: error.message.clone(),
            kind: error.kind,
            field: error.field.clone(),
            stale: error.stale.clone(),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let problem = Problem::from(&self);
        let headers = [(header::CONTENT_TYPE, "application/problem+json")];
        (self.kind.status(), headers, problem.to_json()).into_response()
    }
}

impl Problem {
    fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_else(|_| "{}".to_owned())
    }
}

/// What the command line writes to standard error under `--json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorReport {
    pub schema: Schema,
    pub error: ErrorBody,
}

/// See [`ErrorReport`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    pub kind: ErrorKind,
    pub message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stale: Option<Box<Stale>>,
}

impl From<&ApiError> for ErrorReport {
    fn from(error: &ApiError) -> Self {
        let body = ErrorBody {
            kind: error.kind,
            message: error.message.clone(),
            field: error.field.clone(),
            stale: error.stale.clone(),
        };
        ErrorReport { schema: Schema, error: body }
    }
}
