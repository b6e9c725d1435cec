//! What the programs' cost is measured beside: an empty program; two plain counters, as systemd
//! attaches them for IP accounting; and the one lookup without which nobody can tell flows apart. All
//! are written as instructions, so that no object is shipped for them.

use std::{
    fs,
    io::Read,
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
    path::Path,
};

const MAP_CREATE: u32 = 0;
const MAP_UPDATE: u32 = 2;
const PROG_LOAD: u32 = 5;
const OBJECT_GET: u32 = 7;
const LINK_CREATE: u32 = 28;

const HASH: u32 = 1;
const ARRAY: u32 = 2;
const NO_PREALLOC: u32 = 1;
const CGROUP_SKB: u32 = 8;

/// Calls bpf(2) with the beginning of its attributes.
fn call<T>(command: u32, mut attr: T) -> i32 {
    // SAFETY: a live value of the told length.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut attr, size_of::<T>()) };
    assert!(result >= 0, "bpf({command}): {}", std::io::Error::last_os_error());
    result as i32
}

/// Calls bpf(2) for a new descriptor.
fn bpf<T>(command: u32, attr: T) -> OwnedFd {
    // SAFETY: the call returned a descriptor that nobody else has.
    unsafe { OwnedFd::from_raw_fd(call(command, attr)) }
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
            map_address(map.as_raw_fd())[0],
            map_address(map.as_raw_fd())[1],
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

/// Two words that put the address of a map into `r1`.
fn map_address(map: RawFd) -> [u64; 2] {
    [instruction(0x18, 1, 1, 0, map as u32), 0]
}

/// Finds the storage of the packet's socket, and makes it with the first packet.
fn storage_lookup(sockets: RawFd) -> Vec<u64> {
    let mut code = vec![instruction(0x79, 2, 1, 168, 0), instruction(0x15, 2, 0, 5, 0)];
    code.extend(map_address(sockets));
    code.extend([
        instruction(0xb7, 3, 0, 0, 0),
        instruction(0xb7, 4, 0, 0, 1),
        instruction(0x85, 0, 0, 0, 107),
    ]);
    code.extend(pass());
    code
}

/// Finds an entry by a key of 24 bytes.
fn hash_lookup(map: RawFd) -> Vec<u64> {
    let mut code: Vec<u64> = [-8, -16, -24].map(|at| instruction(0x7a, 10, 0, at, 0)).to_vec();
    code.extend([instruction(0xbf, 2, 10, 0, 0), instruction(0x07, 2, 0, 0, -24i32 as u32)]);
    code.extend(map_address(map));
    code.push(instruction(0x85, 0, 0, 0, 1));
    code.extend(pass());
    code
}

/// A hash as large as the one of UDP peers, with one entry: of the key that is all zero.
fn hash() -> OwnedFd {
    let map = bpf(MAP_CREATE, [HASH, 24, 112, 262_144, NO_PREALLOC]);
    let (key, value) = ([0u64; 3], [0u64; 14]);
    call(MAP_UPDATE, [map.as_raw_fd() as u64, key.as_ptr() as u64, value.as_ptr() as u64, 0]);
    map
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

    /// Only looks up sockets' storage, in the map that is pinned at `pin`.
    pub fn storage_lookup(cgroup: &Path, pin: &Path) -> Self {
        let path = std::ffi::CString::new(pin.as_os_str().as_encoded_bytes()).unwrap();
        let map = bpf(OBJECT_GET, [path.as_ptr() as u64, 0]);
        Self::attach(cgroup, |_| storage_lookup(map.as_raw_fd()))
    }

    /// Only looks up an entry of a hash.
    pub fn hash_lookup(cgroup: &Path) -> Self {
        let map = hash();
        Self::attach(cgroup, |_| hash_lookup(map.as_raw_fd()))
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
