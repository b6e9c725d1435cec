//! The real agent with paths of its own, and its command line as people and scripts use it.

use crate::netns::Netns;
use crate::process::Process;
use crate::scratch::Scratch;
use crate::{boxmeter, wait};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

/// An agent that may run or not; its ledger and pins stay until the end of the test.
pub struct Agent {
    folder: PathBuf,
    netns: Netns,
    process: Option<Process>,
    /// A place where it is to die or to be refused something (see `boxmeter::fault`).
    fault: Option<&'static str>,
    hurry: bool,
    environment: Vec<(String, String)>,
    /// What of root's rights it has (`setpriv`'s names); all where empty.
    rights: Vec<String>,
}

impl Agent {
    /// Configured for a sing-box configuration, not started. `netns` is where it will run.
    pub fn new(scratch: &Scratch, sing_box: &Path, netns: &Netns) -> Agent {
        Agent::beside(scratch, &[sing_box], &[], netns)
    }

    /// As [`Agent::new`], for configurations of sing-box and of V2Ray; the services are called as their files.
    pub fn beside(scratch: &Scratch, sing_box: &[&Path], v2ray: &[&Path], netns: &Netns) -> Agent {
        scratch.mount("bpf", "bpf", None);
        std::fs::create_dir_all(scratch.join("ledger")).unwrap();
        let folder = scratch.path().to_owned();
        let services: String = v2ray
            .iter()
            .map(|file| {
                let name = file.file_stem().unwrap().display();
                format!("[[service]]\nkind = \"v2ray\"\nname = \"{name}\"\nconfig = [{file:?}]\n")
            })
            .collect();
        let text = format!(
            "[singbox]\nconfig = {sing_box:?}\n[kernel]\npins = \"{0}/bpf/boxmeter\"\n\
             [ledger]\npath = \"{0}/ledger/ledger.db\"\n[api]\nsocket = \"{0}/boxmeter.sock\"\n{services}",
            folder.display()
        );
        std::fs::write(folder.join("boxmeter.toml"), text).unwrap();
        Agent {
            folder,
            netns: netns.clone(),
            process: None,
            fault: None,
            hurry: false,
            environment: vec![],
            rights: vec![],
        }
    }

    /// Its programs meet only sockets made in a control group. To be called before it starts.
    pub fn attach_to(&self, cgroup: &Path) {
        self.configure("kernel", &format!("cgroup = {:?}", cgroup.display().to_string()));
    }

    /// One more line in a table of its configuration. To be called before it starts.
    pub fn configure(&self, table: &str, line: &str) {
        let file = self.folder.join("boxmeter.toml");
        let text = std::fs::read_to_string(&file).unwrap();
        let head = format!("[{table}]\n");
        assert!(text.contains(&head), "{text}");
        std::fs::write(file, text.replace(&head, &format!("{head}{line}\n"))).unwrap();
    }

    fn configured(&self, words: &[&str]) -> Command {
        let mut command = Command::new(boxmeter());
        command.env("BOXMETER_CLOCK", self.folder.join("clock"));
        command.arg("--config").arg(self.folder.join("boxmeter.toml")).args(words);
        command
    }

    /// Starts it without waiting.
    pub fn spawn(&mut self) {
        let log = self.folder.join("agent.log");
        let mut command = self.configured(&["run"]);
        if !self.rights.is_empty() {
            let mut limited = Command::new("setpriv");
            let rights: Vec<String> = self.rights.iter().map(|it| format!("+{it}")).collect();
            limited.arg(format!("--bounding-set=-all,{}", rights.join(","))).arg("--no-new-privs");
            limited.arg(command.get_program()).args(command.get_args());
            command = limited;
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.envs(self.fault.map(|fault| ("BOXMETER_FAULT", fault)));
        command.envs(self.hurry.then_some(("BOXMETER_HURRY", "5")));
        self.process = Some(Process::start(&mut command, &self.netns, &log));
    }

    /// What goes wrong in the agents that are started from now on.
    pub fn fails_at(&mut self, fault: Option<&'static str>) {
        self.fault = fault;
    }

    /// Intervals of a minute and more pass faster in the agents that are started from now on.
    pub fn hurries(&mut self) {
        self.hurry = true;
    }

    /// Moves the wall clock of the agent and its commands, so far ahead of the machine's.
    pub fn moves_clock(&self, ahead: Duration) {
        let ms = ahead.as_millis();
        // In one step: half a number would be another one.
        let new = self.folder.join("clock.new");
        std::fs::write(&new, ms.to_string()).unwrap();
        std::fs::rename(new, self.folder.join("clock")).unwrap();
    }

    /// In the environment of the agents that are started from now on.
    pub fn environment(&mut self, name: &str, value: &str) {
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// What the agents that are started from now on may do of what root may.
    pub fn rights(&mut self, rights: Vec<String>) {
        self.rights = rights;
    }

    /// Waits until it has died by itself.
    pub fn dies(&mut self) {
        let process = self.process.as_mut().expect("the agent runs");
        wait("the agent dies", || process.ended().map(drop).ok_or_else(|| "it lives".to_owned()));
        self.process = None;
    }

    /// Starts it and waits until it hears from sing-box who owns connections.
    pub fn start(&mut self) {
        self.spawn();
        wait("the agent hears sing-box", || {
            let process = self.process.as_mut().ok_or("not started")?;
            if let Some(status) = process.ended() {
                panic!("the agent ended with {status}:\n{}", process.log());
            }
            let status = self.ask(&["status"])?;
            if status["source"]["connected"] == json!(true) { Ok(()) } else { Err(status.to_string()) }
        });
    }

    /// Starts it beside a sing-box that tells nobody who owns connections, and waits until it answers.
    pub fn start_unheard(&mut self) {
        self.spawn();
        wait("the agent answers", || self.ask(&["status"]).map(drop));
    }

    /// SIGTERM; the kernel goes on counting.
    pub fn stop(&mut self) {
        self.process = None;
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        if let Some(process) = self.process.take() {
            process.kill();
        }
    }

    pub fn process(&self) -> &Process {
        self.process.as_ref().expect("the agent runs")
    }

    /// A command with `--json`.
    pub fn command(&self, words: &[&str]) -> Output {
        let words = [&["--json"][..], words].concat();
        self.netns.enter(&mut self.configured(&words)).output().unwrap()
    }

    /// A command with `--json`, started by other programs with their own arguments.
    pub fn command_in(&self, starters: &[&str], words: &[&str]) -> Output {
        let command = self.configured(&[&["--json"][..], words].concat());
        let mut started = Command::new(starters[0]);
        started.args(&starters[1..]).arg(command.get_program()).args(command.get_args());
        self.netns.enter(&mut started).output().unwrap()
    }

    /// A command's answer.
    ///
    /// # Errors
    /// What it said when it failed.
    pub fn ask(&self, words: &[&str]) -> Result<Value, String> {
        let output = self.command(words);
        if !output.status.success() {
            return Err(format!("{words:?}: {}", String::from_utf8_lossy(&output.stderr)));
        }
        serde_json::from_slice(&output.stdout).map_err(|error| error.to_string())
    }

    /// An answer to a command that must work.
    pub fn done(&self, words: &[&str]) -> Value {
        self.ask(words).unwrap_or_else(|error| panic!("{error}"))
    }

    pub fn show(&self, user: &str) -> Value {
        self.done(&["users", "show", user])["user"].clone()
    }

    pub fn until_state(&self, user: &str, state: &str) -> Value {
        wait(&format!("{user} is {state}"), || {
            let shown = self.ask(&["users", "show", user])?["user"].clone();
            if shown["state"] == json!(state) { Ok(shown) } else { Err(shown.to_string()) }
        })
    }

    /// Both directions of the payload that is counted for a user.
    pub fn used(&self, user: &str) -> u64 {
        Agent::payload(&self.done(&["usage"]), user).iter().sum()
    }

    /// The events of a kind.
    pub fn events(&self, kind: &str) -> Vec<Value> {
        let events = self.done(&["events"])["events"].clone();
        events.as_array().unwrap().iter().filter(|event| event["kind"] == json!(kind)).cloned().collect()
    }

    /// A user's payload as [upload, download]; users without traffic have none.
    pub fn payload(usage: &Value, user: &str) -> [u64; 2] {
        let row = usage["rows"].as_array().and_then(|rows| rows.iter().find(|r| r["user"] == json!(user)));
        ["upload_payload_bytes", "download_payload_bytes"]
            .map(|key| row.and_then(|r| r[key].as_u64()).unwrap_or_default())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.stop();
        if std::thread::panicking() {
            // What the agent said is worth more than an orderly end.
            let log = std::fs::read_to_string(self.folder.join("agent.log")).unwrap_or_default();
            eprintln!("agent.log:\n{log}");
            return;
        }
        let detached = self.command(&["detach", "--yes"]);
        assert!(detached.status.success(), "detach: {}", String::from_utf8_lossy(&detached.stderr));
        let pins = self.folder.join("bpf/boxmeter");
        let left: Vec<_> =
            std::fs::read_dir(&pins).into_iter().flatten().flatten().map(|e| e.path()).collect();
        assert!(left.is_empty(), "pins after detach: {left:?}");
    }
}
