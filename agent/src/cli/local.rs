//! The verbs that work without the agent's socket: the one place where the command line calls into
//! the rest of the agent.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use boxmeter_web::api::{
    query::UsageQuery,
    types::{ImportUser, Meter, Usage},
};
use jiff::Zoned;

use super::{detach::DetachArgs, doctor::DoctorArgs, users::Format};
use crate::{
    clock,
    config::{self, Config, ConfigError},
    daemon, doctor as checks, import,
    ledger::Reader,
};

/// The socket's path by the configuration; the default where the file may not be read, since
/// members of the group `boxmeter` may use the socket and not read the configuration.
///
/// # Errors
/// When the configuration is broken.
pub fn socket(config: Option<&Path>) -> Result<PathBuf> {
    match Config::load(config) {
        Ok(config) => Ok(config.api.socket),
        Err(ConfigError::Read { source, .. }) if source.kind() == std::io::ErrorKind::PermissionDenied => {
            Ok(Config::default().api.socket)
        }
        Err(error) => Err(error.into()),
    }
}

/// Runs the agent until SIGTERM or SIGINT.
///
/// # Errors
/// Whatever kept it from starting, with what to do.
pub fn run(config: Option<&Path>, socket: Option<&Path>) -> Result<()> {
    log_to_stderr();
    let mut config = Config::load(config)?;
    if let Some(socket) = socket {
        config.api.socket = socket.to_owned();
    }
    daemon::run(&config)
}

/// `RUST_LOG` chooses; systemd's journal adds the time itself.
fn log_to_stderr() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_writer(std::io::stderr).with_env_filter(filter);
    if std::env::var_os("JOURNAL_STREAM").is_some() {
        log.with_ansi(false).without_time().init();
    } else {
        log.init();
    }
}

/// Commits the last counts and removes the kernel programs and maps.
///
/// # Errors
/// When something could not be committed or removed; nothing is removed that was not committed.
pub fn detach(config: Option<&Path>, _args: &DetachArgs) -> Result<String> {
    let config = Config::load(config)?;
    daemon::detach(&config)?;
    Ok(format!("removed; the last counts are in {}", config.ledger.path.display()))
}

/// Checks the machine, and with `--fix` changes it. Answers in JSON if `json`.
///
/// # Errors
/// When something that was found is not well.
pub fn doctor(config: Option<&Path>, args: &DoctorArgs, json: bool) -> Result<String> {
    checks::run(&Config::load(config)?, args.fix, args.yes, json)
}

/// Reads usage from a ledger's file, read-only, while no agent needs to run.
///
/// # Errors
/// When the file is no ledger of a known version, or cannot be read.
pub fn usage_offline(file: &Path, query: &UsageQuery) -> Result<Usage> {
    let reader = Reader::open(file)?;
    let config = Config::load(None).unwrap_or_default();
    let meter = match config.billing.meter {
        config::Meter::Payload => Meter::Payload,
        config::Meter::Wire => Meter::Wire,
    };
    let zone = config.zone().context("the time zone of [billing] time_zone")?;
    let now_ms = clock::wall_ms();
    let query = daemon::ledger_query(query, &zone, now_ms)?;
    let answer = reader.usage(&query).map_err(daemon::query_error)?;
    Ok(daemon::usage_answer(answer, meter, &zone, now_ms))
}

/// Users of another program's file, and what of it was not understood. Times without a zone are of
/// this machine's.
///
/// # Errors
/// When the file cannot be read, or is not what it should be.
pub fn read_import(file: &Path, format: Option<Format>) -> Result<(Vec<ImportUser>, Vec<String>)> {
    let shown = file.display();
    let size = std::fs::metadata(file).with_context(|| format!("cannot read {shown}"))?.len();
    anyhow::ensure!(
        size <= import::FILE_BYTES_MAX,
        "{shown} is larger than {} bytes",
        import::FILE_BYTES_MAX
    );
    let bytes = std::fs::read(file).with_context(|| format!("cannot read {shown}"))?;
    let now = Zoned::now();
    let imported = match format.unwrap_or_else(|| format_of(file, &bytes)) {
        Format::Csv => import::read_csv(&bytes, &now),
        Format::Json => import::read_json(&bytes, &now),
    };
    let imported = imported.with_context(|| format!("{shown}"))?;
    let users = imported.users.into_iter().map(|user| import::to_request(user, now.time_zone()));
    Ok((users.collect(), imported.not_understood))
}

/// By the name's end, else by the first sign.
fn format_of(file: &Path, bytes: &[u8]) -> Format {
    let ending = file.extension().and_then(|it| it.to_str()).map(str::to_lowercase);
    let first = bytes.iter().find(|byte| !byte.is_ascii_whitespace());
    match (ending.as_deref(), first) {
        (Some("json"), _) | (None, Some(b'[' | b'{')) => Format::Json,
        _ => Format::Csv,
    }
}
