//! What tests drive whatever the proxy is: users of a server, and what they talk to.

use crate::singbox::{BYTES, Dropped, User};
use crate::target::{Target, head};
use crate::wait;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// A server with users.
pub trait Scene {
    fn users(&self) -> &[User];
    fn target(&self) -> Target;

    fn alice(&self) -> &User {
        &self.users()[0]
    }

    fn bob(&self) -> &User {
        &self.users()[1]
    }

    fn exchange(&self, user: &User, up: u64, down: u64) -> Result<(), String> {
        user.proxy.exchange(self.target(), up, down).map_err(|error| error.to_string())
    }
}

/// Drives all users, a few at a time. Who saw connections dropped by the proxy itself, and what failed.
pub fn drive(scene: &(impl Scene + Sync), rounds: u64) -> (Dropped, Vec<String>) {
    let next = AtomicUsize::new(0);
    let (failures, dropped) = (Mutex::new(Vec::new()), Mutex::new(Dropped::new()));
    let work = |user: &User, index: u64| {
        for round in 1..=rounds {
            match user.drive(scene.target(), BYTES * round + 1_000 * index) {
                Ok(0) => {}
                Ok(times) => *dropped.lock().unwrap().entry(user.name.clone()).or_default() += times,
                Err(why) => failures.lock().unwrap().push(why),
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::SeqCst);
                    let Some(user) = scene.users().get(index) else { return };
                    work(user, index as u64);
                }
            });
        }
    });
    (dropped.into_inner().unwrap(), failures.into_inner().unwrap())
}

/// One connection of a user that is open for as long as a test wants, and moves bytes all the time.
pub struct Stream {
    stream: TcpStream,
}

impl Stream {
    pub fn open(scene: &impl Scene, user: &User) -> Stream {
        let mut stream = Stream::silent(scene, user);
        stream.begin();
        stream
    }

    /// A connection on which nothing comes yet.
    pub fn silent(scene: &impl Scene, user: &User) -> Stream {
        let mut stream = user.proxy.connect(scene.target().tcp).unwrap();
        stream.write_all(&Stream::wanted()[..1]).unwrap();
        Stream { stream }
    }

    pub fn begin(&mut self) {
        self.stream.write_all(&Stream::wanted()[1..]).unwrap();
    }

    /// As much as anybody may take.
    fn wanted() -> [u8; 16] {
        head(0, u64::MAX >> 8)
    }

    pub fn reader(&mut self) -> &mut TcpStream {
        &mut self.stream
    }

    /// Takes what is on its way; after that nothing comes, be the connection ended or not.
    pub fn dries_up(&mut self) {
        self.stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        let (mut buffer, mut taken) = (vec![0; 64 << 10], 0);
        while let Ok(n @ 1..) = self.stream.read(&mut buffer) {
            taken += n;
            assert!(taken < 64 << 20, "it goes on and on");
        }
    }

    /// Takes bytes until told to stop; how many, or why it ended before.
    pub fn take(&mut self, stop: &AtomicBool, taken: &AtomicU64) -> Result<(), String> {
        let mut buffer = vec![0; 64 << 10];
        while !stop.load(Ordering::Relaxed) {
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err("the connection ended".to_owned()),
                Ok(n) => taken.fetch_add(n as u64, Ordering::Relaxed),
                Err(error) => return Err(error.to_string()),
            };
        }
        Ok(())
    }
}

/// Ends the streams also when a check fails: the threads that read them would be waited for without end.
pub struct Stops<'a>(pub &'a AtomicBool);

impl Drop for Stops<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What two users take in the same time, while what the second one has taken goes from the one to the other.
pub fn side_by_side(scene: &impl Scene, users: [&User; 2], part: Range<u64>) -> [u64; 2] {
    let stop = AtomicBool::new(false);
    let taken = [AtomicU64::new(0), AtomicU64::new(0)];
    let mut streams = users.map(|user| Stream::open(scene, user));
    std::thread::scope(|scope| {
        for (stream, taken) in streams.iter_mut().zip(&taken) {
            scope.spawn(|| stream.take(&stop, taken));
        }
        let until = |wanted: u64| {
            wait("enough was taken", || match taken[1].load(Ordering::Relaxed) {
                bytes if bytes >= wanted => Ok(()),
                bytes => Err(format!("{bytes} bytes")),
            });
            [0, 1].map(|at| taken[at].load(Ordering::Relaxed))
        };
        let _stops = Stops(&stop);
        let (before, after) = (until(part.start), until(part.end));
        [0, 1].map(|at| after[at] - before[at])
    })
}

/// While `meanwhile` runs, a user streams on one connection, which must live.
pub fn while_streaming<T>(scene: &impl Scene, user: &User, meanwhile: impl FnOnce() -> T) -> T {
    let (stop, taken) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut stream = Stream::open(scene, user);
    std::thread::scope(|threads| {
        let other = threads.spawn(|| stream.take(&stop, &taken));
        wait("the other one streams", || match taken.load(Ordering::Relaxed) {
            0 => Err("nothing yet".to_owned()),
            _ => Ok(()),
        });
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(meanwhile));
        // It streams on after everything.
        let before = taken.load(Ordering::Relaxed);
        if result.is_ok() {
            wait("the other one streams on", || {
                if other.is_finished() {
                    return Ok(());
                }
                match taken.load(Ordering::Relaxed) > before {
                    true => Ok(()),
                    false => Err("nothing more".to_owned()),
                }
            });
        }
        stop.store(true, Ordering::Relaxed);
        let ended = other.join().unwrap();
        match result {
            Ok(value) => {
                assert_eq!(ended, Ok(()), "{}'s connection did not live", user.name);
                value
            }
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}
