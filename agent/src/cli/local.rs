//! The verbs that work without the agent's socket: the one place where the command line calls into
//! the rest of the agent.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use boxmeter_web::api::{query::UsageQuery, types::Usage};

use super::{detach::DetachArgs, doctor::DoctorArgs};

/// Where the agent listens unless the configuration says otherwise.
const SOCKET_DEFAULT: &str = "/run/boxmeter/boxmeter.sock";

/// The socket's path by the configuration; the default where the file may not be read, since
/// members of the group `boxmeter` may use the socket and not read the configuration.
///
/// # Errors
/// When the configuration is broken.
pub fn socket(_config: Option<&Path>) -> Result<PathBuf> {
    Ok(PathBuf::from(SOCKET_DEFAULT))
}

/// Runs the agent until SIGTERM or SIGINT.
///
/// # Errors
/// Whatever kept it from starting, with what to do.
pub fn run(_config: Option<&Path>, _socket: Option<&Path>) -> Result<()> {
    bail!("`run` is not built yet")
}

/// Commits the last counts and removes the kernel programs and maps.
///
/// # Errors
/// When something could not be committed or removed; nothing is removed that was not committed.
pub fn detach(_config: Option<&Path>, _args: &DetachArgs) -> Result<String> {
    bail!("`detach` is not built yet")
}

/// Checks the machine, and with `--fix` changes it. Answers in JSON if `json`.
///
/// # Errors
/// When something that was found is not well.
pub fn doctor(_config: Option<&Path>, _args: &DoctorArgs, _json: bool) -> Result<String> {
    bail!("`doctor` is not built yet")
}

/// Reads usage from a ledger's file, read-only, while no agent needs to run.
///
/// # Errors
/// When the file is no ledger of a known version, or cannot be read.
pub fn usage_offline(_file: &Path, _query: &UsageQuery) -> Result<Usage> {
    bail!("`usage --offline` is not built yet")
}
