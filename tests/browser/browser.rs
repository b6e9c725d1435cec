//! Runs a script of this folder in Node.js, and the panel for it.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

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

/// A script of this folder, to be run.
pub fn script(name: &str) -> Command {
    let mut command = Command::new("node");
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("browser").join(name));
    command.env("BOXMETER_TOOLS", tools().canonicalize().unwrap());
    command
}

/// Runs a script to its end; what it prints is what is wrong.
pub fn run(name: &str, variables: &[(&str, &str)]) {
    let mut command = script(name);
    command.envs(variables.iter().copied());
    let output = command.output().unwrap_or_else(|error| panic!("node: {error}"));
    let said = String::from_utf8_lossy(&output.stdout);
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name}:\n{said}\n{complained}");
}

/// The panel as a process; it ends with this.
pub struct Panel {
    child: Child,
    url: String,
    /// What it said besides its address.
    pub said: String,
}

impl Panel {
    /// Over made-up data.
    pub fn demo() -> Panel {
        let mut command = Command::new(boxmeter_tests::boxmeter());
        // The machine's own configuration has nothing to say here.
        command.args(["--config", "/dev/null", "panel", "--demo", "--listen", "127.0.0.1:0"]);
        Panel::start(&mut command)
    }

    /// Waits until it tells its address. Its first line has it, and the next ones what else there is to say.
    pub fn start(command: &mut Command) -> Panel {
        command.stdout(Stdio::piped()).stdin(Stdio::null());
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut next = || lines.next().map_or_else(String::new, Result::unwrap);
        let (first, said) = (next(), next());
        let url = first.split_whitespace().find(|word| word.starts_with("http")).unwrap_or_default();
        let url = url.trim_end_matches(['/', '.']).to_owned();
        assert!(!url.is_empty(), "{first} {said}");
        Panel { child, url, said }
    }

    pub fn url(&self) -> &str {
        &self.url
    }
}

impl Drop for Panel {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
