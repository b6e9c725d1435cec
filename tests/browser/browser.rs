//! Runs a script of this folder in Node.js.

use std::path::{Path, PathBuf};
use std::process::Command;

fn tools() -> PathBuf {
    let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools");
    std::env::var_os("BOXMETER_TOOLS").map_or_else(default, PathBuf::from)
}

/// Why there is no browser here, if there is none.
pub fn lacking() -> Option<String> {
    let library = tools().join("browser/node_modules/playwright-core");
    (!library.is_dir()).then(|| "needs the browser's libraries: cargo xtask setup".to_owned())
}

/// Ends the test as skipped when this machine has no browser.
#[macro_export]
macro_rules! needs_browser {
    () => {
        if let Some(reason) = $crate::browser::lacking() {
            boxmeter_tests::note_skip(&reason);
            return;
        }
    };
}

/// Runs a script to its end; what it prints is what is wrong.
pub fn run(script: &str, variables: &[(&str, &str)]) {
    let mut command = Command::new("node");
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("browser").join(script));
    command.env("BOXMETER_TOOLS", tools().canonicalize().unwrap());
    command.envs(variables.iter().copied());
    let output = command.output().unwrap_or_else(|error| panic!("node: {error}"));
    let said = String::from_utf8_lossy(&output.stdout);
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}:\n{said}\n{complained}");
}
