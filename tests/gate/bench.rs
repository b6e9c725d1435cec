//! The work of today's ways (facts of the field: V2Ray's panels, scripts that rewrite sing-box's users), done
//! by boxmeter: two users on trojan over TLS, one at full speed over a quota of 50 MB, the other at 20 MB/s.

use std::{
    io::Read,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use boxmeter_tests::{needs_machine, singbox::VERSIONS, wait};

use crate::rig::{Rig, Stream};

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
    figure("today's work: connections of the other user that broke", of(2), "of 1", how);
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
