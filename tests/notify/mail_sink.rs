//! The real mail server of the tests: aiosmtpd, in the agent's namespace.

use std::{net::TcpListener, path::PathBuf, process::Command};

use boxmeter_tests::{
    process::Process,
    singbox::{VERSIONS, binary},
    tools, wait,
};
use serde_json::Value;

use crate::rig::Rig;

pub struct MailSink {
    pub port: u16,
    file: PathBuf,
    _process: Process,
}

/// A key and a certificate for `localhost`: files of the test.
pub fn certificate(rig: &Rig) -> [PathBuf; 2] {
    let words = ["generate", "tls-keypair", "localhost"];
    let made = Command::new(binary(VERSIONS[2])).args(words).output().unwrap();
    let pem = String::from_utf8(made.stdout).unwrap();
    let at = pem.find("-----BEGIN CERTIFICATE").expect("a certificate");
    let files = [rig.path("mail-cert.pem"), rig.path("mail-key.pem")];
    std::fs::write(&files[0], &pem[at..]).unwrap();
    std::fs::write(&files[1], &pem[..at]).unwrap();
    files
}

impl MailSink {
    /// `words` after port and file: see the script.
    pub fn start(rig: &Rig, words: &[&str]) -> MailSink {
        let netns = &rig.site.inside;
        let port = netns.run(|| TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port());
        let file = rig.path(&format!("mail-{port}.jsonl"));
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/notify/mail_sink.py");
        let mut command = Command::new(tools().join("aiosmtpd/bin/python"));
        command.arg(script).arg(port.to_string()).arg(&file).args(words);
        let log = rig.path(&format!("mail-{port}.log"));
        let process = Process::start(&mut command, netns, &log);
        wait("the mail server listens", || {
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            if said.contains("ready") { Ok(()) } else { Err(format!("{said}; run `cargo xtask setup`")) }
        });
        MailSink { port, file, _process: process }
    }

    pub fn mails(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(&self.file).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    pub fn until(&self, count: usize) -> Vec<Value> {
        wait(&format!("{count} mails"), || match self.mails() {
            mails if mails.len() >= count => Ok(mails),
            mails => Err(format!("{mails:?}")),
        })
    }
}

/// A mail as Python's own parser reads it: its headers, and its parts decoded, by their types.
pub fn parsed(mail: &Value) -> Value {
    let script = "import email, email.policy, json, sys\n\
        m = email.message_from_string(sys.stdin.read(), policy=email.policy.default)\n\
        parts = {p.get_content_type(): p.get_content() for p in m.walk() if not p.is_multipart()}\n\
        print(json.dumps({'headers': [[k.lower(), str(v)] for k, v in m.items()], 'type': m.get_content_type(), 'parts': parts}))";
    let mut child = Command::new("python3")
        .args(["-c", script])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    use std::io::Write as _;
    child.stdin.take().unwrap().write_all(mail["data"].as_str().unwrap().as_bytes()).unwrap();
    serde_json::from_slice(&child.wait_with_output().unwrap().stdout).unwrap()
}

/// All values of a header.
pub fn header(parsed: &Value, name: &str) -> Vec<String> {
    let all = parsed["headers"].as_array().unwrap().iter();
    all.filter(|it| it[0] == name).map(|it| it[1].as_str().unwrap().to_owned()).collect()
}
