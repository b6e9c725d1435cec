//! What every kernel test needs: a bpf file system of its own, loaded programs, watched ports.

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use boxmeter::{
    core::event::{InboundIndex, Network, Slot, UserId},
    kernel::{Events, Kernel, KernelConfig, Namespace, PeerCursor, WatchPort},
};
use boxmeter_common::{
    Meta,
    command::{Command, OP_OWN},
    flow::Flow,
    maps,
    user::{Counters, METER_PAYLOAD},
};
use uuid::Uuid;

static BUSY: AtomicBool = AtomicBool::new(false);

/// One test at a time. Unlike a mutex's guard it may go to another thread.
struct Turn;

impl Turn {
    fn take() -> Self {
        while BUSY.swap(true, Ordering::AcqRel) {
            std::thread::sleep(Duration::from_millis(5));
        }
        Turn
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        BUSY.store(false, Ordering::Release);
    }
}

/// A mounted bpf file system with a pin directory; unmounted and removed when dropped.
pub struct Mount {
    directory: tempfile::TempDir,
    _turn: Turn,
}

impl Mount {
    pub fn new() -> Self {
        let turn = Turn::take();
        let directory = tempfile::tempdir().unwrap();
        let flags = nix::mount::MsFlags::empty();
        nix::mount::mount(Some("bpf"), directory.path(), Some("bpf"), flags, None::<&str>)
            .expect("needs root: mounting a bpf file system");
        Mount { directory, _turn: turn }
    }

    pub fn pins(&self) -> PathBuf {
        self.directory.path().join("boxmeter")
    }

    /// Changes the layout version that stands in the pinned map.
    pub fn set_abi(&self, version: u32) {
        let map = aya::maps::MapData::from_pin(self.pins().join(maps::META)).unwrap();
        let mut array: aya::maps::Array<_, Meta> =
            aya::maps::Map::from_map_data(map).unwrap().try_into().unwrap();
        let meta = array.get(&0, 0).unwrap();
        array.set(0, Meta { abi_version: version, ..meta }, 0).unwrap();
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
        let lock = format!("/run/boxmeter/pins-{}.lock", self.pins().to_string_lossy().replace('/', "%2F"));
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
        self.watch_in(Namespace::own().unwrap().cookie(), network, port)
    }

    pub fn watch_in(&mut self, netns: u64, network: Network, port: u16) -> InboundIndex {
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
        let mut audit = self.kernel.audit();
        // Acknowledgements may still be on their way; they are traffic, too.
        until("a moment without traffic", || {
            audit = self.kernel.audit();
            audit.watched_before == audit.watched_after
        });
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

impl Rig {
    /// The UDP flow of the peer port.
    pub fn peer(&self, peer_port: u16) -> Option<Flow> {
        let (peers, _) = self.kernel.walk_peers(PeerCursor::default(), 100_000).unwrap();
        peers.into_iter().find(|flow| flow.key.peer_port == peer_port)
    }
}

/// Whether something holds within a minute, which only a starved machine needs.
pub fn soon(mut holds: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !holds() {
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    true
}

/// Waits until something holds.
pub fn until(what: &str, holds: impl FnMut() -> bool) {
    assert!(soon(holds), "not within a minute: {what}");
}
