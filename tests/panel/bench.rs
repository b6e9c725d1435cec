//! What the panel costs with 10,000 users.

use std::{
    io::Read,
    net::TcpStream,
    os::unix::net::UnixDatagram,
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use boxmeter_tests::{
    needs_machine,
    usage::{cpu_seconds, memory_mib},
    wait,
};

use crate::rig::Rig;

const USERS: usize = 10_000;
const LIVE_PAGES: usize = 50;
const SECONDS: u64 = 20;
const ROUNDS: usize = 15;

fn figure(name: &str, value: impl std::fmt::Display, how: &str) {
    println!("FIGURE\t{name}\t{value}\t{how}");
}

/// From the start of the agent's process until it says that it is ready, as systemd hears it.
#[test]
#[ignore = "a benchmark: cargo xtask bench"]
fn bench_restart() {
    needs_machine!();
    let mut rig = Rig::with_users(USERS);
    let path = rig.site.scratch.join("ready");
    let socket = UnixDatagram::bind(&path).unwrap();
    rig.agent.environment("NOTIFY_SOCKET", path.to_str().unwrap());
    let mut took: Vec<f64> = (0..5)
        .map(|_| {
            rig.agent.stop();
            socket.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
            while socket.recv(&mut [0; 512]).is_ok() {}
            socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
            let began = Instant::now();
            rig.agent.spawn();
            loop {
                let mut buffer = [0; 512];
                let length = socket.recv(&mut buffer).expect("it says that it is ready");
                if String::from_utf8_lossy(&buffer[..length]).contains("READY=1") {
                    return began.elapsed().as_secs_f64();
                }
            }
        })
        .collect();
    took.sort_by(f64::total_cmp);
    figure(
        "restart of the agent with 10,000 users, until ready",
        format_args!("{:.2} s ({:.2} at most)", took[2], took[4]),
        "median of 5, from the start of the process to READY=1",
    );
}

/// Milliseconds from the request to the whole page, the middle and the most.
fn page(rig: &Rig, session: &str, path: &str) -> (f64, f64) {
    let mut took: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let began = Instant::now();
            let answer = rig.ask("GET", path).cookie(session).send();
            assert_eq!(answer.status, 200, "{path}: {}", answer.body);
            began.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    took.sort_by(f64::total_cmp);
    (took[ROUNDS / 2], took[ROUNDS - 1])
}

/// Reads a live page until it is ended; how many bytes came.
fn listen(mut stream: TcpStream, taken: &AtomicU64) {
    let mut buffer = [0; 16 << 10];
    while let Ok(n @ 1..) = stream.read(&mut buffer) {
        taken.fetch_add(n as u64, Ordering::Relaxed);
    }
}

#[test]
#[ignore = "a benchmark: cargo xtask bench"]
fn bench_panel() {
    needs_machine!();
    let rig = Rig::with_users(USERS);
    let session = rig.sign_in();
    for (path, what) in [("/users", "users page"), ("/users?q=99", "users page, searched"), ("/", "overview")]
    {
        let (middle, most) = page(&rig, &session, path);
        let name = format!("{what} with 10,000 users");
        figure(
            &name,
            format_args!("{middle:.0} ms ({most:.0} at most)"),
            "request to the last byte, agent and panel",
        );
    }
    let streams: Vec<TcpStream> =
        (0..LIVE_PAGES).map(|_| rig.ask("GET", "/live?page=overview").cookie(&session).open()).collect();
    let closers: Vec<TcpStream> = streams.iter().map(|it| it.try_clone().unwrap()).collect();
    let taken: Vec<AtomicU64> = streams.iter().map(|_| AtomicU64::new(0)).collect();
    thread::scope(|scope| {
        for (stream, taken) in streams.into_iter().zip(&taken) {
            scope.spawn(|| listen(stream, taken));
        }
        wait("all live pages have something", || {
            let silent = taken.iter().filter(|it| it.load(Ordering::Relaxed) < 1_000).count();
            if silent == 0 { Ok(()) } else { Err(format!("{silent} are silent")) }
        });
        let before = cpu_seconds(rig.pid());
        thread::sleep(Duration::from_secs(SECONDS));
        let share = (cpu_seconds(rig.pid()) - before) / SECONDS as f64 * 100.0;
        figure(
            "50 live pages, CPU of the panel",
            format_args!("{share:.2} % of a core"),
            "10,000 users, one message a second each",
        );
        figure(
            "resident memory of the panel",
            format_args!("{:.1} MiB", memory_mib(rig.pid(), "VmRSS")),
            "10,000 users, 50 live pages",
        );
        for stream in &closers {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    });
}
