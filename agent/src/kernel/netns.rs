//! Network namespaces: the cookies by which the programs tell them apart, and a way into them.

use std::{
    fs::File,
    io,
    os::{
        fd::{AsFd, AsRawFd},
        unix::fs::MetadataExt as _,
    },
    sync::Arc,
    thread,
};

use super::error::KernelError;

const SO_NETNS_COOKIE: i32 = 71;

/// A network namespace, kept alive by holding it open.
#[derive(Clone, Debug)]
pub struct Namespace {
    cookie: u64,
    file: Arc<File>,
}

impl Namespace {
    /// The one that the process `pid` is in.
    ///
    /// # Errors
    /// The process is gone, the namespace may not be entered, or the kernel is older than 5.14.
    pub fn of(pid: u32) -> Result<Self, KernelError> {
        Self::open(&format!("/proc/{pid}/ns/net"))
    }

    /// This thread's own.
    ///
    /// # Errors
    /// The kernel is older than 5.14, or /proc is not mounted.
    pub fn own() -> Result<Self, KernelError> {
        Self::open("/proc/thread-self/ns/net")
    }

    fn open(path: &str) -> Result<Self, KernelError> {
        let failed = || KernelError::io(format!("the network namespace {path}"));
        let file = Arc::new(File::open(path).map_err(failed())?);
        let cookie = inside(&file, own_cookie).map_err(failed())?;
        Ok(Namespace { cookie, file })
    }

    /// What the programs see of it: `SO_NETNS_COOKIE`.
    pub fn cookie(&self) -> u64 {
        self.cookie
    }

    /// Calls `act` inside the namespace. Another one than this thread's in a thread of its own: one that could not
    /// come back would do everything else in the wrong one.
    pub(super) fn run<T: Send>(&self, act: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        inside(&self.file, act)
    }
}

/// What may be done in another namespace needs CAP_SYS_ADMIN, which the agent only has where sing-box runs in a
/// container.
pub const MAY_NOT_ENTER: &str = "boxmeter may not enter sing-box's container: boxmeter.service has that right only \
                                 with the drop-in of docs/deploy.md, *Containers*";

/// Whether it is the namespace of this thread: then nothing has to be entered, and no right to do so is needed.
fn is_own(file: &File) -> bool {
    let identity = |meta: std::fs::Metadata| (meta.dev(), meta.ino());
    let own = std::fs::metadata("/proc/thread-self/ns/net").map(identity);
    own.is_ok_and(|own| file.metadata().map(identity).is_ok_and(|it| it == own))
}

fn inside<T: Send>(file: &File, act: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    if is_own(file) {
        return act();
    }
    thread::scope(|scope| {
        // A machine without room for one more thread is an error like others, not a reason to end.
        let thread = thread::Builder::new().spawn_scoped(scope, || {
            match nix::sched::setns(file.as_fd(), nix::sched::CloneFlags::CLONE_NEWNET) {
                Err(nix::errno::Errno::EPERM) => {
                    return Err(io::Error::new(io::ErrorKind::PermissionDenied, MAY_NOT_ENTER));
                }
                entered => entered?,
            }
            act()
        })?;
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread that entered it panicked")))
    })
}

fn own_cookie() -> io::Result<u64> {
    // A namespace whose loopback is down still lets one make a socket.
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").or_else(|_| std::net::UdpSocket::bind("[::]:0"))?;
    let mut cookie = 0u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: `cookie` has room for `length` bytes.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            std::ptr::from_mut(&mut cookie).cast(),
            &mut length,
        )
    };
    if result == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}
