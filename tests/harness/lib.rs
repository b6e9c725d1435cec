//! Building blocks of the end-to-end tests: network namespaces, real sing-box servers and clients of every
//! kind, a relay that knows the truth, targets, and the real agent.
//!
//! Everything a test makes ends with it, also when the test process is killed: namespaces have no name and
//! live as long as somebody is inside, mounts are in a mount namespace of the test, children get SIGKILL when
//! their test ends. Every wait is for a condition, with a deadline.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "tests fail by panicking, and wait with a deadline"
)]

pub mod agent;
pub mod baseline;
pub mod cases;
pub mod cgroup;
pub mod direct;
pub mod netns;
pub mod process;
pub mod questions;
pub mod relay;
pub mod scene;
pub mod scratch;
pub mod singbox;
pub mod socks;
pub mod target;
pub mod usage;
pub mod users;
pub mod v2ray;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

/// What a test waits for comes within this time, or the test fails.
pub const DEADLINE: Duration = Duration::from_secs(90);

/// Waits until `ready` gives something; the last refusal is the text of the failure.
pub fn wait<T>(what: &str, mut ready: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        match ready() {
            Ok(value) => return value,
            Err(why) if Instant::now() > deadline => panic!("never: {what}: {why}"),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// Soak tests and every case of the matrix, instead of one case per socket shape.
pub fn long() -> bool {
    std::env::var_os("BOXMETER_LONG").is_some()
}

/// Where `cargo xtask setup` puts what it installs.
pub fn tools() -> PathBuf {
    let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools");
    std::env::var_os("BOXMETER_TOOLS").map_or_else(default, PathBuf::from)
}

/// A program of a Debian package: the machine's own, or the one that `cargo xtask setup` has unpacked.
pub fn program(name: &str) -> Option<PathBuf> {
    let places = std::env::var_os("PATH").unwrap_or_default();
    let unpacked = ["prometheus", "v2ray"].map(|package| tools().join(package).join("usr/bin"));
    std::env::split_paths(&places).chain(unpacked).map(|place| place.join(name)).find(|path| path.is_file())
}

/// The program under test.
pub fn boxmeter() -> PathBuf {
    let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/debug/boxmeter");
    std::env::var_os("BOXMETER_BIN").map_or_else(default, PathBuf::from)
}

/// Says that a test did not run and why; `cargo xtask test` counts it and fails unless it is allowed.
pub fn note_skip(reason: &str) {
    let test = std::thread::current().name().unwrap_or("main").to_string();
    println!("SKIPPED: {reason}");
    if let Some(path) = std::env::var_os("BOXMETER_SKIP_LOG") {
        let mut log = std::fs::File::options().create(true).append(true).open(path).unwrap();
        writeln!(log, "{test}\t{reason}").unwrap();
    }
}

/// Why end-to-end tests cannot run here, if they cannot.
pub fn lacking() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("needs root".into());
    }
    if program("v2ray").is_none() {
        return Some("needs v2ray: cargo xtask setup".into());
    }
    let missing = singbox::VERSIONS.iter().find(|v| !singbox::binary(v).is_file());
    missing.map(|v| format!("needs sing-box {v}: cargo xtask setup"))
}

/// Where tests of one program run at a time, those that compare how fast things go run by themselves.
static TURNS: RwLock<()> = RwLock::new(());

/// Held by a test while it runs beside others.
pub fn beside_others() -> RwLockReadGuard<'static, ()> {
    TURNS.read().unwrap_or_else(PoisonError::into_inner)
}

/// Held by a test that runs alone.
pub fn alone() -> RwLockWriteGuard<'static, ()> {
    TURNS.write().unwrap_or_else(PoisonError::into_inner)
}

/// Ends the test as skipped when this machine lacks root or sing-box. `alone`: it compares speeds, so that no
/// other test of this program runs meanwhile.
#[macro_export]
macro_rules! needs_machine {
    () => {
        $crate::needs_machine!(beside_others);
    };
    ($turn:ident) => {
        if let Some(reason) = $crate::lacking() {
            $crate::note_skip(&reason);
            return;
        }
        let _turn = $crate::$turn();
    };
}
