//! Who is an account of a service that counts whoever comes: nobody by himself whom an admin deleted, and nobody who is
//! not on its list.

use std::fs;

use boxmeter_tests::{
    agent::Agent,
    needs_machine,
    netns::Netns,
    nginx::{Nginx, Vts},
    scratch::Scratch,
    wait,
};
use serde_json::{Value, json};

struct Rig {
    /// The first to be dropped: it needs the others' folders.
    agent: Agent,
    nginx: Nginx,
    vts: Vts,
    _scratch: Scratch,
}

impl Rig {
    fn new(more: &str) -> Rig {
        Rig::beside(more, None)
    }

    /// Beside a V2Ray whose configuration says this.
    fn beside(more: &str, v2ray: Option<&str>) -> Rig {
        let (scratch, netns) = (Scratch::new(), Netns::new());
        netns.ip(&["link", "set", "lo", "up"]);
        let vts = Vts::serve(&netns);
        let users = [("alice", "alice"), ("bob", "bob")];
        let mut nginx = Nginx::new(scratch.join("ng"), &netns, 30_882, &users);
        let url = nginx.answer_for(&vts);
        let mut agent = Agent::beside(&scratch, &[], &[], &netns);
        agent.hurries();
        agent.configure("ledger", "tick = \"200ms\"");
        agent.serve(&format!(
            "kind = \"nginx\"\nstatus = {url:?}\nrefuse = {:?}\npid_file = {:?}\nevery = \"1s\"\n{more}",
            nginx.refused(),
            nginx.pid_file()
        ));
        match v2ray {
            None => agent.start(),
            Some(text) => {
                let config = scratch.join("v2ray.json");
                fs::write(&config, text).unwrap();
                agent.serve(&format!("kind = \"v2ray\"\nconfig = [{config:?}]"));
                agent.start_unheard();
            }
        }
        wait("the file is there", || match nginx.refused().is_file() {
            true => Ok(()),
            false => Err("not yet".to_owned()),
        });
        nginx.start();
        vts.until_asked(2);
        Rig { agent, nginx, vts, _scratch: scratch }
    }

    fn grow(&self, user: &str, bytes: [u64; 2]) {
        self.vts.grow(&format!("{user}::example.org"), &format!("/{user}/a"), bytes);
    }

    /// What was reported of this name, over all who had it.
    fn used(&self, user: &str) -> Result<[u64; 2], String> {
        let usage = self.agent.ask(&["usage"])?;
        let rows = usage["rows"].as_array().ok_or("no rows")?.iter().filter(|row| row["user"] == json!(user));
        let of = |row: &Value, key: &str| row[key].as_u64().unwrap_or_default();
        Ok(rows.fold([0, 0], |sum, row| {
            [sum[0] + of(row, "reported_upload_bytes"), sum[1] + of(row, "reported_download_bytes")]
        }))
    }

    fn until_used(&self, user: &str, bytes: [u64; 2]) {
        wait(&format!("{user} has used {bytes:?}"), || match self.used(user)? {
            used if used == bytes => Ok(()),
            used => Err(format!("{used:?}")),
        });
    }

    fn names(&self) -> Vec<String> {
        let users = self.agent.done(&["users", "list"]);
        let names = users["users"].as_array().unwrap().iter().map(|user| user["name"].as_str().unwrap());
        names.map(str::to_owned).collect()
    }

    /// So many readings later.
    fn later(&self) {
        self.vts.until_asked(4);
    }
}

/// He keeps asking, nginx keeps counting him, and boxmeter and nginx are started anew: nobody makes an account of him
/// but an admin.
#[test]
fn whoever_is_deleted_stays_out_and_is_nobody_until_he_is_made_again() {
    needs_machine!();
    let mut rig = Rig::new("");
    rig.grow("alice", [1, 2]);
    rig.grow("bob", [3, 4]);
    rig.until_used("alice", [1, 2]);
    rig.until_used("bob", [3, 4]);
    rig.agent.done(&["users", "delete", "alice", "--yes"]);
    rig.nginx.until("alice", 403);
    rig.grow("alice", [10, 20]);
    rig.later();
    assert_eq!((rig.names(), rig.nginx.get("alice")), (vec!["bob".to_owned()], 403));
    rig.agent.kill();
    rig.grow("alice", [10, 20]);
    rig.agent.start();
    rig.later();
    assert_eq!(
        (rig.names(), rig.nginx.get("alice"), rig.nginx.get("bob")),
        (vec!["bob".to_owned()], 403, 200)
    );
    assert_eq!(rig.agent.events("user_adopted").len(), 2);
    // By an admin only. What he had tried meanwhile is nobody's.
    let before = rig.used("alice").unwrap();
    wait("the name is free", || rig.agent.ask(&["users", "add", "alice"]).map(drop));
    rig.nginx.until("alice", 200);
    rig.later();
    assert_eq!(rig.used("alice").unwrap(), before);
    rig.grow("alice", [100, 200]);
    rig.until_used("alice", [before[0] + 100, before[1] + 200]);
    assert_eq!(rig.agent.show("alice")["period"]["used_bytes"], json!(300));
}

/// The overview has his bytes, and he was seen when they came, though no kernel counts anything of him.
#[test]
fn what_nginx_tells_is_in_the_sums_and_a_sign_of_life() {
    needs_machine!();
    let mut rig = Rig::new("");
    let until_total = |rig: &Rig, bytes: u64| {
        wait(&format!("the total is {bytes}"), || {
            let totals = rig.agent.ask(&["top"])?["totals"].clone();
            let figures = (totals["total_bytes"].as_u64(), totals["unattributed_bytes"].as_u64());
            if figures == (Some(bytes), Some(0)) { Ok(()) } else { Err(totals.to_string()) }
        });
    };
    until_total(&rig, 0);
    rig.grow("alice", [1, 2]);
    rig.until_used("alice", [1, 2]);
    until_total(&rig, 3);
    let seen = |rig: &Rig| rig.agent.show("alice")["last_seen_at"].clone();
    let first = seen(&rig);
    assert!(first.is_string(), "{first}");
    rig.later();
    assert_eq!(seen(&rig), first, "nothing came since");
    rig.grow("alice", [10, 20]);
    rig.until_used("alice", [11, 22]);
    until_total(&rig, 33);
    let then = seen(&rig);
    assert!(then.is_string() && then != first, "{then}");
    let status = rig.agent.done(&["status"]);
    assert_eq!(status["services"][0]["reported"], json!(true), "{status}");
    rig.agent.kill();
    rig.agent.start();
    until_total(&rig, 33);
    assert!(seen(&rig).is_string());
}

/// No name of him is left but in nginx itself and its file, and there also when nginx counts anew.
#[test]
fn whoever_is_purged_stays_out_whatever_nginx_counts() {
    needs_machine!();
    let mut rig = Rig::new("");
    rig.grow("alice", [1, 2]);
    rig.grow("bob", [3, 4]);
    rig.until_used("alice", [1, 2]);
    rig.agent.done(&["users", "delete", "alice", "--purge", "--yes"]);
    rig.nginx.until("alice", 403);
    wait("he is purged", || match rig.agent.events("user_purged").len() {
        1 => Ok(()),
        n => Err(n.to_string()),
    });
    rig.grow("alice", [10, 20]);
    rig.later();
    assert_eq!((rig.names(), rig.nginx.get("alice")), (vec!["bob".to_owned()], 403));
    // An agent that was not told yet what nginx counts does not let him in meanwhile.
    rig.agent.stop();
    rig.vts.set_away(true);
    rig.agent.start();
    rig.agent.done(&["users", "disable", "bob"]);
    rig.nginx.until("bob", 403);
    assert_eq!(rig.nginx.get("alice"), 403);
    rig.vts.set_away(false);
    rig.later();
    assert_eq!((rig.names(), rig.nginx.get("alice")), (vec!["bob".to_owned()], 403));
    rig.agent.stop();
    let mut wal = rig._scratch.join("ledger/ledger.db").into_os_string();
    wal.push("-wal");
    for path in [rig._scratch.join("ledger/ledger.db"), wal.into()] {
        let bytes = fs::read(path).unwrap_or_default();
        assert!(!bytes.windows(5).any(|part| part == b"alice"), "the ledger has the name");
    }
    rig.agent.start();
    rig.vts.forget("alice::example.org", "/alice/a");
    // What follows has been written with what was counted then.
    rig.later();
    rig.agent.done(&["users", "enable", "bob"]);
    rig.nginx.until("bob", 200);
    assert_eq!((rig.names(), rig.nginx.get("alice")), (vec!["bob".to_owned()], 403));
    rig.agent.stop();
    rig.agent.start();
    rig.later();
    rig.agent.done(&["users", "disable", "bob"]);
    rig.nginx.until("bob", 403);
    assert_eq!(rig.nginx.get("alice"), 403);
}

/// A service that is called otherwise is the same nginx with the same users: whoever is out stays out, and is himself.
#[test]
fn users_outlive_another_name_of_their_nginx() {
    needs_machine!();
    let mut rig = Rig::new("");
    rig.grow("alice", [1, 2]);
    rig.grow("bob", [3, 4]);
    rig.until_used("alice", [1, 2]);
    rig.until_used("bob", [3, 4]);
    rig.agent.done(&["users", "set", "bob", "--quota", "5"]);
    rig.nginx.until("bob", 403);
    rig.agent.stop();
    rig.agent.configure("[service]", "name = \"web\"");
    // What it counts is not known for a while.
    rig.vts.set_away(true);
    rig.agent.start();
    rig.agent.done(&["users", "disable", "alice"]);
    rig.nginx.until("alice", 403);
    assert_eq!(rig.nginx.get("bob"), 403);
    rig.vts.set_away(false);
    rig.later();
    assert_eq!((rig.names(), rig.nginx.get("bob")), (vec!["alice".to_owned(), "bob".to_owned()], 403));
    assert_eq!(rig.agent.events("user_vanished").len(), 0);
    assert_eq!(rig.agent.events("service_users_kept").len(), 1);
    assert_eq!(rig.agent.show("bob")["period"]["quota_bytes"], json!(5));
}

/// Who can choose the key cannot choose who pays.
#[test]
fn names_that_are_not_on_the_list_are_neither_counted_nor_refused() {
    needs_machine!();
    let rig = Rig::new("users = [\"alice\"]");
    rig.grow("alice", [1, 2]);
    rig.until_used("alice", [1, 2]);
    rig.agent.done(&["users", "add", "bob"]);
    rig.grow("bob", [3, 4]);
    rig.grow("carol", [5, 6]);
    rig.later();
    assert_eq!((rig.used("bob").unwrap(), rig.used("carol").unwrap()), ([0, 0], [0, 0]));
    rig.agent.done(&["users", "disable", "bob"]);
    rig.agent.done(&["users", "disable", "alice"]);
    rig.nginx.until("alice", 403);
    assert_eq!(rig.nginx.get("bob"), 200);
    assert_eq!(rig.names(), ["alice", "bob"]);
}

/// A proxy whose configuration cannot be read holds up no counting.
#[test]
fn nginx_is_counted_while_no_configuration_of_a_proxy_can_be_read() {
    needs_machine!();
    let rig = Rig::beside("", Some("{"));
    rig.grow("alice", [1, 2]);
    rig.until_used("alice", [1, 2]);
    let status = rig.agent.done(&["status"]);
    assert!(status["degraded"].to_string().contains("service_config"), "{status}");
    // So that all can be taken down.
    fs::write(rig._scratch.join("v2ray.json"), "{}").unwrap();
}
