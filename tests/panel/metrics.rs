//! What Prometheus makes of the agent's metrics: the real one, by way of the panel with a token.

use std::{
    collections::BTreeSet,
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use boxmeter_tests::{agent::Agent, needs_machine, process::Process, program, wait};
use serde_json::{Value, json};

use crate::rig::{ALICE, PANEL, Rig};

const MIB: u64 = 1 << 20;
const METRICS: &str = "/api/v1/metrics";
/// Where Prometheus listens in the test's own network namespace.
const PROMETHEUS: &str = "127.0.0.1:9090";

fn dist(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../dist").join(name)
}

/// promtool's word on what it reads.
fn promtool(words: &[&str], input: &str) {
    let mut child = Command::new(program("promtool").expect("promtool: cargo xtask setup"))
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&said));
    // What is only a matter of taste to it is said there too.
    assert!(words[1] != "metrics" || said.is_empty(), "{}", String::from_utf8_lossy(&said));
}

/// Names that begin with ours.
fn names(text: &str) -> BTreeSet<String> {
    let words = text.split(|it: char| !(it.is_ascii_alphanumeric() || it == '_'));
    words.filter(|word| word.starts_with("boxmeter_")).map(str::to_owned).collect()
}

/// One question to Prometheus.
fn query(rig: &Rig, query: &str) -> Result<Value, String> {
    let mut curl = Command::new("curl");
    curl.args(["-sS", "--max-time", "10", "-G", &format!("http://{PROMETHEUS}/api/v1/query")])
        .args(["--data-urlencode", &format!("query={query}")]);
    let output = rig.site.inside.enter(&mut curl).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let answer: Value = serde_json::from_slice(&output.stdout).map_err(|error| format!("{error}: {said}"))?;
    let result = answer["data"]["result"].clone();
    if result[0].is_null() { Err(answer.to_string()) } else { Ok(result[0]["value"][1].clone()) }
}

fn start_prometheus(rig: &Rig, token: &str) -> Process {
    let (config, data) = (rig.site.scratch.join("prometheus.yml"), rig.site.scratch.join("prometheus"));
    let text = json!({
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [dist("prometheus/boxmeter.rules.yml")],
        "scrape_configs": [{
            "job_name": "boxmeter", "metrics_path": METRICS, "authorization": {"credentials": token},
            "static_configs": [{"targets": [PANEL]}],
        }],
    });
    fs::write(&config, text.to_string()).unwrap();
    let mut command = Command::new(program("prometheus").expect("prometheus: cargo xtask setup"));
    command
        .arg(format!("--config.file={}", config.display()))
        .arg(format!("--storage.tsdb.path={}", data.display()))
        .arg(format!("--web.listen-address={PROMETHEUS}"));
    Process::start(&mut command, &rig.site.inside, &rig.site.scratch.join("prometheus.log"))
}

#[test]
fn prometheus_reads_what_the_agent_counts() {
    needs_machine!();
    let rig = Rig::new();
    let alice = &rig.site.users[0];
    alice.proxy.exchange(rig.site.target, MIB, 3 * MIB).unwrap();
    let [_, down] = wait("alice's bytes are hers", || {
        let used = Agent::payload(&rig.agent.ask(&["usage"])?, ALICE);
        if used[1] > 3 * MIB { Ok(used) } else { Err(format!("{used:?}")) }
    });
    rig.agent.ask(&["users", "set", ALICE, "--quota", "100GiB"]).unwrap();
    let session = rig.sign_in();
    let token = rig.token(&session, "prometheus", "read");
    let ask = || rig.ask("GET", METRICS);
    assert_eq!(ask().send().status, 401);
    assert_eq!(ask().token("bm_nothing").send().status, 403);
    let answer = ask().token(&token).send();
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(answer.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    promtool(&["check", "metrics"], &answer.body);
    let line =
        format!("boxmeter_user_payload_bytes_total{{user=\"{ALICE}\",direction=\"download\"}} {down}\n");
    assert!(answer.body.contains(&line), "no {line} in {}", answer.body);
    assert!(!answer.body.contains("password-"), "a credential");
    // What alerts and dashboard ask for is there, but for what comes with time.
    let told = names(&answer.body);
    let later = ["last", "due"].map(|it| format!("boxmeter_backup_{it}_timestamp_seconds"));
    for file in ["prometheus/boxmeter.rules.yml", "grafana/boxmeter.json"] {
        let text = fs::read_to_string(dist(file)).unwrap();
        let missing: Vec<_> =
            names(&text).into_iter().filter(|it| !told.contains(it) && !later.contains(it)).collect();
        assert_eq!(missing, [""; 0], "{file}");
    }
    promtool(&["check", "rules", dist("prometheus/boxmeter.rules.yml").to_str().unwrap()], "");
    let dashboard = fs::read_to_string(dist("grafana/boxmeter.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&dashboard).unwrap();
    assert!(dashboard["panels"].as_array().unwrap().len() > 10);

    let prometheus = start_prometheus(&rig, &token);
    wait("Prometheus has scraped", || match query(&rig, "up{job=\"boxmeter\"}")? {
        up if up == json!("1") => Ok(()),
        other => Err(format!("{other}: {}", prometheus.log())),
    });
    let asked = format!("boxmeter_user_payload_bytes_total{{user=\"{ALICE}\",direction=\"download\"}}");
    wait("it has alice's bytes", || match query(&rig, &asked)? {
        value if value == json!(down.to_string()) => Ok(()),
        other => Err(other.to_string()),
    });
    assert_eq!(query(&rig, "boxmeter_singbox_up").unwrap(), json!("1"));
    assert_eq!(query(&rig, "boxmeter_user_period_quota_bytes").unwrap(), json!((100_u64 << 30).to_string()));
    // Every expression of the dashboard is one that it understands.
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().unwrap() {
            let expression = target["expr"].as_str().unwrap();
            let plain = expression.replace("$__rate_interval", "1m").replace("$instance", ".*");
            if let Err(said) = query(&rig, &plain) {
                assert!(said.contains("\"status\":\"success\""), "{expression}: {said}");
            }
        }
    }
}

/// Names of users are personal: sums alone are there as well.
#[test]
fn series_of_users_can_be_left_out() {
    needs_machine!();
    let rig = Rig::with(|_| "[metrics]\nusers = false\n".to_owned());
    let alice = &rig.site.users[0];
    alice.proxy.exchange(rig.site.target, MIB, MIB).unwrap();
    let token = rig.token(&rig.sign_in(), "prometheus", "read");
    let answer = rig.ask("GET", METRICS).token(&token).send();
    assert_eq!(answer.status, 200, "{}", answer.body);
    promtool(&["check", "metrics"], &answer.body);
    assert!(answer.body.contains("boxmeter_inbound_payload_bytes_total"), "{}", answer.body);
    assert!(!answer.body.contains("boxmeter_user_") && !answer.body.contains(ALICE), "{}", answer.body);
}
