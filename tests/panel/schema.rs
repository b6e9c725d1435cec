//! The OpenAPI document is true: schemathesis asks everything that it allows, and much that it does not.

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader},
    net::TcpStream,
    process::{Command, Stdio},
};

use boxmeter_tests::{boxmeter, needs_machine, tools};
use boxmeter_web::access;

use serde_json::Value;

use crate::rig::{ALICE, Answer, PANEL, Rig};

/// What is asked of each operation in the short form.
const EXAMPLES: &str = "8";
const LONG_EXAMPLES: &str = "60";
/// The same of changes of a real agent, each of which is on its disk before it is answered.
const CHANGES: &str = "2";

/// Ends with the test, however that ends.
struct Ending(std::process::Child);

impl Drop for Ending {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn examples() -> &'static str {
    if boxmeter_tests::long() { LONG_EXAMPLES } else { EXAMPLES }
}

fn bearer(token: &str) -> Vec<String> {
    vec![format!("Authorization: Bearer {token}")]
}

/// `st` itself takes `words`, its `run` takes `more`; who asks is said by headers.
fn schemathesis(words: &[&str], address: &str, who: &[String], examples: &str, more: &[&str]) -> Command {
    let mut command = Command::new(tools().join("schemathesis/bin/st"));
    command.args(words).args(["run", &format!("http://{address}/api/v1/openapi.json")]);
    for header in who {
        command.args(["--header", header]);
    }
    command
        .args(["--max-examples", examples, "--seed", "1", "--no-shrink", "--warnings", "off"])
        .args(["--phases", "examples,coverage,fuzzing"])
        // No document says which names exist or that a span ends after it begins.
        .args(["--exclude-checks", "positive_data_acceptance"])
        .args(more)
        .current_dir(std::env::temp_dir());
    command
}

/// As [`schemathesis`] beside a real agent, of users and policies that there are; what was answered, as `METHOD PATH
/// STATUS`.
fn beside(rig: &Rig, who: &[String], examples: &str, more: &[&str]) -> BTreeSet<String> {
    let [config, report] = ["st.toml", "st.har"].map(|it| rig.site.scratch.join(it).display().to_string());
    let names = format!(
        "[parameters]\n\"path.name\" = {ALICE:?}\n[[operations]]\ninclude-path-regex = \"/policies/\"\n\
         parameters = {{ \"path.name\" = \"basic\" }}\n"
    );
    std::fs::write(&config, names).unwrap();
    let more = [more, &["--report-har-path", &report]].concat();
    let words = ["--config-file", &*config];
    must_pass(rig.site.inside.enter(&mut schemathesis(&words, PANEL, who, examples, &more)));
    let report: Value = serde_json::from_slice(&std::fs::read(report).unwrap()).unwrap();
    let entry = |it: &Value| {
        let url = it["request"]["url"].as_str().unwrap();
        let path = url.split("/api/v1").nth(1).unwrap().split('?').next().unwrap();
        format!("{} {path} {}", it["request"]["method"].as_str().unwrap(), it["response"]["status"])
    };
    report["log"]["entries"].as_array().unwrap().iter().map(entry).collect()
}

fn must_pass(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{error}: run `cargo xtask setup`"));
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("Tested:"), "{said}");
}

#[test]
fn whatever_can_be_read_is_as_the_document_says() {
    needs_machine!();
    let rig = Rig::new();
    let session = rig.sign_in();
    let token = rig.token(&session, "schemathesis", "admin");
    let answered = beside(&rig, &bearer(&token), examples(), &["--include-method", "GET"]);
    let user = format!("/users/{ALICE}");
    for path in [
        &*user,
        &format!("{user}/credentials"),
        &format!("{user}/packages"),
        "/policies/basic",
        "/tokens",
        "/sessions",
        "/settings/sharing",
        "/notify",
        "/events",
        "/status",
    ] {
        assert!(answered.contains(&format!("GET {path} 200")), "{path}: {answered:?}");
    }
}

/// What has sing-box do nothing, as somebody who is in does it.
#[test]
fn what_a_real_agent_changes_is_as_the_document_says() {
    needs_machine!();
    let rig = Rig::new();
    let session = rig.sign_in();
    let who =
        [format!("Cookie: boxmeter_session={session}"), format!("X-CSRF-Token: {}", access::csrf(&session))];
    let paths = r"/(policies|tokens|settings/sharing|users/\{name\}/packages)";
    let more = ["--exclude-method", "GET", "--include-path-regex", paths];
    let answered = beside(&rig, &who, CHANGES, &more);
    // What the document has examples of is done, and so is what needs none.
    for done in ["POST /policies 201", "POST /tokens 201", "PATCH /settings/sharing 200"] {
        assert!(answered.contains(done), "{done}: {answered:?}");
    }
    assert!(answered.contains(&format!("POST /users/{ALICE}/packages 201")), "{answered:?}");
}

/// On made-up data: changes of any kind and number would have sing-box reload all day.
#[test]
fn whatever_is_changed_is_as_the_document_says() {
    let mut command = Command::new(boxmeter());
    command.args(["--config", "/dev/null", "--lang", "en", "panel", "--demo", "--listen", "127.0.0.1:0"]);
    let mut panel = Ending(command.stdout(Stdio::piped()).spawn().unwrap());
    let mut lines = BufReader::new(panel.0.stdout.take().unwrap()).lines();
    let line = lines.next().unwrap().unwrap();
    let address = line.split("http://").nth(1).unwrap().trim_end_matches('/').to_owned();
    let ask = |head: &str, body: &str| {
        use std::io::Write as _;
        let mut stream = TcpStream::connect(&address).unwrap();
        let text = format!(
            "POST {head}\r\nHost: {address}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(text.as_bytes()).unwrap();
        Answer::read(stream)
    };
    let form = "content-type: application/x-www-form-urlencoded";
    let session = ask(&format!("/sign-in HTTP/1.1\r\n{form}"), "password=demo").session().unwrap();
    let head = format!(
        "/api/v1/tokens HTTP/1.1\r\nContent-Type: application/json\r\nCookie: boxmeter_session={session}\r\n\
         X-CSRF-Token: {}",
        access::csrf(&session)
    );
    let token = ask(&head, r#"{"name": "schemathesis", "scope": "admin"}"#).value();
    let token = token["secret"].as_str().unwrap();
    let words = ["--exclude-method", "GET", "--exclude-path-regex", "/totp$"];
    must_pass(&mut schemathesis(&[], &address, &bearer(token), examples(), &words));
}
