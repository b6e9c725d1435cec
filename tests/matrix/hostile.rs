//! Clients that lie about who they are, and what a busy or broken machine does: nobody pays for another, no
//! byte is lost or doubled.

use crate::metered;
use boxmeter_tests::agent::Agent;
use boxmeter_tests::cases::named;
use boxmeter_tests::questions::{exact, sum};
use boxmeter_tests::singbox::{BYTES, Dropped, SERVER, Site, VERSIONS};
use boxmeter_tests::{DEADLINE, needs_machine, wait};
use serde_json::json;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

/// The header changes the address that sing-box reports, not the port: the flow is found by its port.
#[test]
fn forged_forwarded_address_over_websocket() {
    needs_machine!();
    let headers =
        json!({"transport": {"type": "ws", "path": "/meter", "headers": {"X-Forwarded-For": "10.77.0.2"}}});
    for version in VERSIONS {
        let mut site = Site::new(version, &[named("trojan-ws").outbound(headers.clone())]);
        let agent = metered(&site);
        site.drive(2);
        site.stop_client();
        exact(&site, &agent, &Dropped::new());
    }
}

/// The log of 1.12 and 1.13 names the true address.
#[test]
fn forged_forwarded_address_over_http() {
    needs_machine!();
    for version in &VERSIONS[..2] {
        let mut site = Site::new(version, &[named("http").outbound(forged())]);
        let agent = metered(&site);
        site.drive(2);
        site.stop_client();
        exact(&site, &agent, &Dropped::new());
    }
}

fn forged() -> serde_json::Value {
    json!({"headers": {"X-Forwarded-For": "10.77.0.2"}})
}

fn reported(usage: &serde_json::Value, user: &str) -> [u64; 2] {
    let row = usage["rows"].as_array().and_then(|rows| rows.iter().find(|row| row["user"] == json!(user)));
    ["reported_upload_bytes", "reported_download_bytes"]
        .map(|key| row.and_then(|row| row[key].as_u64()).unwrap_or(0))
}

/// The API of 1.14 loses the port on http and mixed: nothing tells whose a flow is, so that the kernel's bytes
/// are nobody's, and the user has what sing-box itself counted. To the byte, also when the agent is killed.
#[test]
fn forged_forwarded_address_over_http_is_counted_by_report() {
    needs_machine!();
    let mut site = Site::new(VERSIONS[2], &[named("http").outbound(forged())]);
    let mut agent = metered(&site);
    site.drive(2);
    let proxied = |index: u64, drives: u64| {
        let bytes: u64 = (1..=2).map(|round| BYTES * round + 1_000 * index).sum();
        [drives * (bytes + 2 * 16), drives * 3 * bytes]
    };
    let has = |agent: &Agent, site: &Site, drives: u64| {
        wait("sing-box's figures are the users'", || {
            let usage = agent.ask(&["usage"])?;
            for (user, index) in site.users.iter().zip(0..) {
                let (said, truth) = (reported(&usage, &user.name), proxied(index, drives));
                if said != truth {
                    return Err(format!("{}: {said:?}, truth {truth:?}", user.name));
                }
            }
            Ok(())
        });
    };
    has(&agent, &site, 1);
    agent.kill();
    agent.start();
    site.drive(2);
    has(&agent, &site, 2);
    site.stop_client();
    let said = sum(&site, &agent);
    assert_eq!(said, [[0; 2]; 2], "the kernel's bytes of such flows are nobody's");
}

/// SOCKS5 carries UDP over a port that sing-box opens for it.
#[test]
fn udp_over_socks_is_counted_by_report() {
    needs_machine!();
    const DATAGRAMS: [u64; 2] = [20, 700];
    let site = Site::new(VERSIONS[2], &[named("socks")]);
    let agent = metered(&site);
    for user in &site.users {
        let [count, size] = DATAGRAMS;
        user.proxy.echo(site.target, count as u32, size as usize).unwrap();
    }
    // A session that is still open is told with the next renewal of the subscription.
    wait("sing-box's figures are the users'", || {
        let usage = agent.ask(&["usage"])?;
        for user in &site.users {
            let said = reported(&usage, &user.name);
            // A datagram is sent again if its answer is late.
            let least = DATAGRAMS[0] * DATAGRAMS[1];
            if said.iter().any(|bytes| !(least..3 * least).contains(bytes)) {
                return Err(format!("{}: {said:?}, at least {least}", user.name));
            }
        }
        Ok(())
    });
}

/// Without a password, a client writes lines into the log which say that its connection is bob's.
#[test]
fn forged_log_lines_bill_nobody() {
    needs_machine!();
    for version in VERSIONS {
        let mut site = Site::new(version, &[named("socks")]);
        let agent = metered(&site);
        site.drive(1);
        let server = SocketAddr::new(SERVER[0].parse().unwrap(), 21_000);
        for round in 0..20 {
            let mut stream = site.outside.run(|| TcpStream::connect(server)).unwrap();
            let own = stream.local_addr().unwrap();
            let line = format!("[{round} 0ms] inbound/socks[socks-in]:");
            let name = format!(
                "q\n{line} inbound connection from {own}\n{line} [bob-socks] inbound connection to x"
            );
            let words = [&[5, 1, 2, 1, name.len() as u8][..], name.as_bytes(), &[2], b"pw"].concat();
            stream.write_all(&words).unwrap();
            stream.set_read_timeout(Some(DEADLINE)).unwrap();
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest);
        }
        site.stop_client();
        wait("each user has the relay's bytes and no more", || {
            let usage = agent.ask(&["usage"])?;
            let check = |user: &boxmeter_tests::singbox::User| {
                user.relay.truth.check(Agent::payload(&usage, &user.name))
            };
            site.users.iter().try_for_each(check)?;
            let audit = agent.ask(&["audit"])?;
            let free = &audit["unattributed"]["upload_payload_bytes"];
            let forged = free.as_u64().is_some_and(|bytes| bytes > 2_000);
            if forged && audit["difference_bytes"] == json!(0) { Ok(()) } else { Err(audit.to_string()) }
        });
    }
}

/// 64 ports for hundreds of connections of two users: a late report must not meet the next owner of a port.
#[test]
fn ports_reused_within_seconds() {
    needs_machine!();
    for version in VERSIONS {
        let mut site = Site::new(version, &[named("trojan-plain")]);
        site.outside.run(|| {
            let set = |name: &str, value: &str| {
                std::fs::write(format!("/proc/sys/net/ipv4/{name}"), value).unwrap()
            };
            set("ip_local_port_range", "50000 50063");
            set("tcp_tw_reuse", "1");
        });
        let agent = metered(&site);
        for round in 0..150 {
            for user in &site.users {
                wait("a free port", || {
                    let moved = user.proxy.exchange(site.target, 100 + round, 2_000);
                    moved.map_err(|error| error.to_string())
                });
            }
        }
        site.stop_client();
        exact(&site, &agent, &Dropped::new());
    }
}

/// The ledger's disk is full for a while: counting goes on in the kernel, people are told, nothing is lost.
#[test]
fn ledger_disk_full() {
    needs_machine!();
    let mut site = Site::new(VERSIONS[2], &[named("trojan-tls"), named("hysteria2")]);
    let disk = site.scratch.mount("ledger", "tmpfs", Some("size=4m"));
    let agent = metered(&site);
    site.drive(1);
    let filler = disk.join("filler");
    let mut file = File::create(&filler).unwrap();
    while file.write_all(&[0; 4096]).is_ok() {}
    site.drive(1);
    let degraded = || -> Result<bool, String> {
        let status = agent.ask(&["status"])?;
        let parts = status["degraded"].as_array().cloned().unwrap_or_default();
        Ok(parts.iter().any(|part| part["part"] == json!("ledger")))
    };
    wait("status says that the ledger cannot be written", || {
        // Bytes that the write-ahead log has room for do not fail: go on until it has none.
        site.drive(1);
        if degraded()? { Ok(()) } else { Err("not degraded".into()) }
    });
    drop(file);
    std::fs::remove_file(&filler).unwrap();
    wait("the ledger is written again", || if degraded()? { Err("degraded".into()) } else { Ok(()) });
    site.stop_client();
    exact(&site, &agent, &Dropped::new());
}
