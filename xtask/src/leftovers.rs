//! What tests must not leave behind: processes, network namespaces and mounts. Owns the marks by which a run
//! knows its own; ends and removes only what carries them.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

/// In the environment of everything that a run starts; its value is the run's own.
pub const RUN_VARIABLE: &str = "BOXMETER_TEST_RUN";
/// Named network namespaces of tests begin with this.
const NETNS_PREFIX: &str = "bm-";
const NETNS_FOLDER: &str = "/run/netns";
/// What was just told to end may take this long to be gone.
const GRACE: Duration = Duration::from_secs(5);

/// The named test namespaces that exist now; those there before a run are not its own.
pub fn namespaces() -> BTreeSet<String> {
    let entries = fs::read_dir(NETNS_FOLDER).into_iter().flatten().flatten();
    let names = entries.map(|e| e.file_name().to_string_lossy().into_owned());
    names.filter(|n| n.starts_with(NETNS_PREFIX)).collect()
}

fn mounts_below(folder: &Path) -> Vec<String> {
    let table = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let points = table.lines().filter_map(|l| l.split(' ').nth(1)).map(str::to_string);
    points.filter(|p| Path::new(p).starts_with(folder)).collect()
}

fn processes(run: &str) -> Vec<(i32, String)> {
    let mark = format!("{RUN_VARIABLE}={run}");
    let own = std::process::id().cast_signed();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else { continue };
        let Ok(environment) = fs::read(entry.path().join("environ")) else { continue };
        if pid != own && environment.split(|b| *b == 0).any(|v| v == mark.as_bytes()) {
            let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            found.push((pid, name.trim().to_string()));
        }
    }
    found
}

/// Removes what the run left and says what it was; an empty answer is a clean run.
pub fn sweep(run: &str, temporary: &Path, before: &BTreeSet<String>) -> Vec<String> {
    let deadline = Instant::now() + GRACE;
    while !processes(run).is_empty() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(50));
    }
    let mut found = Vec::new();
    for (pid, name) in processes(run) {
        found.push(format!("process {pid} ({name})"));
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    for point in mounts_below(temporary).into_iter().rev() {
        found.push(format!("mount {point}"));
        let _ = nix::mount::umount2(point.as_str(), nix::mount::MntFlags::MNT_DETACH);
    }
    for name in namespaces().difference(before) {
        found.push(format!("network namespace {name}"));
        let path = Path::new(NETNS_FOLDER).join(name);
        let _ = nix::mount::umount2(&path, nix::mount::MntFlags::MNT_DETACH);
        let _ = fs::remove_file(&path);
    }
    found
}
