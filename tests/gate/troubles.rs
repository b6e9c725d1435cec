//! What goes wrong around a change: sing-box refuses its files, the disk is full, a file of another program.

use boxmeter_tests::{
    agent::Agent,
    cases::named,
    needs_machine,
    singbox::{Site, VERSIONS, binary, certificate},
    wait,
};
use serde_json::json;

use crate::rig::{MIB, Rig};
use boxmeter_tests::scene::Scene as _;

fn hurried(reload_within: &str, prepare: impl FnOnce(&mut Site)) -> Rig {
    let mut site = Site::new(VERSIONS[2], &[named("trojan-tls")]);
    prepare(&mut site);
    let mut agent = Agent::new(&site.scratch, &site.config(), &site.inside);
    agent.configure("singbox", &format!("reload_within = {reload_within:?}"));
    agent.hurries();
    agent.start();
    Rig { agent, site }
}

pub fn until_trouble(rig: &Rig, words: &str) {
    wait(&format!("people are told: {words}"), || {
        let status = rig.agent.ask(&["status"])?;
        let parts = status["degraded"].as_array().cloned().unwrap_or_default();
        let told = |part: &serde_json::Value| {
            part["part"] == json!("enforcement")
                && part["reason"].as_str().is_some_and(|it| it.contains(words))
        };
        if parts.iter().any(told) { Ok(()) } else { Err(status.to_string()) }
    });
}

pub fn until_well(rig: &Rig) {
    wait("all is well again", || {
        let status = rig.agent.ask(&["status"])?;
        match status["degraded"].as_array().is_some_and(Vec::is_empty) {
            true => Ok(()),
            false => Err(status.to_string()),
        }
    });
}

/// An edit by hand that sing-box does not take comes between a change and its reload: the reload is not lost,
/// and it is not called well until it was made.
#[test]
fn a_reload_that_sing_box_refuses_is_made_when_the_files_are_good() {
    needs_machine!();
    let rig = hurried("2s", |_| {});
    let name = rig.alice().name.clone();
    rig.done(&["users", "disable", &name]);
    let reloads = |rig: &Rig| rig.done(&["status"])["enforcement"]["reloads"].as_u64().unwrap();
    wait("sing-box reads that alice is out", || match reloads(&rig) {
        0 => Err("not yet".to_owned()),
        _ => Ok(()),
    });
    let before = reloads(&rig);
    rig.done(&["users", "enable", &name]);
    wait("the entry is back", || if rig.config().contains(&name) { Ok(()) } else { Err(rig.config()) });
    // Within the two seconds for others to come along.
    let good = rig.config();
    let bad = good.replacen('{', "{\"nobody_knows_this\": true,", 1);
    std::fs::write(rig.site.config(), &bad).unwrap();
    until_trouble(&rig, "it was not told to read them");
    // Nothing is left to be edited, and yet it is not well: looked at again and again.
    wait("it was planned again", || match rig.done(&["status"])["enforcement"]["pending"].is_object() {
        true => Ok(()),
        false => Err("nothing waits".to_owned()),
    });
    assert_eq!(reloads(&rig), before);
    rig.exchange(rig.bob(), 0, MIB).unwrap();
    std::fs::write(rig.site.config(), &good).unwrap();
    wait("alice is let in", || rig.exchange(rig.alice(), 0, MIB));
    until_well(&rig);
    wait("one reload is counted", || match reloads(&rig) {
        now if now == before + 1 => Ok(()),
        now => Err(format!("{now}, not {}", before + 1)),
    });
}

/// No room for the new text: the old one stays, the kernel cuts, and the edit is made when there is room.
#[test]
fn a_full_disk_keeps_the_configuration_whole() {
    needs_machine!();
    // The file is a link to one on a small disk, as people have it.
    let rig = hurried("10m", |site| {
        let disk = site.scratch.mount("etc", "tmpfs", Some("size=64k"));
        std::fs::rename(site.config(), site.scratch.join("moved.json")).unwrap();
        std::fs::copy(site.scratch.join("moved.json"), disk.join("server.json")).unwrap();
        std::os::unix::fs::symlink(disk.join("server.json"), site.config()).unwrap();
    });
    let (name, before) = (rig.alice().name.clone(), rig.config());
    let filler = rig.site.scratch.join("etc/filler");
    let mut bytes = 64 << 10;
    while bytes > 0 {
        // As full as it can be made.
        if std::fs::write(&filler, vec![b'x'; bytes]).is_ok() {
            break;
        }
        bytes -= 4096;
    }
    let refused = rig.refused(&["users", "add", "carol"]);
    assert!(refused["error"]["message"].as_str().unwrap().contains("No space left"), "{refused}");
    assert_eq!(rig.config(), before);
    rig.done(&["users", "disable", &name]);
    until_trouble(&rig, "No space left");
    assert_eq!(rig.config(), before, "not a byte is missing");
    rig.exchange(rig.alice(), 0, 64 * MIB).expect_err("a disabled user got through");
    rig.exchange(rig.bob(), 0, MIB).unwrap();
    std::fs::remove_file(&filler).unwrap();
    wait(
        "alice is out of the file",
        || if rig.config().contains(&name) { Err(rig.config()) } else { Ok(()) },
    );
    until_well(&rig);
    assert!(rig.site.config().is_symlink(), "the link is a link");
    rig.done(&["users", "enable", &name]);
    wait("the file is as it was", || if rig.config() == before { Ok(()) } else { Err(rig.config()) });
    rig.done(&["users", "add", "carol"]);
    assert!(rig.config().contains("carol"));
}

/// The script's database of the tutorial, with what was used this month and before.
#[test]
fn a_database_of_the_tutorials_script_comes_over_whole() {
    needs_machine!();
    let rig = Rig::new(VERSIONS[2], "trojan-tls");
    let name = rig.alice().name.clone();
    let now = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::system());
    let (year, month) = (now.year(), now.month());
    let (last_year, last) = if month == 1 { (year - 1, 12) } else { (year, month - 1) };
    let file = rig.site.scratch.join("traffic.db");
    let database = rusqlite::Connection::open(&file).unwrap();
    database
        .execute_batch(&format!(
            "CREATE TABLE users (username TEXT PRIMARY KEY, password TEXT NOT NULL, status TEXT, monthly_quota INTEGER,
                 total_quota INTEGER, reset_day INTEGER, concurrent_connections INTEGER);
             CREATE TABLE traffic_logs (id INTEGER PRIMARY KEY, username TEXT, upload_bytes INTEGER,
                 download_bytes INTEGER, timestamp TIMESTAMP);
             CREATE TABLE monthly_stats (username TEXT, month TEXT, upload_bytes INTEGER, download_bytes INTEGER);
             INSERT INTO users VALUES ('{name}', 'pw', 'active', 2, 0, 1, 3);
             INSERT INTO users VALUES ('carol', 'carols own', 'disabled', 1, 0, 1, 0);
             INSERT INTO users VALUES ('dave', 'daves own', 'disabled', 1, 0, 1, 0);
             INSERT INTO monthly_stats VALUES ('{name}', '{year:04}-{month:02}', 1000, 2000);
             INSERT INTO monthly_stats VALUES ('{name}', '{last_year:04}-{last:02}', 30000, 40000);
             INSERT INTO monthly_stats VALUES ('carol', '{year:04}-{month:02}', 1, 1073741823);
             INSERT INTO monthly_stats VALUES ('dave', '{last_year:04}-{last:02}', 1, 1073741823);"
        ))
        .unwrap();
    drop(database);
    let report = rig.done(&["users", "import", file.to_str().unwrap()]);
    let told = report["not_understood"].to_string();
    for words in ["carol", "the quota decides", "dave", "users enable"] {
        assert!(told.contains(words), "{words}: {report}");
    }
    let shown = rig.show(&name);
    assert_eq!(shown["period"]["used_bytes"], json!(3000), "this month's: {shown}");
    assert_eq!(shown["total"]["used_bytes"], json!(73_000), "{shown}");
    assert_eq!(shown["period"]["quota_bytes"], json!(2_u64 << 30));
    assert_eq!(shown["max_addresses"], json!(3), "connections are places: {shown}");
    rig.until_state("carol", "limited");
    rig.until_state("dave", "disabled");
    wait("what they had used is in the overview's sum", || {
        let totals = rig.agent.ask(&["top"])?["totals"].clone();
        let of = |key: &str| totals[key].as_u64().unwrap_or_default();
        let users = of("total_bytes") - of("unattributed_bytes");
        if users == 73_000 + (2 << 30) { Ok(()) } else { Err(totals.to_string()) }
    });
    rig.exchange(rig.alice(), 0, MIB).unwrap();
    rig.done(&["users", "import", file.to_str().unwrap()]);
    let again = rig.show(&name)["period"]["used_bytes"].as_u64().unwrap();
    assert!((MIB + 3000..2 * MIB).contains(&again), "nothing twice: {again}");
    assert_eq!(rig.done(&["audit"])["difference_bytes"], json!(0));
}

/// What people of a panel had comes over to inbounds that are here, by type and port; what is not here is
/// told in sing-box's own words, which it takes.
#[test]
fn databases_of_panels_come_over_whole() {
    needs_machine!();
    let rig = hurried("2s", |_| {});
    let name = rig.alice().name.clone();
    let before: serde_json::Value = serde_json::from_str(&rig.config()).unwrap();
    let inbound =
        before["inbounds"].as_array().unwrap().iter().find(|it| it["type"] == json!("trojan")).unwrap();
    let entry = inbound["users"].as_array().unwrap().iter().find(|it| it["name"] == json!(name)).unwrap();
    let (port, password) = (inbound["listen_port"].as_u64().unwrap(), entry["password"].as_str().unwrap());
    rig.done(&["users", "delete", &name, "--yes"]);
    wait("alice is gone", || if rig.config().contains(&name) { Err(rig.config()) } else { Ok(()) });
    let soon = &jiff::Zoned::now() + jiff::Span::new().days(3);
    let file = xui(&rig, (&name, password, port), &soon);
    let file = file.to_str().unwrap();
    let text = rig.config();
    let outcome = |report: &serde_json::Value, name: &str| {
        let users = report["users"].as_array().unwrap();
        users.iter().find(|it| it["name"] == json!(name)).unwrap_or(&json!(null))["outcome"].clone()
    };
    let trial = rig.done(&["users", "import", file, "--dry-run"]);
    assert_eq!(trial["read_as"]["program"], json!("3x-ui"));
    assert_eq!(trial["renamed_inbounds"], json!([{"from": format!("inbound-{port}"), "to": inbound["tag"]}]));
    assert_eq!(
        [outcome(&trial, &name), outcome(&trial, "eve")],
        [json!("added"), json!("refused")],
        "{trial}"
    );
    let snippet = json!({"inbounds": [trial["missing_inbounds"][0]["snippet"]]});
    let suggested = rig.site.scratch.join("suggested.json");
    std::fs::write(&suggested, snippet.to_string()).unwrap();
    let check =
        std::process::Command::new(binary(VERSIONS[2])).arg("check").arg("-c").arg(&suggested).output();
    assert!(check.as_ref().unwrap().status.success(), "{check:?}");
    assert_eq!(rig.config(), text, "a trial changes nothing");
    let report = rig.done(&["users", "import", file]);
    assert_eq!(
        [outcome(&report, &name), outcome(&report, "eve")],
        [json!("added"), json!("refused")],
        "{report}"
    );
    assert_eq!(outcome(&report, "panel-admin"), json!(null));
    assert!(!rig.config().contains("18443"), "a missing inbound is never written");
    wait("alice logs in as she did", || rig.exchange(rig.alice(), 0, MIB));
    let shown = rig.show(&name);
    assert_eq!((&shown["total"]["quota_bytes"], &shown["max_addresses"]), (&json!(1_u64 << 40), &json!(4)));
    let used = shown["total"]["used_bytes"].as_u64().unwrap();
    assert!((MIB + 7..2 * MIB).contains(&used), "with what she had used: {shown}");
    let end = rig.show("rita")["period"]["end"].as_str().unwrap().to_owned();
    assert!(end.starts_with(&soon.date().to_string()), "on the day on which the panel would renew: {end}");
    rig.until_state("off", "disabled");
    assert!(!rig.config().contains("off's own"), "who is switched off is not let in");
    // As the report says: the inbound into the file, and once more.
    let mut whole: serde_json::Value = serde_json::from_str(&rig.config()).unwrap();
    whole["inbounds"].as_array_mut().unwrap().push(snippet["inbounds"][0].clone());
    std::fs::write(rig.site.config(), whole.to_string()).unwrap();
    wait("eve comes over", || {
        let report = rig.agent.ask(&["users", "import", file])?;
        if outcome(&report, "eve") == json!("added") { Ok(()) } else { Err(report.to_string()) }
    });
    let whole: serde_json::Value = serde_json::from_str(&rig.config()).unwrap();
    let entries = &whole["inbounds"].as_array().unwrap().last().unwrap()["users"];
    assert_eq!(*entries, json!([{"name": "eve", "uuid": UUID, "flow": "xtls-rprx-vision"}]));
    sui_comes_over(&rig, inbound["tag"].as_str().unwrap());
    assert_eq!(rig.done(&["audit"])["difference_bytes"], json!(0));
}

const UUID: &str = "b831381d-6324-4d53-ad4f-8cda48b30811";

/// A database of 3x-ui: clients of a trojan inbound that is here, and one of a vless inbound that is not.
fn xui(rig: &Rig, (name, password, port): (&str, &str, u64), soon: &jiff::Zoned) -> std::path::PathBuf {
    let here = json!({"clients": [
        {"email": name, "password": password, "totalGB": 1_u64 << 40, "expiryTime": 0, "enable": true, "limitIp": 4},
        {"email": "rita", "password": "ritas own", "totalGB": 5, "expiryTime": soon.timestamp().as_millisecond(),
         "reset": 10, "enable": true},
        {"email": "off", "password": "off's own", "totalGB": 0, "expiryTime": -86_400_000, "enable": false},
    ]});
    let nowhere =
        json!({"decryption": "none", "clients": [{"email": "eve", "id": UUID, "flow": "xtls-rprx-vision"}]});
    // Not REALITY, which the test's sing-box is built without.
    let (key, certificate) = certificate(VERSIONS[2]);
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<String>>();
    let stream = json!({"network": "tcp", "security": "tls", "tlsSettings": {"serverName": "a.example",
        "certificates": [{"certificate": lines(&certificate), "key": lines(&key)}]}});
    let file = rig.site.scratch.join("x-ui.db");
    rusqlite::Connection::open(&file)
        .unwrap()
        .execute_batch(&format!(
            "CREATE TABLE inbounds (id INTEGER, enable INTEGER, port INTEGER, protocol TEXT, settings TEXT,
                 stream_settings TEXT, tag TEXT);
             CREATE TABLE client_traffics (id INTEGER, email TEXT, up INTEGER, down INTEGER, enable INTEGER);
             CREATE TABLE users (id INTEGER, username TEXT, password TEXT);
             INSERT INTO users VALUES (1, 'panel-admin', 'x');
             INSERT INTO inbounds VALUES (1, 1, {port}, 'trojan', '{}', '{{}}', 'inbound-{port}');
             INSERT INTO inbounds VALUES (2, 1, 18443, 'vless', '{nowhere}', '{stream}', 'inbound-18443');
             INSERT INTO client_traffics VALUES (1, '{name}', 3, 4, 1);",
            here.to_string().replace('\'', "''")
        ))
        .unwrap();
    file
}

fn sui_comes_over(rig: &Rig, tag: &str) {
    let file = rig.site.scratch.join("s-ui.db");
    rusqlite::Connection::open(&file)
        .unwrap()
        .execute_batch(&format!(
            "CREATE TABLE inbounds (id INTEGER, type TEXT, tag TEXT, tls_id INTEGER, options BLOB);
             CREATE TABLE clients (id INTEGER, enable INTEGER, name TEXT, config BLOB, inbounds BLOB, volume INTEGER,
                 expiry INTEGER, up INTEGER, down INTEGER);
             INSERT INTO inbounds VALUES (1, 'trojan', '{tag}', 0, CAST('{{\"listen_port\": 1}}' AS BLOB));
             INSERT INTO clients VALUES (1, 1, 'gina', CAST('{{\"trojan\": {{\"password\": \"ginas own\"}}}}' AS BLOB),
                 CAST('[1]' AS BLOB), 1000, 0, 600, 500);"
        ))
        .unwrap();
    let report = rig.done(&["users", "import", file.to_str().unwrap()]);
    assert_eq!(report["read_as"]["program"], json!("S-UI"));
    assert_eq!(report["users"][0]["outcome"], json!("added"), "{report}");
    rig.until_state("gina", "limited");
    assert_eq!(rig.show("gina")["total"]["used_bytes"], json!(1100));
    rig.done(&["users", "set", "gina", "--total-quota", "1GiB"]);
    wait("gina is in the file", || match rig.config().contains("ginas own") {
        true => Ok(()),
        false => Err(rig.config()),
    });
}
