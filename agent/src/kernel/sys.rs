//! The bpf(2) calls that aya has no safe form of: replacing the program of a link, iterators in
//! another namespace, batched reads and test runs. Owns no state.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

const MAP_LOOKUP_ELEM: u32 = 1;
const MAP_UPDATE_ELEM: u32 = 2;
const MAP_DELETE_ELEM: u32 = 3;
const MAP_GET_NEXT_KEY: u32 = 4;
const PROG_LOAD: u32 = 5;
const OBJ_PIN: u32 = 6;
const OBJ_GET: u32 = 7;
const PROG_TEST_RUN: u32 = 10;
const MAP_LOOKUP_BATCH: u32 = 24;
const LINK_CREATE: u32 = 28;
const LINK_UPDATE: u32 = 29;
const ITER_CREATE: u32 = 33;

const TRACE_ITER: u32 = 28;
const CGROUP_SKB: u32 = 8;

/// Calls bpf(2). `attr` is the prefix of `union bpf_attr` that the command reads; the kernel takes
/// what is missing as zero.
fn call<T>(command: u32, attr: &mut T) -> io::Result<i64> {
    // SAFETY: `attr` is a live, fully written, `repr(C)` value of the length that is told.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn owned(result: i64) -> OwnedFd {
    // SAFETY: the call returned a new descriptor that nobody else has.
    unsafe { OwnedFd::from_raw_fd(result as i32) }
}

#[repr(C)]
struct Obj {
    path: u64,
    fd: u32,
    flags: u32,
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))
}

/// Opens what is pinned at `path`.
pub fn obj_get(path: &Path) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    call(OBJ_GET, &mut Obj { path: path.as_ptr() as u64, fd: 0, flags: 0 }).map(owned)
}

/// Pins a map, program or link.
pub fn obj_pin(fd: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    call(OBJ_PIN, &mut Obj { path: path.as_ptr() as u64, fd: fd.as_raw_fd() as u32, flags: 0 }).map(drop)
}

/// Attaches a program to a cgroup by a link.
pub fn link_cgroup(program: BorrowedFd<'_>, cgroup: BorrowedFd<'_>, attach_type: u32) -> io::Result<OwnedFd> {
    let mut attr = [program.as_raw_fd() as u32, cgroup.as_raw_fd() as u32, attach_type, 0];
    call(LINK_CREATE, &mut attr).map(owned)
}

/// Replaces the program of a link: at no moment is there none, or are there two.
pub fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = [link.as_raw_fd() as u32, program.as_raw_fd() as u32, 0, 0];
    call(LINK_UPDATE, &mut attr).map(drop)
}

/// A link of an iterator program.
pub fn link_iter(program: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let mut attr = [program.as_raw_fd() as u32, 0, TRACE_ITER, 0];
    call(LINK_CREATE, &mut attr).map(owned)
}

/// One walk of an iterator: a descriptor to read until its end.
pub fn iter_create(link: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    call(ITER_CREATE, &mut [link.as_raw_fd() as u32, 0]).map(owned)
}

/// Runs a cgroup_skb program `repeat` times on an empty packet. A signal ends it early, between
/// two runs (`Interrupted`).
pub fn test_run(program: BorrowedFd<'_>, repeat: u32) -> io::Result<u32> {
    #[repr(C)]
    #[derive(Default)]
    struct Attr {
        program: u32,
        result: u32,
        data_in_length: u32,
        data_out_length: u32,
        data_in: u64,
        data_out: u64,
        repeat: u32,
        duration_ns: u32,
        pad: [u64; 4],
    }
    // The kernel wants an Ethernet and an IPv4 header.
    let mut packet = [0u8; 64];
    packet[12] = 8;
    packet[14] = 0x45;
    let mut attr = Attr {
        program: program.as_raw_fd() as u32,
        data_in_length: packet.len() as u32,
        data_in: packet.as_ptr() as u64,
        repeat,
        ..Attr::default()
    };
    call(PROG_TEST_RUN, &mut attr)?;
    Ok(attr.duration_ns)
}

#[repr(C)]
struct Elem {
    map: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

impl Elem {
    fn new<K>(map: BorrowedFd<'_>, key: &K, value: u64) -> Self {
        Elem { map: map.as_raw_fd() as u32, pad: 0, key: std::ptr::from_ref(key) as u64, value, flags: 0 }
    }
}

/// Reads one entry into `value`, whose type must have the map's value size; false: no such entry.
pub fn lookup<K: aya::Pod, V: aya::Pod>(map: BorrowedFd<'_>, key: &K, value: &mut V) -> io::Result<bool> {
    found(call(MAP_LOOKUP_ELEM, &mut Elem::new(map, key, std::ptr::from_mut(value) as u64)))
}

/// Writes one entry.
pub fn update<K: aya::Pod, V: aya::Pod>(map: BorrowedFd<'_>, key: &K, value: &V) -> io::Result<()> {
    call(MAP_UPDATE_ELEM, &mut Elem::new(map, key, std::ptr::from_ref(value) as u64)).map(drop)
}

/// Removes one entry; false: there was none.
pub fn delete<K: aya::Pod>(map: BorrowedFd<'_>, key: &K) -> io::Result<bool> {
    found(call(MAP_DELETE_ELEM, &mut Elem::new(map, key, 0)))
}

fn found(result: io::Result<i64>) -> io::Result<bool> {
    match result {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// All keys of a small map.
pub fn keys<K: aya::Pod + Default>(map: BorrowedFd<'_>) -> io::Result<Vec<K>> {
    let mut keys: Vec<K> = Vec::new();
    loop {
        let mut next = K::default();
        let after = keys.last().map_or(0, |last| std::ptr::from_ref(last) as u64);
        let value = std::ptr::from_mut(&mut next) as u64;
        let mut attr = Elem { map: map.as_raw_fd() as u32, pad: 0, key: after, value, flags: 0 };
        if !found(call(MAP_GET_NEXT_KEY, &mut attr))? {
            return Ok(keys);
        }
        keys.push(next);
    }
}

/// Where a batched walk over a hash map goes on; meaningful to the kernel only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    token: u32,
    started: bool,
}

/// What a batched read found, and where to go on.
type Found<K, V> = (Vec<(K, V)>, Option<Cursor>);

/// Reads up to `max` entries from `cursor` on. `None` as the next cursor: that was the end.
///
/// The kernel reads whole buckets: entries that are there all the time are read exactly once.
pub fn lookup_batch<K: aya::Pod + Default, V: aya::Pod + Default>(
    map: BorrowedFd<'_>,
    cursor: Cursor,
    max: u32,
) -> io::Result<Found<K, V>> {
    #[repr(C)]
    struct Attr {
        in_batch: u64,
        out_batch: u64,
        keys: u64,
        values: u64,
        count: u32,
        map: u32,
        elem_flags: u64,
        flags: u64,
    }
    let mut room = max.max(16);
    loop {
        let mut keys = vec![K::default(); room as usize];
        let mut values = vec![V::default(); room as usize];
        let (mut input, mut output) = (cursor.token, 0u32);
        let mut attr = Attr {
            in_batch: if cursor.started { std::ptr::from_mut(&mut input) as u64 } else { 0 },
            out_batch: std::ptr::from_mut(&mut output) as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: room,
            map: map.as_raw_fd() as u32,
            elem_flags: 0,
            flags: 0,
        };
        let next = match call(MAP_LOOKUP_BATCH, &mut attr) {
            Ok(_) => Some(Cursor { token: output, started: true }),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => None,
            // One bucket holds more than there is room for.
            Err(error) if error.raw_os_error() == Some(libc::ENOSPC) && room < 1 << 20 => {
                room *= 2;
                continue;
            }
            Err(error) => return Err(error),
        };
        let count = attr.count as usize;
        keys.truncate(count);
        values.truncate(count);
        return Ok((keys.into_iter().zip(values).collect(), next));
    }
}

/// Whether the kernel lets a cgroup_skb program call `helper`: a program that calls it and passes.
pub fn skb_helper(helper: i32) -> io::Result<bool> {
    #[repr(C)]
    #[derive(Default)]
    struct Attr {
        kind: u32,
        count: u32,
        instructions: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log: u64,
        kernel_version: u32,
        flags: u32,
        name: [u8; 16],
        ifindex: u32,
        expected_attach_type: u32,
    }
    let program = |instructions: &[u64]| {
        let mut attr = Attr {
            kind: CGROUP_SKB,
            count: instructions.len() as u32,
            instructions: instructions.as_ptr() as u64,
            license: c"GPL".as_ptr() as u64,
            ..Attr::default()
        };
        call(PROG_LOAD, &mut attr).map(owned)
    };
    let one_and_exit = [0x0000_0001_0000_00b7_u64, 0x95];
    program(&one_and_exit)?;
    let call_helper = 0x85_u64 | (helper as u64) << 32;
    Ok(program(&[call_helper, one_and_exit[0], one_and_exit[1]]).is_ok())
}
