//! What the programs' cost is measured beside: an empty program, and two plain counters, as systemd
//! attaches them for IP accounting. Both are written as instructions, so that no object is shipped
//! for them.

use std::{
    fs,
    io::Read,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    path::{Path, PathBuf},
};

const MAP_CREATE: u32 = 0;
const PROG_LOAD: u32 = 5;
const LINK_CREATE: u32 = 28;

const ARRAY: u32 = 2;
const CGROUP_SKB: u32 = 8;

/// Calls bpf(2) with the beginning of its attributes and returns the descriptor that it made.
fn bpf<T>(command: u32, mut attr: T) -> OwnedFd {
    // SAFETY: a live value of the told length; the result is a new descriptor.
    unsafe {
        let fd = libc::syscall(libc::SYS_bpf, command, &raw mut attr, size_of::<T>());
        assert!(fd >= 0, "bpf({command}): {}", std::io::Error::last_os_error());
        OwnedFd::from_raw_fd(fd as i32)
    }
}

fn instruction(opcode: u8, to: u8, from: u8, offset: i16, value: u32) -> u64 {
    u64::from(opcode)
        | u64::from(to) << 8
        | u64::from(from) << 12
        | u64::from(offset as u16) << 16
        | u64::from(value) << 32
}

/// `r0 = 1; exit`: let the packet pass.
fn pass() -> [u64; 2] {
    [instruction(0xb7, 0, 0, 0, 1), instruction(0x95, 0, 0, 0, 0)]
}

/// Adds 1 to the map's first entry and the packet's length to its second, as systemd's program does.
fn counters(map: &OwnedFd) -> Vec<u64> {
    let mut code = vec![instruction(0xbf, 6, 1, 0, 0)];
    let one = instruction(0xb7, 1, 0, 0, 1);
    let length = instruction(0x61, 1, 6, 0, 0);
    for (key, amount) in [(0, one), (1, length)] {
        code.extend([
            instruction(0x62, 10, 0, -4, key),
            instruction(0xbf, 2, 10, 0, 0),
            instruction(0x07, 2, 0, 0, -4i32 as u32),
            // Two words: the address of the map, by descriptor.
            instruction(0x18, 1, 1, 0, map.as_raw_fd() as u32),
            0,
            instruction(0x85, 0, 0, 0, 1),
            // No such entry: on, past the addition.
            instruction(0x15, 0, 0, 2, 0),
            amount,
            // An atomic addition, as every program on more than one CPU needs.
            instruction(0xdb, 0, 1, 0, 0),
        ]);
    }
    code.extend(pass());
    code
}

fn array() -> OwnedFd {
    bpf(MAP_CREATE, [ARRAY, 4, 8, 2, 0])
}

#[repr(C)]
struct Load {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log: [u64; 3],
    name: [u8; 16],
    ifindex: u32,
    attach_type: u32,
}

fn load(code: &[u64], attach_type: u32) -> OwnedFd {
    let attr = Load {
        kind: CGROUP_SKB,
        count: code.len() as u32,
        instructions: code.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        log: [0; 3],
        name: [0; 16],
        ifindex: 0,
        attach_type,
    };
    bpf(PROG_LOAD, attr)
}

/// An ingress and an egress program, attached to a cgroup while this lives.
pub struct Attached {
    programs: [OwnedFd; 2],
    _links: [OwnedFd; 2],
}

impl Attached {
    pub fn empty(cgroup: &Path) -> Self {
        Self::attach(cgroup, |_| pass().to_vec())
    }

    pub fn counters(cgroup: &Path) -> Self {
        // The programs keep their maps.
        let maps = [array(), array()];
        Self::attach(cgroup, |direction| counters(&maps[direction]))
    }

    fn attach(cgroup: &Path, code: impl Fn(usize) -> Vec<u64>) -> Self {
        let cgroup = fs::File::open(cgroup).unwrap();
        let programs = [0, 1].map(|direction| load(&code(direction), direction as u32));
        let link = |direction: usize| {
            let program = programs[direction].as_raw_fd() as u32;
            bpf(LINK_CREATE, [program, cgroup.as_raw_fd() as u32, direction as u32, 0])
        };
        let links = [link(0), link(1)];
        Attached { programs, _links: links }
    }

    /// Nanoseconds and runs of the ingress and the egress program, counted while somebody measures.
    pub fn run_time(&self) -> [(u64, u64); 2] {
        [0, 1].map(|direction| {
            let mut text = String::new();
            let path = format!("/proc/self/fdinfo/{}", self.programs[direction].as_raw_fd());
            fs::File::open(path).unwrap().read_to_string(&mut text).unwrap();
            let value = |name: &str| {
                let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
                line.trim().parse().unwrap()
            };
            (value("run_time_ns:"), value("run_cnt:"))
        })
    }
}

/// A cgroup for the sockets of one kind of program; removed when dropped.
pub struct Group {
    path: PathBuf,
    home: PathBuf,
}

impl Group {
    pub fn new(name: &str) -> Self {
        let mount = boxmeter::kernel::probe::cgroup_mount().expect("needs cgroup v2");
        let own = fs::read_to_string("/proc/self/cgroup").unwrap();
        let own = own.lines().find_map(|line| line.strip_prefix("0::/")).unwrap();
        let path = mount.join(format!("boxmeter-{name}-{}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Group { home: mount.join(own), path }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Calls `act` with this process in the cgroup: the sockets made there belong to it for good.
    pub fn within<T>(&self, act: impl FnOnce() -> T) -> T {
        let enter = |path: &Path| {
            fs::write(path.join("cgroup.procs"), std::process::id().to_string()).unwrap();
        };
        enter(&self.path);
        let made = act();
        enter(&self.home);
        made
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.path);
    }
}
