//! The agent as systemd runs it: with the rights that its unit names, and a watchdog.

use std::{
    io::ErrorKind,
    os::unix::net::UnixDatagram,
    time::{Duration, Instant},
};

use boxmeter_tests::{DEADLINE, needs_machine, wait};
use serde_json::json;

use crate::rig::{MIB, Rig};

const UNIT: &str = include_str!("../../dist/systemd/boxmeter.service");

/// As `setpriv` calls them.
fn rights() -> Vec<String> {
    let line = UNIT.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet=")).unwrap();
    line.split_whitespace().map(|it| it.strip_prefix("CAP_").unwrap().to_lowercase()).collect()
}

/// Counting, a cut, an edit and its reload work with no more rights than those.
#[test]
fn the_rights_of_the_unit_are_enough() {
    needs_machine!();
    let rights = rights();
    assert!(rights.len() > 3 && !rights.contains(&"sys_admin".to_owned()), "{rights:?}");
    let mut rig = Rig::configured("");
    rig.agent.rights(rights);
    rig.agent.start();
    let status = std::fs::read_to_string(format!("/proc/{}/status", rig.agent.process().pid())).unwrap();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap().trim();
    assert_ne!(u64::from_str_radix(effective, 16).unwrap() & (1 << 21), 1 << 21, "it has CAP_SYS_ADMIN");
    let alice = rig.alice().name.clone();
    rig.exchange(rig.alice(), MIB, MIB);
    wait("what alice moved is on the books", || {
        let used = boxmeter_tests::agent::Agent::payload(&rig.done(&["usage"]), &alice);
        if used[0] > MIB && used[1] > MIB { Ok(()) } else { Err(format!("{used:?}")) }
    });
    let config = || std::fs::read_to_string(rig.site.config()).unwrap();
    let before = config();
    let owner = |rig: &Rig| {
        use std::os::unix::fs::MetadataExt as _;
        let meta = std::fs::metadata(rig.site.config()).unwrap();
        (meta.uid(), meta.gid(), meta.mode())
    };
    // Files of a user whom nobody else may look at, not even root without a right to.
    let folder = rig.site.config().parent().unwrap().to_owned();
    for (path, mode) in [(rig.site.config(), 0o600), (folder, 0o700)] {
        std::os::unix::fs::chown(&path, Some(4242), Some(4343)).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    }
    let owned = owner(&rig);
    rig.done(&["users", "disable", &alice]);
    wait("alice is out of the file", || if config().contains(&alice) { Err(config()) } else { Ok(()) });
    assert_eq!(owner(&rig), owned);
    // Until sing-box has read the file, a new connection lives for as long as it takes to learn whose it is.
    wait("alice is cut", || match rig.alice().proxy.exchange(rig.site.target, 0, MIB) {
        Ok(_) => Err("she got in".to_owned()),
        Err(_) => Ok(()),
    });
    rig.done(&["users", "enable", &alice]);
    wait("alice is back", || {
        rig.alice().proxy.exchange(rig.site.target, 0, MIB).map_err(|it| it.to_string())
    });
    wait("the file is what it was", || if config() == before { Ok(()) } else { Err(config()) });
    assert_eq!(rig.done(&["audit"])["difference_bytes"], json!(0));
}

/// What the agent tells systemd, until `enough` of it was there or it is silent for `quiet`.
fn told(socket: &UnixDatagram, quiet: Duration, enough: impl Fn(&[String]) -> bool) -> Vec<String> {
    let (mut told, mut buffer) = (Vec::new(), [0; 512]);
    let deadline = Instant::now() + DEADLINE;
    socket.set_read_timeout(Some(quiet)).unwrap();
    while !enough(&told) && Instant::now() < deadline {
        match socket.recv(&mut buffer) {
            Ok(length) => {
                let text = String::from_utf8_lossy(&buffer[..length]);
                told.extend(text.lines().map(str::to_owned));
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => break,
            Err(error) => panic!("{error}"),
        }
    }
    told
}

#[test]
fn the_agents_loop_says_that_it_lives_and_a_stuck_one_does_not() {
    needs_machine!();
    let mut rig = Rig::configured("");
    let path = rig.site.scratch.join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    rig.agent.environment("NOTIFY_SOCKET", path.to_str().unwrap());
    rig.agent.environment("WATCHDOG_USEC", "4000000");
    rig.agent.start();
    let lives = |told: &[String]| told.iter().filter(|line| *line == "WATCHDOG=1").count();
    let said = told(&socket, DEADLINE, |told| lives(told) >= 3);
    assert!(said.contains(&"READY=1".to_owned()) && lives(&said) >= 3, "{said:?}");
    rig.agent.stop();
    told(&socket, Duration::from_millis(100), |_| false);
    // The process is there, its other threads too; only the loop does not come round.
    rig.agent.fails_at(Some("watchdog"));
    rig.agent.spawn();
    let said = told(&socket, DEADLINE, |told| told.contains(&"READY=1".to_owned()));
    assert!(said.contains(&"READY=1".to_owned()), "{said:?}");
    let said = told(&socket, Duration::from_secs(6), |told| lives(told) > 0);
    assert_eq!(lives(&said), 0, "{said:?}");
    rig.agent.kill();
}
