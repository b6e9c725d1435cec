//! What can go wrong between the agent and the kernel, each with what to do about it.

use std::{io, path::PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    #[error("no permission for {what}: run as root, or with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON")]
    Permission { what: &'static str },
    #[error("this kernel has no bpf(2): it needs CONFIG_BPF_SYSCALL (a container may also forbid the call)")]
    NoBpf,
    #[error("this kernel has no type information at /sys/kernel/btf/vmlinux: it needs CONFIG_DEBUG_INFO_BTF")]
    NoBtf,
    #[error("cgroup v2 is not mounted: `mount -t cgroup2 none /sys/fs/cgroup`, or set `kernel.cgroup`")]
    NoCgroup,
    #[error("{} is not a cgroup v2 directory: set `kernel.cgroup` to its mount point or \"auto\"", path.display())]
    NotCgroup { path: PathBuf },
    #[error("{} is not on a bpf file system: `mount -t bpf bpf {}`, or set `kernel.pins`", path.display(), parent.display())]
    NotBpffs { path: PathBuf, parent: PathBuf },
    #[error(
        "another agent{} works with {}: stop it first, or give this one other `kernel.pins`",
        pid.map(|pid| format!(" (process {pid})")).unwrap_or_default(),
        path.display()
    )]
    Busy { path: PathBuf, pid: Option<u32> },
    #[error(
        "the pinned maps in {} have layout {found}, this program has layout {expected}: run `boxmeter detach` of the \
         version that made them first",
        path.display()
    )]
    OtherAbi { path: PathBuf, found: u32, expected: u32 },
    #[error("{} holds something that boxmeter did not make: {what}", path.display())]
    ForeignPins { path: PathBuf, what: String },
    #[error("the kernel refused the programs: {0}")]
    Refused(String),
    #[error("out of locked memory for BPF maps: raise `ulimit -l` (systemd: LimitMEMLOCK=infinity)")]
    Memlock,
    #[error("all {max} {what} are in use")]
    Full { what: &'static str, max: u32 },
    #[error("{what}: {source}")]
    Io { what: String, source: io::Error },
}

impl KernelError {
    /// Gives an error of the system its meaning where it has one of its own.
    pub fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> KernelError {
        let what = what.into();
        move |source| match source.raw_os_error() {
            Some(libc::ENOSYS) if what.starts_with("bpf") => KernelError::NoBpf,
            _ => KernelError::Io { what, source },
        }
    }
}
