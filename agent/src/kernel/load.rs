//! Loads the programs, pins them or takes pinned ones over, and holds everything the other modules
//! of `kernel` work with.

use std::{
    fs::File,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

use aya::{
    Btf, Ebpf, EbpfLoader,
    maps::{Array, MapData},
    programs::{CgroupSkb, Iter, Program, SockOps},
};
use boxmeter_common::{
    ABI_VERSION, Meta,
    command::{COMMANDS_MAX, Command, Mailbox},
    maps,
    rate::{RATES_MAX, Rate},
    recent::{RECENT_MAX, Recent},
    stats::STATS_MAX,
    user::{ACCOUNTS_MAX, Account, USERS_MAX, User},
    watch::{INBOUNDS_MAX, Inbound, PORTS_WORDS, WATCHED_SHARDS, Watched},
};

use super::{
    accounts::Directory,
    error::KernelError,
    kept::Identity,
    limits,
    netns::Namespace,
    pins::{self, Pins, State},
    probe,
    shared::Shared,
    sys,
};

/// The kernel programs, built by `cargo xtask bpf` and committed.
static OBJECT: &[u8] = aya::include_bytes_aligned!("boxmeter.bpf.o");

/// Where and how to attach.
#[derive(Clone, Debug, Default)]
pub struct KernelConfig {
    /// The cgroup v2 directory; `None`: the mount point found in /proc/self/mounts.
    pub cgroup: Option<PathBuf>,
    /// The directory of the pins, on a bpf file system.
    pub pins: PathBuf,
    /// Room for UDP peers, where it is not `PEERS_MAX`. Of effect when the maps are made.
    pub peers_max: Option<u32>,
    /// Room for ended flows without an owner, where it is not `CLOSED_MAX`. As above.
    pub closed_max: Option<u32>,
    /// Another object than the committed one, for tests of a rebuilt one.
    pub object: Option<PathBuf>,
}

/// The programs, loaded and attached.
#[derive(Debug)]
pub struct Kernel {
    pub(super) pins: Pins,
    meta: Meta,
    pub(super) netns_aware: bool,
    _links: Vec<OwnedFd>,
    pub(super) programs: Programs,
    pub(super) accounts: Shared<Account>,
    pub(super) users: Shared<User>,
    pub(super) inbounds: Shared<Inbound>,
    pub(super) watched: Shared<Watched>,
    pub(super) ports: Shared<u64>,
    pub(super) stats: Shared<u64>,
    pub(super) clock: Shared<u64>,
    pub(super) recent: Shared<Recent>,
    pub(super) mailbox: Shared<Mailbox>,
    pub(super) commands: Shared<Command>,
    pub(super) watch: OwnedFd,
    pub(super) peers: OwnedFd,
    pub(super) closed: OwnedFd,
    pub(super) owners: OwnedFd,
    pub(super) blocked: OwnedFd,
    pub(super) walk: OwnedFd,
    pub(super) rates: Shared<Rate>,
    /// Users with a rate, by direction.
    pub(super) rated: [u64; 2],
    pub(super) directory: Directory,
    /// Monotonic nanoseconds.
    pub(super) opened_ns: u64,
    /// Where sockets are walked.
    pub(super) namespaces: Vec<Namespace>,
}

/// Descriptors of the programs that are in the kernel now.
#[derive(Debug)]
pub(super) struct Programs {
    pub ingress: OwnedFd,
    pub egress: OwnedFd,
    pub sock_ops: OwnedFd,
    pub command: OwnedFd,
    pub walk: OwnedFd,
}

impl Kernel {
    /// Loads the programs and attaches them, or replaces pinned ones of the same layout without a
    /// gap: their maps, counters and owners stay, and so do the programs where they are the same.
    ///
    /// # Errors
    /// Another agent holds the pins, they have another layout, or the machine lacks something: the
    /// error says which.
    pub fn open(config: &KernelConfig) -> Result<Self, KernelError> {
        let cgroup = open_cgroup(config.cgroup.as_deref())?;
        probe::required()?;
        let pins = Pins::lock(&config.pins)?;
        let found = match pins.state()? {
            State::Empty => None,
            State::HalfMade => {
                tracing::warn!(path = %pins.path.display(), "an agent died while it made these maps: making them anew");
                pins.clear()?;
                None
            }
            State::Whole(meta) => Some(meta),
        };
        let netns_aware = probe::netns_cookie_in_skb();
        let globals = Globals::new(netns_aware);
        // An object from outside is for tests, which want it loaded.
        let identity = config.object.is_none().then(|| Identity::of(OBJECT, &globals.values()));
        let kept = found.and(identity.as_ref()).and_then(|identity| Programs::kept(&pins, identity));
        let is_new = kept.is_none();
        let programs = match kept {
            Some(programs) => programs,
            None => {
                // A map that is missing is made anew: what was kept would count into the old one.
                pins.clear_programs()?;
                load_programs(&mut load_maps(config, &pins, &globals)?)?
            }
        };
        let links = attach(&pins, &programs, &cgroup)?;
        let meta = match found {
            Some(meta) => meta,
            None => write_meta(&pins)?,
        };
        if let Some(identity) = identity.filter(|_| is_new)
            && let Err(error) = programs.keep(&pins, &identity)
        {
            // Only the next start takes longer.
            tracing::warn!("keeping the programs for the next start: {error}");
            pins.clear_programs()?;
        }
        Self::assemble(pins, meta, netns_aware, programs, links)
    }

    fn assemble(
        pins: Pins,
        meta: Meta,
        netns_aware: bool,
        programs: Programs,
        links: Vec<OwnedFd>,
    ) -> Result<Self, KernelError> {
        let walk = sys::link_iter(programs.walk.as_fd())
            .map_err(KernelError::io("bpf: an iterator over TCP sockets"))?;
        let mut kernel = Kernel {
            meta,
            netns_aware,
            accounts: map(&pins, maps::ACCOUNTS, ACCOUNTS_MAX)?,
            users: map(&pins, maps::USERS, USERS_MAX)?,
            inbounds: map(&pins, maps::INBOUNDS, INBOUNDS_MAX)?,
            watched: map(&pins, maps::WATCHED, INBOUNDS_MAX * WATCHED_SHARDS)?,
            ports: map(&pins, maps::PORTS, PORTS_WORDS)?,
            stats: map(&pins, maps::STATS, STATS_MAX)?,
            clock: map(&pins, maps::CLOCK, 1)?,
            recent: map(&pins, maps::RECENT, RECENT_MAX)?,
            mailbox: map(&pins, maps::MAILBOX, 1)?,
            commands: map(&pins, maps::COMMAND, COMMANDS_MAX)?,
            watch: pins.open(maps::WATCH)?,
            peers: pins.open(maps::PEERS)?,
            closed: pins.open(maps::CLOSED)?,
            owners: pins.open(maps::OWNERS)?,
            blocked: pins.open(maps::BLOCKED)?,
            rates: map(&pins, maps::RATES, RATES_MAX)?,
            rated: [0; 2],
            walk,
            programs,
            _links: links,
            pins,
            directory: Directory::default(),
            opened_ns: crate::clock::mono_ns(),
            namespaces: vec![Namespace::own()?],
        };
        kernel.directory = kernel.read_directory();
        kernel.rated = limits::count_rated(&kernel.rates, kernel.directory.users_next);
        kernel.wind_clock();
        Ok(kernel)
    }

    /// 128 random bits that change whenever the counters start anew.
    pub fn epoch(&self) -> [u8; 16] {
        self.meta.epoch
    }

    /// Whether ports are watched per network namespace; otherwise in all of them.
    pub fn netns_aware(&self) -> bool {
        self.netns_aware
    }

    /// Removes programs and maps. What they counted and was not read yet is gone.
    ///
    /// # Errors
    /// A pin could not be removed.
    pub fn detach(self) -> Result<(), KernelError> {
        let Kernel { pins, _links: links, .. } = self;
        drop(links);
        pins.remove()
    }
}

fn map<T: aya::Pod>(pins: &Pins, name: &str, count: u32) -> Result<Shared<T>, KernelError> {
    let map = pins.open(name)?;
    Shared::new(map.as_fd(), count).map_err(KernelError::io(format!("mapping {name} into memory")))
}

fn open_cgroup(path: Option<&Path>) -> Result<File, KernelError> {
    let path = match path {
        Some(path) => path.to_path_buf(),
        None => probe::cgroup_mount().ok_or(KernelError::NoCgroup)?,
    };
    let not = || KernelError::NotCgroup { path: path.clone() };
    let file = File::open(&path).map_err(|_| not())?;
    let kind = nix::sys::statfs::fstatfs(&file).map_err(|_| not())?.filesystem_type();
    if kind == nix::sys::statfs::CGROUP2_SUPER_MAGIC { Ok(file) } else { Err(not()) }
}

/// Values that are put into the object before the kernel sees it.
struct Globals {
    netns_cookie: u32,
    ordered_loads: u32,
}

impl Globals {
    fn new(netns_aware: bool) -> Globals {
        Globals {
            netns_cookie: u32::from(netns_aware),
            ordered_loads: u32::from(cfg!(target_arch = "x86_64")),
        }
    }

    fn values(&self) -> [u32; 2] {
        [self.netns_cookie, self.ordered_loads]
    }
}

fn load_maps(config: &KernelConfig, pins: &Pins, globals: &Globals) -> Result<Ebpf, KernelError> {
    let btf = Btf::from_sys_fs().map_err(|_| KernelError::NoBtf)?;
    let mut loader = EbpfLoader::new();
    loader.btf(Some(&btf)).override_global("NETNS_COOKIE", &globals.netns_cookie, true).override_global(
        "ORDERED_LOADS",
        &globals.ordered_loads,
        true,
    );
    for name in pins::MAPS {
        loader.map_pin_path(name, pins.at(name));
    }
    if let Some(max) = config.peers_max {
        loader.map_max_entries(maps::PEERS, max);
    }
    if let Some(max) = config.closed_max {
        loader.map_max_entries(maps::CLOSED, max);
    }
    let loaded = match &config.object {
        None => loader.load(OBJECT),
        Some(path) => loader.load_file(path),
    };
    loaded.map_err(|error| refused(&error))
}

/// Says what a failure means. A verifier that refuses a program answers `EACCES` too: its words are
/// in the error, and then they are what counts.
fn refused(error: &(dyn std::error::Error + 'static)) -> KernelError {
    let mut text = error.to_string();
    let mut cause = error.source();
    let mut number = None;
    while let Some(error) = cause {
        number = number.or(error.downcast_ref::<std::io::Error>().and_then(std::io::Error::raw_os_error));
        text = format!("{text}: {error}");
        cause = error.source();
    }
    match number {
        // Programs that need no privilege were loaded before (`probe::required`).
        Some(libc::EPERM) if text.contains("map") => KernelError::Memlock,
        Some(libc::EPERM) => KernelError::Permission { what: "loading BPF programs" },
        _ => KernelError::Refused(text),
    }
}

fn load_programs(ebpf: &mut Ebpf) -> Result<Programs, KernelError> {
    let btf = Btf::from_sys_fs().map_err(|_| KernelError::NoBtf)?;
    Ok(Programs {
        ingress: load(ebpf, "ingress", &btf)?,
        egress: load(ebpf, "egress", &btf)?,
        sock_ops: load(ebpf, "sock_ops", &btf)?,
        command: load(ebpf, "command", &btf)?,
        walk: load(ebpf, "sockets_iter", &btf)?,
    })
}

fn load(ebpf: &mut Ebpf, name: &str, btf: &Btf) -> Result<OwnedFd, KernelError> {
    let missing = || KernelError::Refused(format!("the object has no program {name}"));
    let program: &mut Program = ebpf.program_mut(name).ok_or_else(missing)?;
    let fd = match program {
        Program::CgroupSkb(program) => loaded_skb(program),
        Program::SockOps(program) => loaded_sock_ops(program),
        Program::Iter(program) => loaded_iter(program, btf),
        _ => return Err(missing()),
    };
    fd.map_err(|error| refused(&error))?
        .try_clone_to_owned()
        .map_err(KernelError::io("keeping a program's descriptor"))
}

type Loaded<'a> = Result<std::os::fd::BorrowedFd<'a>, aya::programs::ProgramError>;

fn loaded_skb(program: &mut CgroupSkb) -> Loaded<'_> {
    program.load()?;
    Ok(program.fd()?.as_fd())
}

fn loaded_sock_ops(program: &mut SockOps) -> Loaded<'_> {
    program.load()?;
    Ok(program.fd()?.as_fd())
}

fn loaded_iter<'a>(program: &'a mut Iter, btf: &Btf) -> Loaded<'a> {
    program.load("tcp", btf)?;
    Ok(program.fd()?.as_fd())
}

const CGROUP_INET_INGRESS: u32 = 0;
const CGROUP_INET_EGRESS: u32 = 1;
const CGROUP_SOCK_OPS: u32 = 3;

/// Connections before packets: a connection that opens in between has its flow already.
fn attach(pins: &Pins, programs: &Programs, cgroup: &File) -> Result<Vec<OwnedFd>, KernelError> {
    let wanted = [
        ("link_sock_ops", &programs.sock_ops, CGROUP_SOCK_OPS),
        ("link_ingress", &programs.ingress, CGROUP_INET_INGRESS),
        ("link_egress", &programs.egress, CGROUP_INET_EGRESS),
    ];
    let mut links = Vec::new();
    for (name, program, attach_type) in wanted {
        let path = pins.at(name);
        if path.exists() {
            let link = pins.open(name)?;
            sys::link_update(link.as_fd(), program.as_fd())
                .map_err(KernelError::io(format!("bpf: replacing the program of {}", path.display())))?;
            links.push(link);
            continue;
        }
        let link = sys::link_cgroup(program.as_fd(), cgroup.as_fd(), attach_type).map_err(|error| {
            match error.raw_os_error() {
                Some(libc::EPERM) => KernelError::Permission {
                    what: "attaching to the cgroup (another program attached there without sharing also forbids it)",
                },
                _ => KernelError::io(format!("bpf: attaching {name}"))(error),
            }
        })?;
        sys::obj_pin(link.as_fd(), &path)
            .map_err(KernelError::io(format!("bpf: pinning {}", path.display())))?;
        links.push(link);
    }
    Ok(links)
}

/// Written last: from here on the maps are whole.
fn write_meta(pins: &Pins) -> Result<Meta, KernelError> {
    let meta = Meta { abi_version: ABI_VERSION, reserved: 0, epoch: rand::random() };
    let path = pins.at(maps::META);
    let map = Array::<MapData, Meta>::create(1, 0).map_err(|error| refused(&error))?;
    map.pin(&path).map_err(|error| refused(&error))?;
    let map = pins.open(maps::META)?;
    sys::update(map.as_fd(), &0u32, &meta).map_err(KernelError::io("bpf: writing META"))?;
    Ok(meta)
}
