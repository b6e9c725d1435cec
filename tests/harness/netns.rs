//! Network namespaces without a name, and cables between them. A namespace ends when its handle is dropped
//! and nothing runs in it any more; nothing is left in /run/netns. The cgroup tree stays visible inside
//! (`ip netns exec` would hide it).

use nix::sched::{CloneFlags, setns, unshare};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Numbers the interfaces of this process, whose names are at most 15 characters.
static CABLES: AtomicU32 = AtomicU32::new(0);

/// A network namespace with `lo` up.
#[derive(Clone)]
pub struct Netns {
    handle: Arc<File>,
}

impl Netns {
    /// Needs root.
    pub fn new() -> Netns {
        let made = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
            File::open("/proc/thread-self/ns/net").unwrap()
        });
        let netns = Netns { handle: Arc::new(made.join().unwrap()) };
        netns.ip(&["link", "set", "lo", "up"]);
        netns
    }

    /// The namespace this thread is in.
    pub fn current() -> Netns {
        Netns { handle: Arc::new(File::open("/proc/thread-self/ns/net").unwrap()) }
    }

    /// A path that names the namespace as long as this process lives.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.handle.as_raw_fd())
    }

    /// Runs `body` inside; sockets made there stay there.
    pub fn run<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(&self.handle, CloneFlags::CLONE_NEWNET).expect("enter the namespace");
                body()
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Makes a command run inside; its mounts are those of the caller.
    pub fn enter<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        let handle = Arc::clone(&self.handle);
        // SAFETY: setns is a bare system call and allocates nothing after the fork.
        unsafe {
            command.pre_exec(move || setns(&handle, CloneFlags::CLONE_NEWNET).map_err(std::io::Error::from))
        }
    }

    /// `ip WORDS` inside.
    pub fn ip(&self, words: &[&str]) {
        let mut command = Command::new("ip");
        let output = self.enter(command.args(words)).output().expect("iproute2 is installed");
        assert!(output.status.success(), "ip {words:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// A cable from here to `other`; addresses as `10.77.0.1/24`. Answers the interface name here.
    pub fn connect(&self, other: &Netns, here: &[&str], there: &[&str]) -> String {
        let number = CABLES.fetch_add(1, Ordering::Relaxed);
        let (near, far) = (format!("bm{number}a"), format!("bm{number}b"));
        let peer = ["type", "veth", "peer", "name", &far, "netns"];
        self.ip(&[&["link", "add", &near][..], &peer, &[&other.path()]].concat());
        for (netns, name, addresses) in [(self, &near, here), (other, &far, there)] {
            for address in addresses {
                // Without `nodad` an IPv6 address cannot be used for a second.
                let more: &[&str] = if address.contains(':') { &["nodad"] } else { &[] };
                netns.ip(&[&["addr", "add", address, "dev", name][..], more].concat());
            }
            netns.ip(&["link", "set", name, "up"]);
        }
        near
    }
}

impl Default for Netns {
    fn default() -> Self {
        Self::new()
    }
}
