//! What stays, what is refused, and what is left behind.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use boxmeter::{
    core::event::Network,
    kernel::{Kernel, KernelConfig, KernelError, Namespace, WatchPort},
};
use boxmeter_common::{ABI_VERSION, maps};

use crate::{
    net::{connect, exchange, listen, port_of},
    rig::{Mount, Rig},
};

#[test]
fn counting_goes_on_while_no_agent_runs_and_the_next_one_takes_over() {
    let mut rig = Rig::new();
    let (listener, port) = listen("127.0.0.1");
    let inbound = rig.watch(Network::Tcp, port);
    let slot = rig.account(inbound);
    let (client, server) = connect(&listener);
    rig.own(&rig.socket(port_of(&client)).unwrap(), slot);
    exchange(&client, &server, 1_000, 2_000);
    let epoch = rig.kernel.epoch();
    let config = rig.mount.config();
    let Rig { kernel, events, mount } = rig;
    // What SIGKILL leaves: descriptors closed, pins there.
    drop((kernel, events));
    exchange(&client, &server, 10_000, 20_000);
    let kernel = Kernel::open(&config).unwrap();
    assert_eq!(kernel.epoch(), epoch);
    assert_eq!(kernel.counters(slot).payload, [11_000, 22_000]);
    let mut rig = Rig { events: kernel.events().unwrap(), kernel, mount };
    exchange(&client, &server, 1, 2);
    assert_eq!(rig.kernel.counters(slot).payload, [11_001, 22_002]);
    // The arrays describe themselves: the same inbound has the same index, the same user its slot.
    assert_eq!(rig.watch(Network::Tcp, port), inbound);
    let user = rig.kernel.account(slot).user.unwrap();
    assert_eq!(rig.kernel.allocate_account(user, inbound, 0).unwrap(), slot);
    let other = rig.account(inbound);
    assert_ne!(other, slot);
    rig.conserved();
}

#[test]
fn replacing_the_programs_under_traffic_misses_nothing() {
    let mut rig = Rig::new();
    let (listener, port) = listen("127.0.0.1");
    let inbound = rig.watch(Network::Tcp, port);
    let slot = rig.account(inbound);
    let (client, server) = connect(&listener);
    rig.own(&rig.socket(port_of(&client)).unwrap(), slot);
    // Of an object by its path no program is kept.
    let object = committed();
    let config = rig.mount.config();
    let config = KernelConfig { object: config.object.or(Some(object.path().to_owned())), ..config };
    let Rig { kernel, events, mount } = rig;
    drop((kernel, events));
    let kernel = std::thread::scope(|scope| {
        let traffic = scope.spawn(|| exchange(&client, &server, 300_000_000, 300_000_000));
        let mut replaced = 0;
        while !traffic.is_finished() {
            drop(Kernel::open(&config).unwrap());
            replaced += 1;
        }
        assert!(replaced > 0);
        Kernel::open(&config).unwrap()
    });
    assert_eq!(kernel.counters(slot).payload, [300_000_000, 300_000_000]);
    assert_eq!(kernel.audit().difference_bytes(), 0);
    drop((kernel, mount));
}

/// The object that is in the program, as a file.
fn committed() -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), include_bytes!("../../agent/src/kernel/boxmeter.bpf.o")).unwrap();
    file
}

/// The verifier looks at the programs once, not at each start; another object is loaded, and its like kept no more.
#[test]
fn a_restart_takes_the_same_programs_as_they_are() {
    let mount = Mount::new();
    let config = KernelConfig { object: None, ..mount.config() };
    drop(Kernel::open(&config).unwrap());
    let first = program_ids(&mount);
    drop(Kernel::open(&config).unwrap());
    assert_eq!(program_ids(&mount), first);
    // Half of them are none.
    let kept = || {
        let names = fs::read_dir(mount.pins()).unwrap().flatten().map(|entry| entry.path());
        let mut kept: Vec<PathBuf> = names
            .filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("program_"))
            .collect();
        kept.sort();
        kept
    };
    assert_eq!(kept().len(), 5, "{:?}", kept());
    fs::remove_file(&kept()[2]).unwrap();
    drop(Kernel::open(&config).unwrap());
    let second = program_ids(&mount);
    assert!(second.iter().all(|id| !first.contains(id)), "{first:?} {second:?}");
    assert_eq!(kept().len(), 5, "{:?}", kept());
    // Nor what counts into a map that is not pinned any more.
    fs::remove_file(mount.pins().join(maps::BLOCKED)).unwrap();
    drop(Kernel::open(&config).unwrap());
    let anew = program_ids(&mount);
    assert!(anew.iter().all(|id| !second.contains(id)), "{second:?} {anew:?}");
    let second = anew;
    let object = committed();
    let other = KernelConfig { object: Some(object.path().to_owned()), ..mount.config() };
    drop(Kernel::open(&other).unwrap());
    let third = program_ids(&mount);
    assert!(third.iter().all(|id| !second.contains(id)), "{second:?} {third:?}");
    assert!(kept().is_empty(), "{:?}", kept());
    Kernel::open(&config).unwrap().detach().unwrap();
    assert!(!mount.pins().exists());
}

/// Of the attached programs.
fn program_ids(mount: &Mount) -> [u32; 3] {
    LINKS.map(|name| {
        let link = aya::programs::links::PinnedLink::from_pin(mount.pins().join(name)).unwrap();
        let link: aya::programs::links::FdLink = link.into();
        link.info().unwrap().program_id()
    })
}

#[test]
fn a_second_agent_is_refused_and_told_who_the_first_is() {
    let rig = Rig::new();
    match Kernel::open(&rig.mount.config()) {
        Err(KernelError::Busy { pid, .. }) => assert_eq!(pid, Some(std::process::id())),
        other => panic!("{other:?}"),
    }
}

#[test]
fn detaching_leaves_nothing() {
    let rig = Rig::new();
    let Rig { kernel, events, mount } = rig;
    drop(events);
    assert!(mount.pins().join("link_ingress").exists());
    let ids = LINKS.map(|name| link_id(&mount.pins().join(name)));
    assert!(ids.iter().all(|id| exists(*id)));
    kernel.detach().unwrap();
    assert!(!mount.pins().exists());
    assert!(!ids.iter().any(|id| exists(*id)), "a link is left");
}

const LINKS: [&str; 3] = ["link_ingress", "link_egress", "link_sock_ops"];

/// The kernel's id of a pinned link.
fn link_id(path: &Path) -> u32 {
    let link = aya::programs::links::PinnedLink::from_pin(path).unwrap();
    let link: aya::programs::links::FdLink = link.into();
    let id = link.info().unwrap().id();
    // Dropping it would do nothing to the pin.
    drop(link);
    id
}

fn exists(id: u32) -> bool {
    let mut attr = [id, 0, 0];
    // SAFETY: BPF_LINK_GET_FD_BY_ID reads these words and returns a new descriptor.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, 30, attr.as_mut_ptr(), 12) };
    if fd >= 0 {
        // SAFETY: the descriptor that was just returned.
        unsafe { libc::close(fd as i32) };
    }
    fd >= 0
}

#[test]
fn maps_of_another_layout_are_refused_and_left_alone() {
    let rig = Rig::new();
    let Rig { kernel, events, mount } = rig;
    drop((kernel, events));
    mount.set_abi(ABI_VERSION + 1);
    match Kernel::open(&mount.config()) {
        Err(KernelError::OtherAbi { found, expected, .. }) => {
            assert_eq!((found, expected), (ABI_VERSION + 1, ABI_VERSION));
        }
        other => panic!("{other:?}"),
    }
    assert!(mount.pins().join(maps::ACCOUNTS).exists());
}

#[test]
fn what_a_killed_agent_left_half_made_is_made_anew() {
    let rig = Rig::new();
    let epoch = rig.kernel.epoch();
    let Rig { kernel, events, mount } = rig;
    drop((kernel, events));
    mount.set_abi(0);
    fs::remove_file(mount.pins().join("link_egress")).unwrap();
    let kernel = Kernel::open(&mount.config()).unwrap();
    assert_ne!(kernel.epoch(), epoch);
    assert!(mount.pins().join("link_egress").exists());
}

#[test]
fn foreign_files_and_file_systems_are_not_touched() {
    let mount = Mount::new();
    fs::create_dir(mount.pins()).unwrap();
    fs::create_dir(mount.pins().join("theirs")).unwrap();
    assert!(matches!(Kernel::open(&mount.config()), Err(KernelError::ForeignPins { .. })));
    assert!(mount.pins().join("theirs").exists());
    let plain = tempfile::tempdir().unwrap();
    let mut config = mount.config();
    config.pins = plain.path().join("boxmeter");
    assert!(matches!(Kernel::open(&config), Err(KernelError::NotBpffs { .. })));
    config.cgroup = Some(plain.path().to_path_buf());
    assert!(matches!(Kernel::open(&config), Err(KernelError::NotCgroup { .. })));
    assert!(fs::metadata(plain.path()).unwrap().nlink() >= 1);
}

/// A container gets a new network namespace at each start: its inbounds keep their indexes, of which there
/// are only so many.
#[test]
fn an_inbound_that_moves_from_namespace_to_namespace_keeps_its_index() {
    let mut rig = Rig::new();
    let (listener, port) = listen("127.0.0.1");
    let first = rig.watch_in(u64::MAX, Network::Tcp, port);
    for netns in 1..1_000 {
        assert_eq!(rig.watch_in(u64::MAX - netns, Network::Tcp, port), first);
    }
    assert_eq!(rig.watch(Network::Tcp, port), first);
    let slot = rig.account(first);
    let (client, server) = connect(&listener);
    let flow = rig.socket(port_of(&client)).unwrap();
    rig.own(&flow, slot);
    exchange(&client, &server, 1_000, 2_000);
    assert_eq!(rig.kernel.counters(slot).payload, [1_000, 2_000], "where it is now");
    // At the same time in two namespaces, they are two.
    let own = Namespace::own().unwrap().cookie();
    let both = [own, u64::MAX].map(|netns| WatchPort {
        netns,
        port,
        network: Network::Tcp,
        tag: format!("in-{port}"),
    });
    let indexes = rig.kernel.watch(&both).unwrap();
    assert_eq!(indexes[0], first);
    assert_eq!(indexes[0] != indexes[1], rig.kernel.netns_aware());
    rig.conserved();
}
