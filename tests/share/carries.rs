//! Every inbound type, on every release: the subscription is accepted by the client's own check, and carries
//! TCP and UDP to the target; the bytes are the user's.

use crate::{link_reader, rig::Rig};
use boxmeter_tests::cases::{Case, Client, Tls, Udp, matrix};
use boxmeter_tests::singbox::{BYTES, SERVER_NAME, User, VERSIONS};
use boxmeter_tests::{long, needs_machine, wait};
use serde_json::{Value, json};

/// As the harness does where sing-box itself drops connections.
const TRIES: u32 = 10;

fn carries(version: &'static str) {
    needs_machine!();
    let mut cases = matrix(long());
    // One more type each that the short form leaves out.
    for name in ["hysteria", "http-tls", "mixed-socks", "shadowtls", "vmess-tcp", "vless-ws", "ss-aes"] {
        if cases.iter().all(|case| case.name != name) {
            cases.push(boxmeter_tests::cases::named(name));
        }
    }
    let rig = Rig::new(version, &cases);
    let mut failures = Vec::new();
    for user in rig.site.users.iter().filter(|user| user.name.starts_with("alice")) {
        if let Err(why) = imported(&rig, &user.name, &user.case) {
            failures.push(format!("{}: {why}", user.name));
        }
    }
    assert!(failures.is_empty(), "{version}:\n{}", failures.join("\n"));
}

fn imported(rig: &Rig, name: &str, case: &Case) -> Result<(), String> {
    let file = rig.import(name, "");
    rig.check(&file)?;
    // The name that the settings say, in the place of the server's address.
    let text = std::fs::read_to_string(&file).unwrap();
    let named = text.contains(&format!("\"server_name\": \"{SERVER_NAME}\""));
    let tls = case.tls != Tls::None || case.client == Client::ShadowTls;
    if named != (tls && case.client != Client::Naive) {
        return Err(format!("the name of TLS: {text}"));
    }
    rig.check(&rig.import(name, "?tun=true")).map_err(|why| format!("with TUN: {why}"))?;
    if case.client == Client::Naive {
        // No client of sing-box speaks it; the link is for those that do.
        let links = rig.get(&format!("{}?format=links", rig.credentials(name).path), "");
        return match links.body.starts_with("naive+https://") {
            true => Ok(()),
            false => Err(links.body),
        };
    }
    let (process, proxy) = rig.start(&file);
    let failed = |error: std::io::Error| format!("{error}\n{}", process.log());
    retried(case, || proxy.exchange(rig.target, BYTES, 3 * BYTES)).map_err(failed)?;
    if case.udp == Udp::Watched && !matches!(case.kind, "http" | "mixed") {
        let echo = || proxy.echo(rig.target, 5, 700);
        retried(case, echo).map_err(|error| format!("udp: {}", failed(error)))?;
    }
    Ok(())
}

fn retried(case: &Case, carry: impl Fn() -> std::io::Result<()>) -> std::io::Result<()> {
    let mut last = Ok(());
    for _ in 0..if case.drops { TRIES } else { 3 } {
        last = carry();
        if last.is_ok() {
            break;
        }
    }
    last
}

#[test]
fn subscriptions_carry_traffic_on_1_12() {
    carries(VERSIONS[0]);
}

#[test]
fn subscriptions_carry_traffic_on_1_13() {
    carries(VERSIONS[1]);
}

#[test]
fn subscriptions_carry_traffic_on_1_14() {
    carries(VERSIONS[2]);
}

/// The first way in that the page has, for who has no app for subscriptions: its link by itself.
fn linked(rig: &Rig, user: &User) -> Result<(), String> {
    let shared = rig.credentials(&user.name).servers;
    let [one] = shared.as_slice() else { return Err(format!("{} ways in", shared.len())) };
    let Some(link) = &one.link else { return Err("no link".to_owned()) };
    let outbound = link_reader::outbound(link);
    let inbound = json!({"type": "mixed", "listen": "127.0.0.1", "listen_port": 2080});
    let config = json!({"log": {"level": "warn"}, "inbounds": [inbound], "outbounds": [outbound]});
    let file = rig.site.scratch.join(&format!("{}.link.json", user.name));
    std::fs::write(&file, config.to_string()).unwrap();
    let (process, mut proxy) = rig.start(&file);
    proxy.padded = user.case.client == Client::Naive;
    retried(&user.case, || proxy.exchange(rig.target, BYTES, 3 * BYTES))
        .map_err(|error| format!("{error} with {link}\n{}", process.log()))
}

#[test]
fn links_carry_traffic() {
    needs_machine!();
    let mut cases = matrix(long());
    // No client reads a form of links for it.
    cases.retain(|case| case.client != Client::ShadowTls);
    let rig = Rig::new(VERSIONS[2], &cases);
    let users = rig.site.users.iter().filter(|user| user.name.starts_with("alice"));
    let failed = |user: &User| linked(&rig, user).err().map(|why| format!("{}: {why}", user.name));
    let failures: Vec<_> = users.filter_map(failed).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// The figures in the header are the user's own, both directions, to the byte.
#[test]
fn the_header_has_what_was_really_used() {
    needs_machine!();
    let rig = Rig::new(VERSIONS[2], &[boxmeter_tests::cases::named("trojan-tls")]);
    let user = "alice-trojan-tls";
    rig.agent.ask(&["users", "set", user, "--quota", "1GiB", "--expires", "2099-01-01T00:00:00Z"]).unwrap();
    {
        let (_process, proxy) = rig.start(&rig.import(user, ""));
        proxy.exchange(rig.target, BYTES, 3 * BYTES).unwrap();
    }
    let path = rig.credentials(user).path;
    wait("the header agrees with the meter", || {
        let usage: Value = rig.agent.ask(&["usage", "--user", user])?;
        let [upload, download] = boxmeter_tests::agent::Agent::payload(&usage, user);
        let answer = rig.get(&path, "clash-verge/v2.4.0");
        let said = answer.headers["subscription-userinfo"].to_str().unwrap().to_owned();
        let truth = format!("upload={upload}; download={download}; total=1073741824; expire=4070908800");
        let moved = upload >= BYTES && download >= 3 * BYTES;
        if said == truth && moved { Ok(()) } else { Err(format!("{said}, truth {truth}; {}", json!(usage))) }
    });
}

/// What boxmeter makes for somebody new is what a client gets in with, on every type of inbound: one user each, all
/// with one edit and one reload.
#[test]
fn made_credentials_carry_traffic_on_every_type() {
    needs_machine!();
    let names = [
        "trojan-tls",
        "vmess-tcp",
        "vless-vision",
        "ss2022",
        "ss-aes",
        "hysteria",
        "hysteria2",
        "tuic",
        "anytls",
        "naive",
        "socks",
        "http-tls",
        "mixed-socks",
        "shadowtls",
    ];
    let cases = names.map(boxmeter_tests::cases::named);
    let rig = Rig::new(VERSIONS[2], &cases);
    let mut table = "name,inbounds\n".to_owned();
    for case in &cases {
        table.push_str(&format!("new-{0},{0}-in\n", case.name));
    }
    let file = rig.site.scratch.join("new.csv");
    std::fs::write(&file, table).unwrap();
    rig.agent.done(&["users", "import", file.to_str().unwrap()]);
    wait("sing-box has read it", || match rig.agent.done(&["status"])["enforcement"].clone() {
        now if now["pending"].is_null() && now["reloads"] == json!(1) => Ok(()),
        now => Err(now.to_string()),
    });
    let mut failures = Vec::new();
    for case in &cases {
        let name = format!("new-{}", case.name);
        let done = imported(&rig, &name, case);
        let used: u64 =
            boxmeter_tests::agent::Agent::payload(&rig.agent.done(&["usage"]), &name).iter().sum();
        match done {
            Err(why) => failures.push(format!("{name}: {why}")),
            Ok(()) if used < BYTES && case.client != Client::Naive => {
                failures.push(format!("{name}: {used} bytes"))
            }
            Ok(()) => {}
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
