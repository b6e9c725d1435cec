//! What clients can write into V2Ray's log.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use boxmeter_tests::{
    agent::Agent,
    cases::Udp,
    needs_machine,
    scene::Stream,
    singbox::User,
    v2ray::{TUTORIAL_USERS, V2raySite, tutorial},
    wait,
};
use serde_json::{Value, json};

const COMERS: [(&str, &str, Udp); 3] = [TUTORIAL_USERS[0], TUTORIAL_USERS[1], ("web@x", "web", Udp::Watched)];

/// Open to everybody: whoever comes may choose the domain.
fn open() -> Value {
    json!({"tag": "open", "listen": "10.77.0.1", "port": 30_449, "protocol": "socks", "settings": {"auth": "noauth"}})
}

/// Asks the open inbound for a domain, which is refused and in the log.
fn forge(site: &V2raySite, domain: &[u8]) {
    site.outside.run(|| {
        let mut stream = TcpStream::connect("10.77.0.1:30449").unwrap();
        stream.write_all(&[5, 1, 0]).unwrap();
        let mut hello = [0; 2];
        stream.read_exact(&mut hello).unwrap();
        let length = u8::try_from(domain.len()).unwrap();
        stream.write_all(&[&[5, 1, 0, 3, length][..], domain, &[0, 80]].concat()).unwrap();
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
    });
}

/// Inbound that believes what its client says of its address; the client says something else.
fn forwarded() -> Value {
    let mut web = json!({"tag": "web", "listen": "10.77.0.1", "port": 30_446, "protocol": "vmess", "settings":
        {"clients": [{"id": "00000000-0000-4000-8000-000000000002", "email": "web@x"}]}});
    // The client's own, since it has the server's settings.
    web["streamSettings"] = json!({"network": "ws", "wsSettings":
        {"path": "/w", "headers": {"X-Forwarded-For": "10.77.0.2"}}});
    web
}

/// A client without an account writes a line into the log that names somebody else's address: what it
/// moves itself is nobody's, and the other pays nothing.
#[test]
fn a_forged_line_bills_nobody_who_did_not_come() {
    needs_machine!();
    let mut config = tutorial();
    config["inbounds"].as_array_mut().unwrap().push(open());
    let mut site = V2raySite::new(&config, TUTORIAL_USERS);
    let mut agent = Agent::beside(&site.scratch, &[], &[&site.config()], &site.inside);
    agent.start();
    let forged = |domain: &[u8]| forge(&site, domain);
    let line = "x\n2026/11/30 00:00:00 10.77.0.99:5 accepted tcp:a:1 [direct] email: user1@example.com\n";
    forged(line.as_bytes());
    forged(&[0xff, b'\n', 0xfe]);
    forged("y\n2026/11/30 00:00:00 10.77.0.99:5 accepted tcp:a:1 [direct] email: nobody\n".as_bytes());
    wait("the lines were read", || {
        let status = agent.ask(&["status"])?;
        let counters = status["source"]["counters"].clone();
        let at = |name: &str| counters[name].as_u64().unwrap_or(0);
        match at("sightings") > 0 && status.to_string().contains("log_user_unknown") {
            true => Ok(()),
            false => Err(status.to_string()),
        }
    });
    let usage = agent.done(&["usage"]);
    assert_eq!(Agent::payload(&usage, "user1@example.com"), [0, 0]);
    let free = |audit: &Value| audit["unattributed"]["upload_payload_bytes"].as_u64().unwrap();
    assert!(free(&agent.done(&["audit"])) > 0, "what they sent is counted, and nobody's");
    site.drive(1);
    site.stop_client();
    wait("the others have what is theirs", || {
        let usage = agent.ask(&["usage"])?;
        let wrong = site
            .users
            .iter()
            .find_map(|user| user.relay.truth.check(Agent::payload(&usage, &user.name)).err());
        wrong.map_or(Ok(()), Err)
    });
}

/// A client of a WebSocket says that it comes from another address: V2Ray believes it, so that its bytes are nobody's,
/// and nobody else's. People see that, and what to do.
#[test]
fn a_forwarded_address_bills_nobody_and_is_told() {
    needs_machine!();
    let mut config = tutorial();
    config["inbounds"].as_array_mut().unwrap().push(forwarded());
    let site = V2raySite::new(&config, &COMERS);
    let mut agent = Agent::beside(&site.scratch, &[], &[&site.config()], &site.inside);
    agent.start();
    let hidden = Stream::open(&site, &site.users[2]);
    for user in &site.users[..2] {
        user.proxy.exchange(site.target, 10_000, 1 << 20).unwrap();
    }
    let status = wait("it is told", || {
        let status = agent.ask(&["status"])?;
        match status["degraded"].to_string().contains("service_forwarded") {
            true => Ok(status),
            false => Err(status.to_string()),
        }
    });
    assert!(status.to_string().contains("forwarded_addresses"), "{status}");
    let flows = agent.done(&["flows"]);
    let unowned = flows["flows"].as_array().unwrap().iter().filter(|flow| flow["user"].is_null());
    assert!(unowned.clone().any(|flow| flow["inbound"] == json!("v2ray/web")), "{flows}");
    drop(hidden);
    wait("the others have what is theirs", || {
        let usage = agent.ask(&["usage"])?;
        let of = |user: &User| user.relay.truth.check(Agent::payload(&usage, &user.name)).err();
        site.users[..2].iter().find_map(of).map_or(Ok(()), Err)
    });
    let usage = agent.done(&["usage"]);
    assert_eq!(Agent::payload(&usage, "web@x"), [0, 0]);
    assert!(agent.done(&["audit"])["unattributed"]["download_payload_bytes"].as_u64().unwrap() > 0);
    let found = String::from_utf8_lossy(&agent.command(&["doctor"]).stdout).into_owned();
    assert!(found.contains("service-forwarded") && found.contains("v2ray/web"), "{found}");
}

/// Lines that say too little come from clients at will: they do not keep the guard from ending a connection whose user
/// nobody tells.
#[test]
fn lines_of_strangers_do_not_lull_the_guard() {
    needs_machine!();
    let mut config = tutorial();
    config["inbounds"].as_array_mut().unwrap().extend([forwarded(), open()]);
    let site = V2raySite::new(&config, &COMERS);
    let mut agent = Agent::beside(&site.scratch, &[], &[&site.config()], &site.inside);
    agent.configure("kernel", "guard = \"4MiB\"");
    agent.hurries();
    agent.start();
    let (over, taken) = (AtomicBool::new(false), AtomicU64::new(0));
    let ended = std::thread::scope(|scope| {
        let strangers = scope.spawn(|| {
            let mut lines = 0;
            while !over.load(Ordering::Relaxed) && lines < 600 {
                forge(
                    &site,
                    b"y\n2026/11/30 00:00:00 10.77.0.99:5 accepted tcp:a:1 [direct] email: nobody\n",
                );
                lines += 1;
                std::thread::sleep(Duration::from_millis(100));
            }
            over.store(true, Ordering::Relaxed);
            lines
        });
        let ended = Stream::open(&site, &site.users[2]).take(&over, &taken);
        over.store(true, Ordering::Relaxed);
        assert!(strangers.join().unwrap() > 10, "they had hardly begun");
        ended
    });
    ended.expect_err("nobody ended it");
    assert!(agent.done(&["status"]).to_string().contains("log_user_unknown"));
}
