//! Connections whose user nobody tells. On 1.14 an http client that sends X-Forwarded-For makes one: the API
//! then reports the address that it says, without a port.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use boxmeter_tests::{
    agent::Agent,
    cases::named,
    needs_machine,
    singbox::{Site, VERSIONS},
    wait,
};
use serde_json::json;

use crate::rig::{MIB, Rig, Stops, Stream, while_streaming};
use boxmeter_tests::scene::Scene as _;

/// The first two users come over http and lie about their address, the others over trojan.
fn rig(guard: &str) -> Rig {
    let lie = json!({"headers": {"X-Forwarded-For": "10.77.0.2"}});
    let site = Site::new(VERSIONS[2], &[named("http").outbound(lie), named("trojan-tls")]);
    let mut agent = Agent::new(&site.scratch, &site.config(), &site.inside);
    agent.configure("kernel", &format!("guard = {guard:?}"));
    agent.hurries();
    agent.start();
    Rig { agent, site }
}

#[test]
fn a_connection_without_a_user_is_ended_where_the_guard_is_on() {
    needs_machine!();
    let rig = rig("4MiB");
    while_streaming(&rig, &rig.site.users[2], || {
        let (stop, taken) = (AtomicBool::new(false), AtomicU64::new(0));
        let ended = Stream::open(&rig, rig.alice()).take(&stop, &taken);
        ended.expect_err("nobody stopped it");
        assert!(taken.load(Ordering::Relaxed) > 4 * MIB);
        // Less than that goes on.
        rig.exchange(rig.bob(), MIB, MIB).unwrap();
    });
    wait("it is told", || {
        let told = rig.events("unowned_ended");
        let of_http = |event: &serde_json::Value| {
            event["data"]["inbound"].as_str().is_some_and(|it| it.contains("http"))
        };
        if told.iter().any(of_http) { Ok(()) } else { Err(format!("{told:?}")) }
    });
}

#[test]
fn connections_without_a_user_are_told_while_somebody_is_out() {
    needs_machine!();
    let rig = rig("off");
    let warned = || {
        let status = rig.done(&["status"]);
        let parts = status["degraded"].as_array().cloned().unwrap_or_default();
        let guard = parts.iter().find(|part| part["part"] == json!("guard"));
        guard.map(|part| part["reason"].as_str().unwrap().to_owned())
    };
    rig.done(&["users", "disable", &rig.site.users[3].name]);
    // The reload ends whatever is open.
    wait("sing-box has read its file again", || {
        match rig.done(&["status"])["enforcement"]["reloads"].as_u64() {
            Some(1..) => Ok(()),
            reloads => Err(format!("{reloads:?}")),
        }
    });
    let mut streams: Vec<Stream> = (0..3).map(|_| Stream::open(&rig, rig.alice())).collect();
    let (stop, taken) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let _stops = Stops(&stop);
        let taking: Vec<_> =
            streams.iter_mut().map(|stream| scope.spawn(|| stream.take(&stop, &taken))).collect();
        wait("there is a warning that names the guard", || match warned() {
            Some(reason) if reason.contains("guard = ") => Ok(()),
            other => Err(format!("{other:?}")),
        });
        assert!(taking.iter().all(|it| !it.is_finished()), "one of them was ended");
    });
}
