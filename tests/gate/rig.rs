//! A server with two users, and questions about them.

use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use boxmeter_tests::{
    agent::Agent,
    cases::named,
    singbox::{Site, User},
    target::head,
    wait,
};
use serde_json::{Value, json};

pub const MIB: u64 = 1 << 20;

pub struct Rig {
    /// The first to be dropped: it needs the site's folder.
    pub agent: Agent,
    pub site: Site,
}

impl Rig {
    pub fn new(version: &'static str, case: &'static str) -> Rig {
        let site = Site::new(version, &[named(case)]);
        let mut agent = Agent::new(&site.scratch, &site.config(), &site.inside);
        agent.start();
        Rig { agent, site }
    }

    /// As [`Rig::new`], and the agent's intervals of address limits are shorter.
    pub fn hurried(version: &'static str, case: &'static str) -> Rig {
        let site = Site::new(version, &[named(case)]);
        let mut agent = Agent::new(&site.scratch, &site.config(), &site.inside);
        agent.hurries();
        agent.start();
        Rig { agent, site }
    }

    pub fn alice(&self) -> &User {
        &self.site.users[0]
    }

    pub fn bob(&self) -> &User {
        &self.site.users[1]
    }

    /// A command that must work.
    pub fn done(&self, words: &[&str]) -> Value {
        self.agent.done(words)
    }

    /// A command that must be refused, with what it said.
    pub fn refused(&self, words: &[&str]) -> Value {
        let output = self.agent.command(words);
        assert!(!output.status.success(), "{words:?} was accepted");
        serde_json::from_slice(&output.stderr)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)))
    }

    pub fn show(&self, user: &str) -> Value {
        self.done(&["users", "show", user])["user"].clone()
    }

    pub fn until_state(&self, user: &str, state: &str) -> Value {
        wait(&format!("{user} is {state}"), || {
            let shown = self.agent.ask(&["users", "show", user])?["user"].clone();
            if shown["state"] == json!(state) { Ok(shown) } else { Err(shown.to_string()) }
        })
    }

    /// Both directions of the payload that is counted for a user.
    pub fn used(&self, user: &str) -> u64 {
        Agent::payload(&self.done(&["usage"]), user).iter().sum()
    }

    pub fn events(&self, kind: &str) -> Vec<Value> {
        self.agent.events(kind)
    }

    pub fn exchange(&self, user: &User, up: u64, down: u64) -> Result<(), String> {
        user.proxy.exchange(self.site.target, up, down).map_err(|error| error.to_string())
    }

    pub fn config(&self) -> String {
        std::fs::read_to_string(self.site.config()).unwrap()
    }
}

/// One connection of a user that is open for as long as a test wants, and moves bytes all the time.
pub struct Stream {
    stream: TcpStream,
}

impl Stream {
    pub fn open(rig: &Rig, user: &User) -> Stream {
        let mut stream = Stream::silent(rig, user);
        stream.begin();
        stream
    }

    /// A connection on which nothing comes yet.
    pub fn silent(rig: &Rig, user: &User) -> Stream {
        let mut stream = user.proxy.connect(rig.site.target.tcp).unwrap();
        stream.write_all(&Stream::wanted()[..1]).unwrap();
        Stream { stream }
    }

    pub fn begin(&mut self) {
        self.stream.write_all(&Stream::wanted()[1..]).unwrap();
    }

    /// As much as anybody may take.
    fn wanted() -> Vec<u8> {
        head(0, u64::MAX >> 8).to_vec()
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

/// While `meanwhile` runs, a user streams on one connection, which must live.
pub fn while_streaming<T>(rig: &Rig, user: &User, meanwhile: impl FnOnce() -> T) -> T {
    let (stop, taken) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut stream = Stream::open(rig, user);
    std::thread::scope(|scope| {
        let other = scope.spawn(|| stream.take(&stop, &taken));
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
