//! The program itself: exit codes, what goes to which stream, and both languages, against made-up
//! answers over a real socket.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::Arc,
    thread::{self, JoinHandle},
};

use boxmeter_web::{
    api::{
        routes::{Access, unix_router},
        serve::serve,
    },
    demo::Demo,
};
use serde_json::Value;
use tokio::{net::UnixListener, sync::oneshot};

/// A demo on a socket, for as long as the value lives.
struct Agent {
    dir: tempfile::TempDir,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Agent {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        // Bound before the thread starts, so that the first question finds it.
        let listener = std::os::unix::net::UnixListener::bind(dir.path().join("socket")).unwrap();
        listener.set_nonblocking(true).unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = thread::spawn(move || {
            let demo = Demo::new("2026-11-24T15:30:00+08:00[Asia/Shanghai]".parse().unwrap());
            let router = unix_router(Arc::new(demo));
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = UnixListener::from_std(listener).unwrap();
                let stop = async { _ = stopped.await };
                serve(listener, router, |_| Some(Access::Read), stop).await.unwrap();
            });
        });
        Agent { dir, stop: Some(stop), thread: Some(thread) }
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("socket")
    }

    fn run(&self, arguments: &[&str]) -> Output {
        program(&self.socket()).args(arguments).output().unwrap()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || thread::panicking());
        }
    }
}

/// The program with nothing of the tester's environment that it listens to.
fn program(socket: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_boxmeter"));
    for name in ["LC_ALL", "LC_MESSAGES", "LANG", "BOXMETER_CONFIG"] {
        command.env_remove(name);
    }
    command.env("BOXMETER_SOCKET", socket).stdin(Stdio::null());
    command
}

fn code(output: &Output) -> i32 {
    output.status.code().expect("the program was not killed")
}

fn out(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

fn err(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

const QUESTIONS: [&[&str]; 8] = [
    &["status"],
    &["users", "list"],
    &["users", "show", "演示-小明"],
    &["usage", "--from", "-7d", "--by", "day"],
    &["flows"],
    &["events"],
    &["audit", "--from", "month"],
    &["top"],
];

#[test]
fn every_question_is_answered_as_text_and_as_json() {
    let agent = Agent::start();
    for question in QUESTIONS {
        let text = agent.run(question);
        assert_eq!((code(&text), err(&text)), (0, ""), "{question:?}");
        // Standard output is no terminal here: no colours, no cursor.
        assert!(!out(&text).contains('\x1b') && !out(&text).is_empty(), "{question:?}");
        let json = agent.run(&[question, &["--json"]].concat());
        assert_eq!(code(&json), 0, "{question:?}: {}", err(&json));
        let answer: Value = serde_json::from_str(out(&json)).unwrap();
        assert_eq!(answer["schema"], 1, "{question:?}");
    }
}

#[test]
fn without_an_agent_every_question_ends_with_3() {
    let dir = tempfile::tempdir().unwrap();
    for question in QUESTIONS {
        let output = program(&dir.path().join("missing")).args(question).output().unwrap();
        assert_eq!((code(&output), out(&output)), (3, ""), "{question:?}");
        assert!(err(&output).contains("boxmeter run"), "{}", err(&output));
    }
    let output = program(&dir.path().join("missing")).args(["--json", "status"]).output().unwrap();
    let report: Value = serde_json::from_str(err(&output)).unwrap();
    assert_eq!((code(&output), report["schema"].as_u64()), (3, Some(1)));
    assert_eq!(report["error"]["kind"], "not_running");
}

#[test]
fn an_unknown_user_is_5() {
    let agent = Agent::start();
    for question in
        [&["users", "show", "nobody"][..], &["usage", "--user", "nobody"], &["flows", "--user", "nobody"]]
    {
        let output = agent.run(question);
        assert_eq!((code(&output), out(&output)), (5, ""), "{question:?}");
        let json = agent.run(&[question, &["--json"]].concat());
        let report: Value = serde_json::from_str(err(&json)).unwrap();
        assert_eq!((code(&json), &report["error"]["kind"]), (5, &Value::from("not_found")));
    }
}

#[test]
fn wrong_use_is_2_with_or_without_an_agent() {
    let dir = tempfile::tempdir().unwrap();
    for (arguments, kind) in [
        (&["usge"][..], "bad_request"),
        (&[], "bad_request"),
        (&["usage", "--by", "week"], "bad_request"),
        (&["usage", "--from", "soonish"], "bad_request"),
        (&["usage", "--from", "2026-11-02", "--to", "2026-11-01"], "bad_request"),
        (&["detach"], "bad_request"),
        (&["fleet"], "reserved"),
        (&["hub", "add", "--x"], "reserved"),
        (&["nodes"], "reserved"),
        (&["join", "token"], "reserved"),
        (&["leave"], "reserved"),
        (&["usage", "--node", "other"], "reserved"),
    ] {
        let agent = (arguments.contains(&"2026-11-02")).then(Agent::start);
        let socket = agent.as_ref().map_or(dir.path().join("missing"), Agent::socket);
        let output = program(&socket).args(arguments).output().unwrap();
        assert_eq!((code(&output), out(&output)), (2, ""), "{arguments:?}: {}", err(&output));
        let json = program(&socket).arg("--json").args(arguments).output().unwrap();
        let report: Value = serde_json::from_str(err(&json)).unwrap();
        assert_eq!((code(&json), report["error"]["kind"].as_str()), (2, Some(kind)), "{arguments:?}");
    }
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let agent = Agent::start();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = program(&agent.socket());
    let output = command.arg("usage").stdout(writer).stderr(Stdio::piped()).output().unwrap();
    assert_eq!((code(&output), err(&output)), (0, ""));
}

#[test]
fn the_locale_chooses_the_language_and_the_option_overrides_it() {
    let agent = Agent::start();
    let with = |locale: &str, arguments: &[&str]| {
        let output = program(&agent.socket()).env("LANG", locale).args(arguments).output().unwrap();
        out(&output).to_owned()
    };
    assert!(with("zh_CN.UTF-8", &["usage"]).contains("未归属"));
    assert!(with("zh_CN.UTF-8", &["--lang", "en", "usage"]).contains("unattributed"));
    assert!(with("C", &["--lang", "zh-CN", "usage"]).contains("未归属"));
    assert!(with("zh_CN.UTF-8", &["--help"]).contains("谁用了多少流量"));
    assert!(with("de_DE.UTF-8", &["--help"]).contains("Who used how much"));
}

#[test]
fn completions_and_manual_leave_reserved_words_out() {
    let agent = Agent::start();
    for shell in ["bash", "zsh", "fish"] {
        let output = agent.run(&["completions", shell]);
        assert!(code(&output) == 0 && out(&output).contains("usage"), "{shell}");
        assert!(!out(&output).contains("fleet"), "{shell}");
    }
    let dir = tempfile::tempdir().unwrap();
    let output = agent.run(&["man", "--dir", dir.path().to_str().unwrap()]);
    assert_eq!(code(&output), 0, "{}", err(&output));
    let page = std::fs::read_to_string(dir.path().join("boxmeter-usage.1")).unwrap();
    assert!(page.contains("Who used how much"));
}
