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
        Self::with(Access::Read)
    }

    /// A demo whose caller may do so much.
    fn with(access: Access) -> Self {
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
                serve(listener, router, move |_| Some(access), stop).await.unwrap();
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

const QUESTIONS: [&[&str]; 12] = [
    &["status"],
    &["users", "list"],
    &["users", "show", "演示-小明"],
    &["usage", "--from", "-7d", "--by", "day"],
    &["flows"],
    &["events"],
    &["audit", "--from", "month"],
    &["top"],
    &["users", "list", "--state", "limited"],
    &["policies", "list"],
    &["policies", "show", "basic"],
    &["packages", "list", "demo-alice"],
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
        (&["users", "add"], "bad_request"),
        (&["users", "add", "a[b]"], "invalid"),
        (&["users", "add", "a", "--quota", "lots"], "bad_request"),
        (&["users", "add", "a", "--expires", "2020-01-01"], "bad_request"),
        (&["users", "add", "a", "--email", "nobody"], "invalid"),
        (&["users", "set", "a"], "bad_request"),
        (&["users", "set", "a", "--inbounds", "x,x"], "invalid"),
        (&["users", "set", "a", "--expires", "soon"], "bad_request"),
        (&["policies", "add", "a", "--quota", "policy"], "bad_request"),
        (&["policies", "add", "a", "--period", "week", "--reset-day", "9"], "invalid"),
        (&["policies", "set", "a"], "bad_request"),
        (&["packages", "add", "a", "0"], "bad_request"),
        (&["users", "import", "x", "--format", "xml"], "bad_request"),
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

/// One change after another, as a script would do them.
#[test]
fn users_policies_and_packages_are_changed() {
    let agent = Agent::with(Access::Admin);
    let json = |arguments: &[&str]| -> Value {
        let output = agent.run(&[arguments, &["--json"]].concat());
        assert_eq!((code(&output), err(&output)), (0, ""), "{arguments:?}");
        let answer: Value = serde_json::from_str(out(&output)).unwrap();
        assert_eq!(answer["schema"], 1, "{arguments:?}");
        answer
    };
    let policy = json(&["policies", "add", "silver", "--quota", "20G", "--speed-down", "8Mbit/s"]);
    assert_eq!(policy["policy"]["speed_down"], 1_000_000);
    let added = json(&[
        "users",
        "add",
        "eve",
        "--policy",
        "silver",
        "--speed-down",
        "none",
        "--expires",
        "2099-01-01",
        "--over-quota",
        "100=throttle:1MiB/s,120=cut",
        "--note",
        "a friend",
    ]);
    let user = &added["user"];
    assert_eq!(user["period"]["quota_bytes"], 20_u64 << 30);
    assert_eq!((&user["speed"]["down"], &user["overrides"]["speed_down"]), (&Value::Null, &Value::Null));
    assert_eq!(user["expires_at"], "2099-01-01T00:00:00+08:00", "in the zone of billing");
    assert!(added["credentials"][0]["entry"]["password"].is_string());
    let rev = user["rev"].to_string();
    let set = json(&["users", "set", "eve", "--speed-down", "policy", "--max-flows", "9", "--if-rev", &rev]);
    assert_eq!(set["user"]["speed"]["down"], 1_000_000);
    assert_eq!(json(&["users", "disable", "eve"])["user"]["state"], "disabled");
    assert_eq!(json(&["users", "enable", "eve"])["user"]["state"], "active");
    assert_eq!(json(&["packages", "add", "eve", "5GiB", "--expires", "30d"])["remaining_bytes"], 5_u64 << 30);
    assert_eq!(json(&["users", "reset", "eve"])["user"]["period"]["used_bytes"], 0);
    assert_eq!(json(&["users", "delete", "eve", "--purge", "--yes"])["purged"], true);
    assert_eq!(json(&["policies", "delete", "silver", "--yes"])["name"], "silver");
}

#[test]
fn changes_that_cannot_be_done_say_why() {
    let agent = Agent::with(Access::Admin);
    let failing = |arguments: &[&str]| -> (i32, Value) {
        let output = agent.run(&[arguments, &["--json"]].concat());
        assert_eq!(out(&output), "", "{arguments:?}");
        let report: Value = serde_json::from_str(err(&output)).unwrap();
        (code(&output), report["error"].clone())
    };
    let (status, error) = failing(&["users", "set", "demo-bob", "--note", "x", "--if-rev", "1"]);
    assert_eq!((status, &error["kind"], &error["stale"]["given_rev"]), (1, &"stale".into(), &1.into()));
    assert_eq!(error["stale"]["current"]["name"], "demo-bob");
    let (status, error) = failing(&["users", "add", "demo-bob"]);
    assert_eq!((status, &error["kind"]), (1, &"conflict".into()));
    let (status, error) = failing(&["users", "add", "eve", "--policy", "gold"]);
    assert_eq!((status, &error["kind"], &error["field"]), (2, &"invalid".into(), &"policy".into()));
    assert_eq!(failing(&["users", "set", "nobody", "--quota", "1G"]).0, 5);
    assert_eq!(failing(&["policies", "delete", "gold", "--yes"]).0, 5);
    // Nobody is there to say yes.
    let (status, error) = failing(&["users", "delete", "demo-bob"]);
    assert_eq!(status, 2);
    assert!(error["message"].as_str().unwrap().contains("--yes"), "{error}");
    assert_eq!(code(&agent.run(&["users", "show", "demo-bob"])), 0, "it is still there");
    let looking = Agent::start();
    assert_eq!(code(&looking.run(&["users", "disable", "demo-bob"])), 4);
}

#[test]
fn files_of_other_programs_come_over() {
    let agent = Agent::with(Access::Admin);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("users.csv");
    std::fs::write(&file, "username,password,quota_gb,status\ndemo-bob,secret-1,50,active\nnew,secret-2,0,disabled\nodd,x,much,\n").unwrap();
    let file = file.to_str().unwrap();
    let dry = agent.run(&["users", "import", file, "--dry-run"]);
    assert_eq!(code(&dry), 0, "{}", err(&dry));
    assert!(out(&dry).contains("1 would be added, 1 updated"), "{}", out(&dry));
    assert!(out(&dry).contains("line 4 was left out: quota_gb"), "{}", out(&dry));
    assert_eq!(code(&agent.run(&["users", "show", "new"])), 5, "a dry run does nothing");
    let done = agent.run(&["users", "import", file, "--policy", "free", "--json"]);
    let report: Value = serde_json::from_str(out(&done)).unwrap();
    assert_eq!(report["users"][1]["outcome"], "added");
    assert!(!out(&done).contains("secret"), "credentials are not told");
    let new: Value = serde_json::from_str(out(&agent.run(&["users", "show", "new", "--json"]))).unwrap();
    assert_eq!((&new["user"]["state"], &new["user"]["policy"]), (&"disabled".into(), &"free".into()));
    assert_eq!(new["user"]["period"]["quota_bytes"], Value::Null, "0 is no limit");
    let bob: Value = serde_json::from_str(out(&agent.run(&["users", "show", "demo-bob", "--json"]))).unwrap();
    assert_eq!(bob["user"]["period"]["quota_bytes"], 50_u64 << 30);
    let missing = agent.run(&["users", "import", "/nonexistent.csv"]);
    assert!(code(&missing) == 1 && err(&missing).contains("/nonexistent.csv"), "{}", err(&missing));
}

#[test]
fn every_inbound_is_listed_before_a_user_is_added() {
    let agent = Agent::with(Access::Admin);
    let added = agent.run(&["users", "add", "eve"]);
    assert_eq!(code(&added), 0, "{}", err(&added));
    assert!(err(&added).contains("every inbound with users: trojan-in"), "{}", err(&added));
    let zh =
        program(&agent.socket()).args(["--lang", "zh-CN", "users", "show", "演示-小明"]).output().unwrap();
    assert!(out(&zh).contains("12 月 1 日 00:00（Asia/Shanghai）恢复"), "{}", out(&zh));
    assert!(out(&agent.run(&["users", "--help"])).contains("Take over accounts"));
    assert!(out(&agent.run(&["--lang", "zh-CN", "users", "--help"])).contains("导入其他程序的账户"));
}
