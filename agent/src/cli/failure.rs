//! What went wrong, for people or for scripts, and the exit code that says it.

use std::{error::Error, ffi::OsString, io, process::ExitCode};

use boxmeter_web::{
    api::error::ErrorReport,
    backend::{ApiError, ErrorKind},
};

use super::{args::RESERVED, context::Context, format};

/// Exit codes of the contract.
pub mod exit {
    pub const FAILED: u8 = 1;
    pub const WRONG_USE: u8 = 2;
    pub const NOT_RUNNING: u8 = 3;
    pub const NOT_PERMITTED: u8 = 4;
    pub const NOT_FOUND: u8 = 5;
}

/// Why a verb ended without doing what it should.
#[derive(Debug)]
pub enum Failure {
    Told(ApiError),
    /// The reader of our output went away, as `head` does: nothing is wrong.
    OutputClosed,
}

impl Failure {
    /// Says it on standard error and gives the exit code.
    pub fn report(self, context: &Context) -> ExitCode {
        let error = match self {
            Failure::OutputClosed => return ExitCode::SUCCESS,
            Failure::Told(error) => error,
        };
        if context.json {
            eprintln_json(&error);
        } else {
            let head = context.paint(format::Tone::Bad, context.text(&error_key(error.kind)));
            context.complain(&format!("{head} {}", format::safe_lines(&error.message)));
            if let Some(hint) = hint(error.kind) {
                context.complain(context.text(hint));
            }
        }
        ExitCode::from(code(error.kind))
    }
}

fn error_key(kind: ErrorKind) -> String {
    format!("error.{}", kind.as_str())
}

/// The key of what to do next, for errors that always have the same answer.
fn hint(kind: ErrorKind) -> Option<&'static str> {
    match kind {
        ErrorKind::NotRunning => Some("cli.hint_not_running"),
        ErrorKind::NotFound
        | ErrorKind::BadRequest
        | ErrorKind::NotPermitted
        | ErrorKind::Invalid
        | ErrorKind::Conflict
        | ErrorKind::Stale
        | ErrorKind::TooLarge
        | ErrorKind::TooMany
        | ErrorKind::Unsupported
        | ErrorKind::Unavailable
        | ErrorKind::Reserved
        | ErrorKind::Failed
        | ErrorKind::Internal => None,
    }
}

pub fn code(kind: ErrorKind) -> u8 {
    match kind {
        ErrorKind::BadRequest | ErrorKind::Invalid | ErrorKind::Reserved => exit::WRONG_USE,
        ErrorKind::NotRunning => exit::NOT_RUNNING,
        ErrorKind::NotPermitted => exit::NOT_PERMITTED,
        ErrorKind::NotFound => exit::NOT_FOUND,
        ErrorKind::Conflict
        | ErrorKind::Stale
        | ErrorKind::TooLarge
        | ErrorKind::TooMany
        | ErrorKind::Unsupported
        | ErrorKind::Unavailable
        | ErrorKind::Failed
        | ErrorKind::Internal => exit::FAILED,
    }
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        Failure::Told(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::OutputClosed,
            io::ErrorKind::PermissionDenied => ApiError::not_permitted(error).into(),
            _ => ApiError::new(ErrorKind::Failed, error).into(),
        }
    }
}

/// From verbs that work without the agent. The kind is that of the cause that has one.
impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        let kind = error.chain().find_map(kind_of).unwrap_or(ErrorKind::Failed);
        ApiError::new(kind, format!("{error:#}")).into()
    }
}

fn kind_of(cause: &(dyn Error + 'static)) -> Option<ErrorKind> {
    if let Some(told) = cause.downcast_ref::<ApiError>() {
        return Some(told.kind);
    }
    let io = cause.downcast_ref::<io::Error>()?;
    (io.kind() == io::ErrorKind::PermissionDenied).then_some(ErrorKind::NotPermitted)
}

/// Help and version go to standard output with code 0; wrong use to standard error with code 2.
pub fn of_clap(error: &clap::Error, arguments: &[OsString]) -> ExitCode {
    let json = arguments.iter().any(|word| word == "--json");
    if json && error.use_stderr() {
        let text = error.to_string();
        let message = text.trim().trim_start_matches("error: ").to_owned();
        let reserved = message.contains(RESERVED);
        let kind = if reserved { ErrorKind::Reserved } else { ErrorKind::BadRequest };
        eprintln_json(&ApiError::new(kind, message));
    } else if let Err(problem) = error.print()
        && problem.kind() != io::ErrorKind::BrokenPipe
    {
        return ExitCode::from(exit::FAILED);
    }
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(exit::WRONG_USE))
}

fn eprintln_json(error: &ApiError) {
    use io::Write as _;
    let text = serde_json::to_string(&ErrorReport::from(error)).unwrap_or_default();
    // Nobody is left to tell when standard error is closed.
    let _ = writeln!(io::stderr(), "{text}");
}
