//! The verbs that work without the agent's socket: the one place where the command line calls into
//! the rest of the agent.

use std::{
    fs::File,
    io::{self, Read},
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use boxmeter_web::{
    api::{
        query::UsageQuery,
        types::{ImportUser, Meter, Usage},
    },
    backend::{ApiError, ErrorKind},
    locale::Lang,
};
use jiff::Zoned;

pub use crate::{
    daemon::{Leave, Leaving, Left},
    import::{ForeignInbound, Panel, place as place_users},
};

use super::{doctor::DoctorArgs, users::Format};
use crate::{
    clock,
    config::{self, Config, ConfigError},
    daemon, doctor as checks, import,
    kernel::{self, KernelError},
    ledger::{
        self, BackedUp, BackupError, LedgerError, Reader, RestoreError, Restored, import as import_sqlite,
    },
    panel,
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

/// Runs the panel until SIGTERM or SIGINT; `listen` instead of what the configuration says.
///
/// # Errors
/// Whatever kept it from starting, with what to do.
pub fn panel(
    config: Option<&Path>,
    socket: Option<&Path>,
    listen: Option<SocketAddr>,
    demo: bool,
    lang: Lang,
) -> Result<()> {
    log_to_stderr();
    let mut config = Config::load(config)?;
    if let Some(listen) = listen {
        config.panel.listen = listen;
    }
    let socket = socket.unwrap_or(&config.api.socket).to_owned();
    panel::run(&config, panel::Options { socket, demo, lang })
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

/// What stops holding when boxmeter leaves.
///
/// # Errors
/// When configuration or ledger cannot be read.
pub fn leaving(config: Option<&Path>) -> Result<Leaving> {
    daemon::leaving(&Config::load(config)?)
}

/// Commits the last counts, removes the kernel programs and maps, and takes out of sing-box's files what
/// boxmeter added, as far as it is not to stay. Also answers where the ledger is.
///
/// # Errors
/// When something could not be committed or removed; nothing is removed that was not committed.
pub fn detach(config: Option<&Path>, leave: Leave) -> Result<(Left, String)> {
    let config = Config::load(config)?;
    Ok((daemon::detach(&config, leave)?, config.ledger.path.display().to_string()))
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
    let answer = daemon::every_page(&reader, query).map_err(daemon::query_error)?;
    Ok(daemon::usage_answer(answer, meter, &zone, now_ms))
}

/// Copies the ledger of the configuration, whether the agent runs or not. Also answers where it is.
///
/// # Errors
/// See [`ledger::BackupError`].
pub fn backup(config: Option<&Path>, to: &Path, overwrite: bool) -> Result<(BackedUp, PathBuf)> {
    let path = Config::load(config)?.ledger.path;
    let done = ledger::backup(&path, to, overwrite, &|| true);
    Ok((done.map_err(|error| told(kind_of_backup(&error), error))?, path))
}

/// Puts a backup into the place of the configuration's ledger, while no agent runs.
///
/// # Errors
/// See [`RestoreError`].
pub fn restore(config: Option<&Path>, file: &Path) -> Result<Restored> {
    if !nix::unistd::geteuid().is_root() {
        return Err(ApiError::not_permitted("only root may replace the ledger: use sudo").into());
    }
    let config = Config::load(config)?;
    let path = config.ledger.path;
    let epoch = match kernel::present_epoch(&config.kernel.pins) {
        Err(KernelError::Busy { .. }) => {
            return Err(told(ErrorKind::Conflict, RestoreError::Running { path }));
        }
        // What is not known of the kernel only makes the answer say less.
        other => other.ok().flatten(),
    };
    let done = ledger::restore(file, &path, epoch, clock::wall_ms());
    done.map_err(|error| {
        let kind = match &error {
            RestoreError::Running { .. } => ErrorKind::Conflict,
            RestoreError::NoBackup { .. } => ErrorKind::NotFound,
            RestoreError::Itself { .. } => ErrorKind::BadRequest,
            RestoreError::Ledger(error) => kind_of_ledger(error),
            RestoreError::Copy(error) => kind_of_backup(error),
            RestoreError::Damaged { .. } | RestoreError::Other { .. } => ErrorKind::Failed,
        };
        told(kind, error)
    })
}

fn told(kind: ErrorKind, error: impl std::fmt::Display) -> anyhow::Error {
    ApiError::new(kind, error).into()
}

fn kind_of_ledger(error: &LedgerError) -> ErrorKind {
    match error {
        LedgerError::Permission { .. } => ErrorKind::NotPermitted,
        LedgerError::NotFound { .. } | LedgerError::NoDirectory { .. } => ErrorKind::NotFound,
        _ => ErrorKind::Failed,
    }
}

fn kind_of_backup(error: &BackupError) -> ErrorKind {
    match error {
        BackupError::Ledger(error) => kind_of_ledger(error),
        BackupError::Exists { .. } => ErrorKind::Conflict,
        BackupError::Itself { .. } => ErrorKind::BadRequest,
        BackupError::NoDirectory { .. } => ErrorKind::NotFound,
        BackupError::Permission { .. } => ErrorKind::NotPermitted,
        _ => ErrorKind::Failed,
    }
}

/// What another program's file has.
pub struct ForeignUsers {
    pub users: Vec<ImportUser>,
    /// Sentences about what was left out, or taken with a doubt.
    pub not_understood: Vec<String>,
    pub panel: Option<Panel>,
    /// The panel's listeners that users are on.
    pub inbounds: Vec<ForeignInbound>,
}

/// Users of another program's file. Times without a zone are of this machine's.
///
/// # Errors
/// When the file cannot be read, or is not what it should be.
pub fn read_import(file: &Path, format: Option<Format>) -> Result<ForeignUsers> {
    let now = Zoned::now();
    let format = match format {
        Some(format) => format,
        None => format_of(file).with_context(|| format!("cannot read {}", file.display()))?,
    };
    let imported = match format {
        Format::Sqlite => import_sqlite::read_sqlite(file)?,
        Format::Csv => {
            import::read_csv(&text_of(file)?, &now).with_context(|| format!("{}", file.display()))?
        }
        Format::Json => {
            import::read_json(&text_of(file)?, &now).with_context(|| format!("{}", file.display()))?
        }
    };
    let users = imported.users.into_iter().map(|user| import::to_request(user, now.time_zone()));
    Ok(ForeignUsers {
        users: users.collect(),
        not_understood: imported.not_understood,
        panel: imported.panel,
        inbounds: imported.inbounds,
    })
}

fn text_of(file: &Path) -> Result<Vec<u8>> {
    let shown = file.display();
    let mut bytes = Vec::new();
    let open = File::open(file).with_context(|| format!("cannot read {shown}"))?;
    open.take(import::FILE_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .with_context(|| format!("cannot read {shown}"))?;
    let max = import::FILE_BYTES_MAX;
    anyhow::ensure!(bytes.len() as u64 <= max, "{shown} is larger than {max} bytes: import it in parts");
    Ok(bytes)
}

/// By how the file begins, else by its name's end.
fn format_of(file: &Path) -> io::Result<Format> {
    let mut head = [0; 16];
    let mut read = File::open(file)?.take(head.len() as u64);
    let mut filled = 0;
    loop {
        match read.read(&mut head[filled..])? {
            0 => break,
            more => filled += more,
        }
    }
    let first = head[..filled].iter().find(|byte| !byte.is_ascii_whitespace());
    let json = file.extension().is_some_and(|it| it.eq_ignore_ascii_case("json"));
    Ok(match first {
        _ if head == *b"SQLite format 3\0" => Format::Sqlite,
        _ if json => Format::Json,
        Some(b'[' | b'{') => Format::Json,
        _ => Format::Csv,
    })
}
