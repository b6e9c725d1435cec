//! The OpenAPI document is true: schemathesis asks everything that it allows, and much that it does not.

use std::{
    io::{BufRead, BufReader},
    net::TcpStream,
    process::{Command, Stdio},
};

use boxmeter_tests::{boxmeter, needs_machine, tools};
use boxmeter_web::access;

use crate::rig::{Answer, PANEL, Rig};

/// What is asked of each operation in the short form.
const EXAMPLES: &str = "8";
const LONG_EXAMPLES: &str = "60";

/// Ends with the test, however that ends.
struct Ending(std::process::Child);

impl Drop for Ending {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn schemathesis(address: &str, token: &str, words: &[&str]) -> Command {
    let mut command = Command::new(tools().join("schemathesis/bin/st"));
    let examples = if boxmeter_tests::long() { LONG_EXAMPLES } else { EXAMPLES };
    command
        .args(["run", &format!("http://{address}/api/v1/openapi.json")])
        .args(["--header", &format!("Authorization: Bearer {token}")])
        .args(["--max-examples", examples, "--seed", "1", "--no-shrink", "--warnings", "off"])
        .args(["--phases", "examples,coverage,fuzzing"])
        // No document says which names exist or that a span ends after it begins.
        .args(["--exclude-checks", "positive_data_acceptance"])
        .args(words)
        .current_dir(std::env::temp_dir());
    command
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
    let token = rig.token(&session, "schemathesis", "read");
    let mut command = schemathesis(PANEL, &token, &["--include-method", "GET"]);
    must_pass(rig.site.inside.enter(&mut command));
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
    must_pass(&mut schemathesis(&address, token, &words));
}
