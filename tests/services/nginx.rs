//! nginx with nginx-module-vts: users are counted by what it says, each byte once, and over quota real nginx
//! refuses them until they may come again.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use boxmeter_tests::{
    agent::Agent,
    long, needs_machine,
    netns::Netns,
    nginx::{Nginx, Vts},
    scratch::Scratch,
    wait,
};
use rand::RngExt as _;
use serde_json::{Value, json};

use crate::rig::MIB;

/// A name that would end every quotation.
const HOSTILE: &str = "a\"; return 200; # \\z'";

pub struct Rig {
    /// The first to be dropped: it needs the others' folders.
    pub agent: Agent,
    pub nginx: Nginx,
    pub vts: Vts,
    pub netns: Netns,
    pub scratch: Scratch,
}

impl Rig {
    /// The agent runs, and then nginx; its totals are told also while it does not run.
    pub fn new() -> Rig {
        let mut rig = Rig::still(30_881, true);
        rig.run();
        rig
    }

    /// The agent runs, and then nginx, which tells its totals itself.
    fn answering() -> Rig {
        let mut rig = Rig::told(30_881, true, Nginx::answer_for);
        rig.run();
        rig
    }

    pub fn run(&mut self) {
        self.agent.start();
        wait("the file is there", || match self.nginx.refused().is_file() {
            true => Ok(()),
            false => Err("not yet".to_owned()),
        });
        self.nginx.start();
        self.vts.until_asked(2);
    }

    /// Nothing runs. nginx is named to the agent by its pid file, or by its configuration. What it has counted is
    /// told also while it does not run.
    pub fn still(port: u16, by_pid: bool) -> Rig {
        Rig::told(port, by_pid, |_, vts| vts.url())
    }

    /// Nothing runs; `status` says where the totals are told.
    pub fn told(port: u16, by_pid: bool, status: impl FnOnce(&Nginx, &Vts) -> String) -> Rig {
        let (scratch, netns) = (Scratch::new(), Netns::new());
        netns.ip(&["link", "set", "lo", "up"]);
        let vts = Vts::serve(&netns);
        let quoted = format!("\"{}\"", HOSTILE.replace('\\', "\\\\").replace('"', "\\\""));
        let users =
            [("user1", "user1"), ("User1", "User1"), ("user2", "user2"), ("hostile", quoted.as_str())];
        let nginx = Nginx::new(scratch.join("ng"), &netns, port, &users);
        let mut agent = Agent::beside(&scratch, &[], &[], &netns);
        agent.hurries();
        agent.configure("ledger", "tick = \"200ms\"");
        agent.serve(&nginx_lines(&nginx, &status(&nginx, &vts), by_pid));
        Rig { agent, nginx, vts, netns, scratch }
    }

    /// Until a part is told to be degraded with these words, or until it is not.
    pub fn until_degraded(&self, part: &str, words: Option<&str>) {
        wait(&format!("{part}: {words:?}"), || {
            let status = self.agent.ask(&["status"])?;
            let all = status["degraded"].as_array().unwrap().clone();
            let found = all.iter().find(|it| it["part"] == json!(part)).map(Value::to_string);
            match (&found, words) {
                (Some(text), Some(words)) if text.contains(words) => Ok(()),
                (None, None) => Ok(()),
                _ => Err(format!("{found:?}")),
            }
        });
    }

    /// A group per user with a key per address, as in the tutorial.
    pub fn grow(&self, user: &str, bytes: [u64; 2]) {
        self.vts.grow(&format!("{user}::example.org"), &format!("/{user}/a"), bytes);
    }

    pub fn until_used(&self, user: &str, bytes: [u64; 2]) {
        wait(&format!("{user} has used {bytes:?}"), || match reported(&self.agent.ask(&["usage"])?, user) {
            used if used == bytes => Ok(()),
            used => Err(format!("{used:?}")),
        });
    }
}

/// nginx as a service of the agent's configuration.
pub fn nginx_lines(nginx: &Nginx, status: &str, by_pid: bool) -> String {
    let named = match by_pid {
        true => format!("pid_file = {:?}", nginx.pid_file()),
        false => format!("config = [{:?}]", nginx.config()),
    };
    format!(
        "kind = \"nginx\"\nstatus = {:?}\nrefuse = {:?}\nevery = \"1s\"\n{named}\n",
        status,
        nginx.refused()
    )
}

pub fn reported(usage: &Value, user: &str) -> [u64; 2] {
    let row = usage["rows"].as_array().and_then(|rows| rows.iter().find(|row| row["user"] == json!(user)));
    ["reported_upload_bytes", "reported_download_bytes"]
        .map(|key| row.and_then(|row| row[key].as_u64()).unwrap_or_default())
}

/// What the tutorial wants: counted per user, refused over quota by a real nginx, back by a package and by the
/// period's turn; nobody else notices.
#[test]
fn a_user_over_quota_is_refused_by_nginx_and_comes_back() {
    needs_machine!();
    let rig = Rig::answering();
    // Counted before boxmeter: a baseline that nobody pays.
    assert_eq!(rig.nginx.get("user1"), 200);
    rig.grow("user1", [100, 1_000]);
    rig.grow("User1", [1, 1]);
    rig.vts.grow("users::example.org", "user2", [7, 70]);
    rig.until_used("user1", [100, 1_000]);
    rig.until_used("User1", [1, 1]);
    rig.until_used("user2", [7, 70]);
    rig.agent.done(&["users", "set", "user1", "--quota", "1MiB", "--period", "day"]);
    rig.grow("user1", [0, MIB]);
    let shown = rig.agent.until_state("user1", "limited");
    assert_eq!(shown["period"]["used_bytes"], json!(MIB + 1_100));
    assert_eq!(shown["services"][0]["service"], json!("nginx"), "{shown}");
    assert_eq!(shown["services"][0]["reported_download_bytes"], json!(MIB + 1_000), "{shown}");
    let pid = rig.nginx.pid();
    rig.nginx.until("user1", 403);
    assert_eq!(
        ["User1", "user2"].map(|path| rig.nginx.get(path)),
        [200, 200],
        "names that differ in case are two"
    );
    rig.agent.done(&["packages", "add", "user1", "8MiB"]);
    rig.agent.until_state("user1", "active");
    rig.nginx.until("user1", 200);
    rig.grow("user1", [0, 16 * MIB]);
    rig.agent.until_state("user1", "limited");
    rig.nginx.until("user1", 403);
    rig.agent.moves_clock(Duration::from_secs(25 * 3600));
    rig.agent.until_state("user1", "active");
    rig.nginx.until("user1", 200);
    assert_eq!(rig.nginx.pid(), pid, "it was reloaded and never restarted");
    // No audit counts what the kernel did not see.
    assert_eq!(rig.agent.done(&["audit"])["difference_bytes"], json!(0));
    let status = rig.agent.done(&["status"]);
    assert_eq!(status["ok"], json!(true), "{status}");
    assert_eq!(
        (&status["services"][0]["kind"], &status["services"][0]["pid"]),
        (&json!("nginx"), &json!(pid))
    );
}

/// A name cannot end what it is written into, and a deleted user stays out.
#[test]
fn hostile_names_are_refused_as_others_and_whoever_is_deleted_stays_out() {
    needs_machine!();
    let rig = Rig::answering();
    rig.vts.grow("users::example.org", HOSTILE, [1, 2]);
    rig.vts.grow("users::example.org", "two\nlines", [1, 2]);
    rig.grow("user1", [3, 4]);
    rig.until_used(HOSTILE, [1, 2]);
    rig.until_used("user1", [3, 4]);
    rig.agent.done(&["users", "disable", HOSTILE]);
    rig.nginx.until("hostile", 403);
    assert_eq!(rig.nginx.get("user1"), 200);
    rig.agent.done(&["users", "enable", HOSTILE]);
    rig.nginx.until("hostile", 200);
    let users = rig.agent.done(&["users", "list"])["users"].to_string();
    assert!(!users.contains("lines"), "such a name is no user's: {users}");
    // Deleted, he goes on trying, and nginx goes on counting him.
    rig.agent.done(&["users", "delete", HOSTILE, "--yes"]);
    rig.nginx.until("hostile", 403);
    rig.vts.grow("users::example.org", HOSTILE, [1, 2]);
    rig.vts.until_asked(4);
    assert_eq!(rig.nginx.get("hostile"), 403);
    assert_eq!(rig.agent.done(&["users", "list"])["users"].as_array().map(Vec::len), Some(1));
}

/// What nginx does not take is taken back and told; it follows by itself when it can.
#[test]
fn what_nginx_does_not_take_is_put_back_and_tried_again() {
    needs_machine!();
    let rig = Rig::answering();
    rig.grow("user1", [1, 2]);
    rig.until_used("user1", [1, 2]);
    let (good, before) = (std::fs::read_to_string(rig.nginx.config()).unwrap(), rig.nginx.refused_text());
    std::fs::write(rig.nginx.config(), good.replace("access_log off;", "acess_log off;")).unwrap();
    rig.agent.done(&["users", "disable", "user1"]);
    let told = wait("the refusal is told", || {
        let events = rig.agent.events("service_refuse_failed");
        events.first().cloned().ok_or_else(|| "nothing yet".to_owned())
    });
    assert!(told.to_string().contains("acess_log"), "{told}");
    assert_eq!((rig.nginx.refused_text(), rig.nginx.get("user1")), (before, 200));
    let status = rig.agent.done(&["status"]);
    assert!(status["degraded"].to_string().contains("service_refuses"), "{status}");
    std::fs::write(rig.nginx.config(), good).unwrap();
    rig.nginx.until("user1", 403);
    wait("the trouble is over", || {
        let status = rig.agent.ask(&["status"])?;
        if status["ok"] == json!(true) { Ok(()) } else { Err(status.to_string()) }
    });
}

/// Killed between any two steps, the next agent ends what was begun.
#[test]
fn an_agent_that_dies_at_any_step_leaves_nothing_half() {
    needs_machine!();
    let mut rig = Rig::answering();
    rig.grow("user1", [1, 2]);
    rig.until_used("user1", [1, 2]);
    for fault in ["nginx-noted", "nginx-written", "nginx-told"] {
        rig.agent.stop();
        rig.agent.fails_at(Some(fault));
        rig.agent.start();
        rig.agent.command(&["users", "disable", "user1"]);
        rig.agent.dies();
        rig.agent.fails_at(None);
        rig.agent.start();
        rig.nginx.until("user1", 403);
        assert_eq!(rig.nginx.get("user2"), 200, "{fault}");
        rig.agent.done(&["users", "enable", "user1"]);
        rig.nginx.until("user1", 200);
    }
}

/// What is no whole answer is not counted by half, and told.
#[test]
fn an_answer_that_breaks_off_changes_nothing() {
    needs_machine!();
    let rig = Rig::answering();
    rig.grow("user1", [10, 20]);
    rig.until_used("user1", [10, 20]);
    let half =
        "{\"moduleVersion\":\"v0.2.7\",\"filterZones\":{\"user1::h\":{\"/\":{\"inBytes\":999,\"outBytes\":9";
    for bad in [half.as_bytes().to_vec(), b"<html>".to_vec(), vec![b' '; 49 << 20], vec![]] {
        rig.vts.instead(Some(bad));
        wait("it is told", || {
            let degraded = rig.agent.ask(&["status"])?["degraded"].to_string();
            if degraded.contains("service_totals") { Ok(()) } else { Err(degraded) }
        });
        rig.vts.instead(None);
        wait("it is over", || {
            let degraded = rig.agent.ask(&["status"])?["degraded"].to_string();
            if degraded.contains("service_totals") { Err(degraded) } else { Ok(()) }
        });
    }
    rig.grow("user1", [1, 1]);
    rig.until_used("user1", [11, 21]);
}

/// How far the ledger is, of what nginx has counted in this life and the ones before.
#[derive(Default)]
struct Counted {
    /// Of the lives that are over.
    before: [u64; 2],
    restarts: usize,
    kills: usize,
}

impl Counted {
    /// Requests of a life: far fewer than in the one before, so that its counters are known to have begun at 0.
    fn busy(&self) -> u64 {
        (0..self.restarts).fold(1 << 49, |busy, _| busy / 10 * 7)
    }

    fn now(&self, bytes: [u64; 2]) -> [u64; 2] {
        [self.before[0] + bytes[0], self.before[1] + bytes[1]]
    }

    /// nginx restarts beside a living agent: what was read of it counts.
    fn restart(&mut self, rig: &mut Rig) {
        rig.vts.set_away(true);
        let last = rig.vts.served("user1");
        rig.until_used("user1", self.now(last));
        self.anew(rig, self.now(last));
    }

    /// nginx restarts while no agent runs: what is committed counts, and no more than was read.
    fn restart_unseen(&mut self, rig: &mut Rig) {
        rig.vts.set_away(true);
        let ledger = rig.scratch.join("ledger/ledger.db");
        let usage = rig.agent.done(&["usage", "--offline", ledger.to_str().unwrap()]);
        let (has, read) = (reported(&usage, "user1"), self.now(rig.vts.served("user1")));
        for direction in 0..2 {
            assert!(
                (self.before[direction]..=read[direction]).contains(&has[direction]),
                "{has:?} of {read:?}"
            );
        }
        self.anew(rig, has);
    }

    fn anew(&mut self, rig: &mut Rig, counted: [u64; 2]) {
        self.before = counted;
        self.restarts += 1;
        rig.nginx.stop();
        rig.vts.begin_anew();
        rig.vts.had_requests(self.busy());
        rig.nginx.start();
        rig.vts.set_away(false);
    }
}

/// Both sides die and restart at random points under traffic; no byte is lost that was read, and none counts twice.
/// What nginx counted and nobody read before it restarted is gone with it.
#[test]
fn restarts_at_random_points_lose_nothing_and_count_nothing_twice() {
    needs_machine!();
    let mut rig = Rig::answering();
    rig.vts.had_requests(Counted::default().busy());
    rig.vts.grow("user1::example.org", "/first", [1, 1]);
    rig.until_used("user1", [1, 1]);
    let (stop, vts) = (AtomicBool::new(false), rig.vts.clone());
    let mut counted = Counted::default();
    std::thread::scope(|scope| {
        let traffic = scope.spawn(|| {
            let mut random = rand::rng();
            while !stop.load(Ordering::Relaxed) {
                let key = format!("/{}", random.random_range(0..20));
                vts.grow(
                    "user1::example.org",
                    &key,
                    [random.random_range(0..1_000), random.random_range(0..100_000)],
                );
                std::thread::sleep(Duration::from_millis(random.random_range(0..5)));
            }
        });
        let rounds = if long() { 100 } else { 20 };
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for round in 0..rounds {
                std::thread::sleep(Duration::from_millis(rand::rng().random_range(0..700)));
                if round % 3 == 0 {
                    counted.restart(&mut rig);
                    continue;
                }
                rig.agent.kill();
                counted.kills += 1;
                if round % 3 == 1 {
                    counted.restart_unseen(&mut rig);
                }
                rig.agent.start();
            }
        }));
        stop.store(true, Ordering::Relaxed);
        traffic.join().unwrap();
        if let Err(panic) = done {
            std::panic::resume_unwind(panic);
        }
    });
    let all = counted.now(rig.vts.truth("user1"));
    rig.until_used("user1", all);
    rig.vts.until_asked(3);
    rig.until_used("user1", all);
    assert!(counted.restarts > 10 && counted.kills > 10, "{} {}", counted.restarts, counted.kills);
    println!("{} restarts of nginx, {} kills of the agent", counted.restarts, counted.kills);
}

/// Keys that nginx has no room for are forgotten and come back from 0.
#[test]
fn evicted_keys_are_no_negative_traffic() {
    needs_machine!();
    let rig = Rig::answering();
    let group = "user1::example.org";
    let mut all = [0, 0];
    for n in 1..=4_u64 {
        rig.vts.grow(group, "/kept", [1, 10]);
        // Lower than it was: of one that is higher it cannot be told whether it began at 0.
        let evicted = [100 * (5 - n), 1_000 * (5 - n)];
        rig.vts.grow(group, "/evicted", evicted);
        all = [all[0] + 1 + evicted[0], all[1] + 10 + evicted[1]];
        rig.until_used("user1", all);
        rig.vts.forget(group, "/evicted");
        rig.vts.until_asked(3);
        rig.until_used("user1", all);
    }
}
