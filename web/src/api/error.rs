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
    /// The thing was changed meanwhile.
    Conflict,
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
            ErrorKind::Conflict => "conflict",
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
            ErrorKind::Conflict => StatusCode::CONFLICT,
            ErrorKind::Unavailable | ErrorKind::NotRunning => StatusCode::SERVICE_UNAVAILABLE,
            ErrorKind::Failed | ErrorKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// What an answer without problem JSON means, for instance one of the HTTP server itself.
    pub fn of_status(status: StatusCode) -> Self {
        match status {
            StatusCode::NOT_FOUND => ErrorKind::NotFound,
            StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED => ErrorKind::NotPermitted,
            StatusCode::CONFLICT | StatusCode::PRECONDITION_FAILED => ErrorKind::Conflict,
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
}

impl ApiError {
    pub fn new(kind: ErrorKind, message: impl fmt::Display) -> Self {
        ApiError { kind, message: message.to_string() }
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

    pub fn internal(message: impl fmt::Display) -> Self {
        Self::new(ErrorKind::Internal, message)
    }

    /// The usual answer to a name that nobody has.
    pub fn no_such_user(name: &str) -> Self {
        Self::not_found(format!("there is no user {name:?}"))
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
}

impl From<&ApiError> for ErrorReport {
    fn from(error: &ApiError) -> Self {
        let body = ErrorBody { kind: error.kind, message: error.message.clone() };
        ErrorReport { schema: Schema, error: body }
    }
}
