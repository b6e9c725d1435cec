//! Every inbound type, on every release: the subscription is accepted by the client's own check, and carries
//! TCP and UDP to the target; the bytes are the user's.

use crate::{link_reader, rig::Rig};
use boxmeter_tests::cases::{Client, Tls, Udp, matrix};
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
        if let Err(why) = imported(&rig, user) {
            failures.push(format!("{}: {why}", user.name));
        }
    }
    assert!(failures.is_empty(), "{version}:\n{}", failures.join("\n"));
}

fn imported(rig: &Rig, user: &User) -> Result<(), String> {
    let file = rig.import(&user.name, "");
    rig.check(&file)?;
    // The name that the settings say, in the place of the server's address.
    let text = std::fs::read_to_string(&file).unwrap();
    let named = text.contains(&format!("\"server_name\": \"{SERVER_NAME}\""));
    let tls = user.case.tls != Tls::None || user.case.client == Client::ShadowTls;
    if named != (tls && user.case.client != Client::Naive) {
        return Err(format!("the name of TLS: {text}"));
    }
    rig.check(&rig.import(&user.name, "?tun=true")).map_err(|why| format!("with TUN: {why}"))?;
    if user.case.client == Client::Naive {
        // No client of sing-box speaks it; the link is for those that do.
        let links = rig.get(&format!("{}?format=links", rig.credentials(&user.name).path), "");
        return match links.body.starts_with("naive+https://") {
            true => Ok(()),
            false => Err(links.body),
        };
    }
    let (process, proxy) = rig.start(&file);
    let failed = |error: std::io::Error| format!("{error}\n{}", process.log());
    retried(user, || proxy.exchange(rig.target, BYTES, 3 * BYTES)).map_err(failed)?;
    if user.case.udp == Udp::Watched && !matches!(user.case.kind, "http" | "mixed") {
        let echo = || proxy.echo(rig.target, 5, 700);
        retried(user, echo).map_err(|error| format!("udp: {}", failed(error)))?;
    }
    Ok(())
}

fn retried(user: &User, carry: impl Fn() -> std::io::Result<()>) -> std::io::Result<()> {
    let mut last = Ok(());
    for _ in 0..if user.case.drops { TRIES } else { 3 } {
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
    retried(user, || proxy.exchange(rig.target, BYTES, 3 * BYTES))
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
