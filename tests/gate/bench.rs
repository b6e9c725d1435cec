//! The work of today's ways (facts of the field: V2Ray's panels, scripts that rewrite sing-box's users), done
//! by boxmeter: two users on trojan over TLS, one at full speed over a quota of 50 MB, the other at 20 MB/s.

use std::{
    io::Read,
    process::Command,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use boxmeter_tests::{
    agent::Agent,
    cases::named,
    needs_machine,
    singbox::{Site, VERSIONS, binary},
    wait,
};
use serde_json::{Value, json};

use crate::rig::{Rig, Stream};
use boxmeter_tests::scene::Scene as _;

const ROUNDS: usize = 5;

/// 50 MB as the tables of today's ways have it.
const QUOTA: u64 = 50_000_000;

fn median(mut values: Vec<u64>) -> (u64, u64, u64) {
    values.sort_unstable();
    (values[values.len() / 2], values[0], values[values.len() - 1])
}

fn figure(name: &str, values: Vec<u64>, unit: &str, how: &str) {
    let (middle, least, most) = median(values);
    println!("FIGURE\t{name}\t{middle} {unit} ({least}–{most})\t{how}");
}

/// When the last byte came and when the end was seen.
fn until_the_end(stream: &mut Stream, taken: &AtomicU64) -> (Instant, Instant) {
    let (mut buffer, mut last) = (vec![0; 256 << 10], Instant::now());
    while let Ok(n @ 1..) = stream.reader().read(&mut buffer) {
        taken.fetch_add(n as u64, Ordering::Relaxed);
        last = Instant::now();
    }
    (last, Instant::now())
}

/// Takes 20 MB/s until told to stop; did the connection live?
fn slowly(stream: &mut Stream, stop: &AtomicBool) -> bool {
    let mut buffer = vec![0; 200_000];
    let mut next = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        if stream.reader().read_exact(&mut buffer).is_err() {
            return false;
        }
        next += Duration::from_millis(10);
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    true
}

/// One round: bytes beyond the quota, milliseconds from the last byte to the end, broken connections.
fn round(lower: bool) -> [u64; 3] {
    let rig = Rig::new(VERSIONS[2], "trojan-tls");
    let name = rig.alice().name.clone();
    let quota = if lower { "100GiB".to_owned() } else { QUOTA.to_string() };
    rig.done(&["users", "set", &name, "--quota", &quota]);
    let (mut fast, mut slow) = (Stream::open(&rig, rig.alice()), Stream::open(&rig, rig.bob()));
    let (stop, taken) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        let other = scope.spawn(|| slowly(&mut slow, &stop));
        let first = scope.spawn(|| until_the_end(&mut fast, &taken));
        let mut asked = Instant::now();
        if lower {
            wait("it is beyond the quota", || match taken.load(Ordering::Relaxed) {
                bytes if bytes > QUOTA => Ok(()),
                bytes => Err(bytes.to_string()),
            });
            asked = Instant::now();
            rig.done(&["users", "set", &name, "--quota", &QUOTA.to_string()]);
        }
        let (last, end) = first.join().unwrap();
        rig.until_state(&name, "limited");
        let used = rig.used(&name);
        stop.store(true, Ordering::Relaxed);
        let broken = u64::from(!other.join().unwrap());
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap();
        match lower {
            true => [0, ms(last.saturating_duration_since(asked)), broken],
            false => [used - QUOTA, ms(end - last), broken],
        }
    })
}

#[test]
#[ignore = "a benchmark"]
fn bench_todays_work() {
    needs_machine!();
    let rounds: Vec<[u64; 3]> = (0..ROUNDS).map(|_| round(false)).collect();
    let of = |at: usize| rounds.iter().map(|round| round[at]).collect();
    let how =
        "median (least–most) of 5 rounds, real sing-box 1.14.4, trojan over TLS, as counted in the kernel";
    figure("today's work: passed beyond a quota of 50 MB", of(0), "bytes", how);
    figure("today's work: from the last byte until the client sees the end", of(1), "ms", how);
    figure(
        "today's work: connections of the other user that broke before the deferred reload",
        of(2),
        "of 1",
        how,
    );
}

/// Connections of one user at once, as many as the figure to reach has.
const STREAMS: usize = 64;

/// Bytes beyond the quota when one user has many connections; `known`: each owner was known before the first byte.
fn beyond_with_many_streams(known: bool) -> u64 {
    let rig = Rig::new(VERSIONS[2], "trojan-tls");
    let name = rig.alice().name.clone();
    rig.done(&["users", "set", &name, "--quota", &QUOTA.to_string()]);
    let open = |_| if known { Stream::silent(&rig, rig.alice()) } else { Stream::open(&rig, rig.alice()) };
    let mut streams: Vec<_> = (0..STREAMS).map(open).collect();
    if known {
        wait("everyone's owner is known", || {
            let flows = rig.agent.ask(&["flows"])?;
            let owned = |flow: &&Value| flow["user"] == json!(name);
            match flows["flows"].as_array().map_or(0, |all| all.iter().filter(owned).count()) {
                STREAMS => Ok(()),
                known => Err(format!("{known} of {STREAMS}: {flows}")),
            }
        });
        streams.iter_mut().for_each(Stream::begin);
    }
    let taken = AtomicU64::new(0);
    thread::scope(|scope| {
        for stream in &mut streams {
            scope.spawn(|| until_the_end(stream, &taken));
        }
    });
    rig.until_state(&name, "limited");
    rig.used(&name) - QUOTA
}

#[test]
#[ignore = "a benchmark"]
fn bench_quota_of_many_streams() {
    needs_machine!();
    let how = "median (least–most) of 5 rounds, one user, 64 connections at full speed, trojan over TLS, sing-box 1.14.4";
    let rounds = |known| (0..ROUNDS).map(|_| beyond_with_many_streams(known)).collect();
    figure("passed beyond a quota of 50 MB, 64 connections at once", rounds(true), "bytes", how);
    let how = "the same, opened one after the other: what each moves before its owner is known cannot be cut";
    figure("passed beyond a quota of 50 MB while 64 connections were opened", rounds(false), "bytes", how);
}

/// Users in one file.
const USERS: usize = 10_000;

#[test]
#[ignore = "a benchmark"]
fn bench_edit_of_a_running_server() {
    needs_machine!();
    let mut site = Site::new(VERSIONS[2], &[named("trojan-tls")]);
    let file = site.config();
    let mut config: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let users = config["inbounds"][0]["users"].as_array_mut().unwrap();
    users.extend(
        (0..USERS).map(|at| json!({"name": format!("user{at}"), "password": format!("secret-{at}")})),
    );
    std::fs::write(&file, serde_json::to_string_pretty(&config).unwrap()).unwrap();
    site.server = None;
    site.start_server();
    let mut agent = Agent::new(&site.scratch, &site.config(), &site.inside);
    agent.start();
    let rig = Rig { agent, site };
    wait("all are there", || rig.agent.ask(&["users", "show", "user9999"]).map(drop));
    let length = || std::fs::metadata(&file).unwrap().len();
    let edit = |at: usize| {
        let (name, before, asked) = (format!("user{}", 1000 * at), length(), Instant::now());
        thread::scope(|scope| {
            let answer = scope.spawn(|| {
                rig.done(&["users", "disable", &name]);
                asked.elapsed()
            });
            while length() == before {
                thread::sleep(Duration::from_micros(200));
            }
            let written = asked.elapsed();
            [answer.join().unwrap(), written].map(|time| u64::try_from(time.as_millis()).unwrap())
        })
    };
    let times: Vec<_> = (0..ROUNDS).map(edit).collect();
    let of = |at: usize| times.iter().map(|times| times[at]).collect();
    let how = "median (least–most) of 5, from the start of the command, beside a running server";
    figure("`users disable` to its answer, 10,000 users", of(0), "ms", how);
    figure(
        "edit of a configuration with 10,000 users, `users disable` to the changed file",
        of(1),
        "ms",
        how,
    );
    // The part of that which is sing-box's own.
    let check = (0..ROUNDS).map(|_| {
        let asked = Instant::now();
        let done = Command::new(binary(VERSIONS[2])).arg("check").arg("-c").arg(&file).status().unwrap();
        assert!(done.success());
        u64::try_from(asked.elapsed().as_millis()).unwrap()
    });
    figure("`sing-box check` alone, 10,000 users", check.collect(), "ms", "median (least–most) of 5");
}

#[test]
#[ignore = "a benchmark"]
fn bench_lowered_quota() {
    needs_machine!();
    let rounds: Vec<[u64; 3]> = (0..ROUNDS).map(|_| round(true)).collect();
    let times = rounds.iter().map(|round| round[1]).collect();
    let how = "median (least–most) of 5, from the start of the command to the last byte that the client took";
    figure("a quota lowered on the command line, until the last byte", times, "ms", how);
}
