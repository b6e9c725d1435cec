//! What this kernel offers, each with a reason where it does not. Changes nothing.

use std::{fs, io, path::PathBuf};

use super::{destroy, error::KernelError, sys};

const HELPER_NETNS_COOKIE: i32 = 122;
const HELPER_SK_FULLSOCK: i32 = 95;

/// One thing that is there or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Feature {
    pub name: &'static str,
    /// boxmeter cannot meter without it.
    pub required: bool,
    /// `Err`: why it is missing and what follows from that.
    pub state: Result<String, String>,
}

/// Everything that `doctor` shows about the kernel.
pub fn features() -> Vec<Feature> {
    let feature = |name, required, state| Feature { name, required, state };
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let netns = if netns_cookie_in_skb() {
        Ok("ports are watched per network namespace".to_string())
    } else {
        Err("packets do not tell their network namespace here (Linux 6.1 does not): a port is watched in every \
             namespace"
            .to_string())
    };
    vec![
        feature("kernel", true, Ok(release.trim().to_string())),
        feature("bpf", true, bpf().map(|()| "programs may be loaded".to_string()).map_err(|e| e.to_string())),
        feature(
            "btf",
            true,
            btf().map(|()| "/sys/kernel/btf/vmlinux".to_string()).map_err(|e| e.to_string()),
        ),
        feature(
            "cgroup v2",
            true,
            cgroup_mount().map(|p| p.display().to_string()).ok_or_else(|| KernelError::NoCgroup.to_string()),
        ),
        feature("namespaces", false, netns),
        feature("socket iterator", true, socket_iterator()),
        feature("ending sockets", false, destroy::offered()),
    ]
}

/// The first thing that is missing and that nothing works without.
pub(super) fn required() -> Result<(), KernelError> {
    bpf()?;
    btf()
}

fn bpf() -> Result<(), KernelError> {
    match sys::skb_helper(HELPER_SK_FULLSOCK) {
        Ok(_) => Ok(()),
        Err(error) => Err(match error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => KernelError::Permission { what: "loading BPF programs" },
            Some(libc::ENOSYS) => KernelError::NoBpf,
            _ => KernelError::io("bpf: loading an empty program")(error),
        }),
    }
}

fn btf() -> Result<(), KernelError> {
    match fs::metadata("/sys/kernel/btf/vmlinux") {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            Err(KernelError::Permission { what: "reading /sys/kernel/btf/vmlinux" })
        }
        Err(_) => Err(KernelError::NoBtf),
    }
}

/// Whether cgroup_skb programs can tell the network namespace of a packet.
pub fn netns_cookie_in_skb() -> bool {
    sys::skb_helper(HELPER_NETNS_COOKIE).unwrap_or(false)
}

/// The mount point of cgroup v2, as /proc/self/mounts has it.
pub fn cgroup_mount() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    find_cgroup(&mounts)
}

fn find_cgroup(mounts: &str) -> Option<PathBuf> {
    let mut fields = mounts.lines().map(|line| line.split(' '));
    let path = fields.find_map(|mut line| {
        let (_, path, kind) = (line.next()?, line.next()?, line.next()?);
        (kind == "cgroup2").then(|| path.to_string())
    })?;
    // The kernel writes white space and backslashes of a path in octal.
    Some(PathBuf::from(path.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")))
}

/// The name stands in the kernel's type information if and only if it has the iterator.
fn socket_iterator() -> Result<String, String> {
    let types = fs::read("/sys/kernel/btf/vmlinux").map_err(|_| KernelError::NoBtf.to_string())?;
    let name = b"\0bpf_iter_tcp\0";
    if types.windows(name.len()).any(|window| window == name) {
        Ok("silent sockets get their owners on a walk".to_string())
    } else {
        Err("the kernel has no iterator over TCP sockets (Linux 5.8)".to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_cgroup_v2_among_other_mounts() {
        let mounts = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\n\
                      cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n\
                      cgroup2 /sys/fs/cgroup/uni\\040fied cgroup2 rw 0 0\n";
        assert_eq!(find_cgroup(mounts), Some(PathBuf::from("/sys/fs/cgroup/uni fied")));
        assert_eq!(find_cgroup("tmpfs / tmpfs rw 0 0\n"), None);
    }
}
