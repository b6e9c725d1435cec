//! What every kernel test needs: a bpf file system of its own, loaded programs, watched ports.

use std::{
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard},
    time::{Duration, Instant},
};

use boxmeter::{
    core::event::{InboundIndex, Network, Slot, UserId},
    kernel::{Events, Kernel, KernelConfig, Namespace, WatchPort},
};
use boxmeter_common::{
    command::{Command, OP_OWN},
    flow::Flow,
    user::{Counters, METER_PAYLOAD},
};
use uuid::Uuid;

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// A mounted bpf file system with a pin directory; unmounted and removed when dropped.
pub struct Mount {
    directory: tempfile::TempDir,
    _turn: MutexGuard<'static, ()>,
}

impl Mount {
    pub fn new() -> Self {
        let turn = ONE_AT_A_TIME.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let directory = tempfile::tempdir().unwrap();
        let flags = nix::mount::MsFlags::empty();
        nix::mount::mount(Some("bpf"), directory.path(), Some("bpf"), flags, None::<&str>)
            .expect("needs root: mounting a bpf file system");
        Mount { directory, _turn: turn }
    }

    pub fn pins(&self) -> PathBuf {
        self.directory.path().join("boxmeter")
    }

    pub fn config(&self) -> KernelConfig {
        KernelConfig {
            pins: self.pins(),
            object: std::env::var_os("BOXMETER_BPF_OBJECT").map(PathBuf::from),
            ..KernelConfig::default()
        }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(self.directory.path(), nix::mount::MntFlags::MNT_DETACH);
        let lock = format!("/run/boxmeter-{}.lock", self.pins().to_string_lossy().replace('/', "%2F"));
        let _ = std::fs::remove_file(Path::new(&lock));
    }
}

pub struct Rig {
    pub kernel: Kernel,
    pub events: Events,
    pub mount: Mount,
}

impl Rig {
    pub fn new() -> Self {
        Self::with(|_| {})
    }

    pub fn with(change: impl FnOnce(&mut KernelConfig)) -> Self {
        let mount = Mount::new();
        let mut config = mount.config();
        change(&mut config);
        let kernel = Kernel::open(&config).unwrap();
        let events = kernel.events().unwrap();
        Rig { kernel, events, mount }
    }

    pub fn watch(&mut self, network: Network, port: u16) -> InboundIndex {
        let netns = Namespace::own().unwrap().cookie();
        let port = WatchPort { netns, port, network, tag: format!("in-{port}") };
        self.kernel.watch(&[port]).unwrap()[0]
    }

    pub fn account(&mut self, inbound: InboundIndex) -> Slot {
        self.kernel.allocate_account(UserId(Uuid::now_v7()), inbound, METER_PAYLOAD).unwrap()
    }

    /// Gives a flow an owner; the `RESULT_*`.
    pub fn own(&mut self, flow: &Flow, slot: Slot) -> u32 {
        let command = Command { op: OP_OWN, slot: slot.0, id: flow.id, key: flow.key, ..Command::default() };
        let mut commands = [command];
        self.kernel.run(&mut commands).unwrap();
        commands[0].result
    }

    pub fn unattributed(&self, inbound: InboundIndex) -> Counters {
        self.kernel.counters(Slot(inbound.0))
    }

    /// Everything that was watched is somewhere, and nothing is anywhere twice.
    pub fn conserved(&self) {
        let audit = self.kernel.audit();
        assert_eq!(audit.watched_before, audit.watched_after, "traffic during the audit");
        assert_eq!(audit.difference_bytes(), 0, "{audit:?}");
    }

    pub fn stat(&self, name: &str) -> u64 {
        self.kernel.stats().into_iter().find(|(n, _)| *n == name).unwrap().1
    }

    /// The live TCP flow of the peer port.
    pub fn socket(&self, peer_port: u16) -> Option<Flow> {
        self.kernel.walk_sockets().unwrap().into_iter().find(|flow| flow.key.peer_port == peer_port)
    }
}

/// Waits until something holds.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < deadline, "not within 10 s: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
