//! Cookies of network namespaces, by which the programs tell them apart.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd},
    thread,
};

use super::error::KernelError;

const SO_NETNS_COOKIE: i32 = 71;

/// The cookie of the namespace that the process `pid` is in.
///
/// # Errors
/// The process is gone, the namespace may not be entered, or the kernel is older than 5.14.
pub fn netns_cookie(pid: u32) -> Result<u64, KernelError> {
    let path = format!("/proc/{pid}/ns/net");
    let failed = || KernelError::io(format!("the network namespace of process {pid}"));
    let file = File::open(&path).map_err(failed())?;
    // A thread of its own: the namespace of a thread cannot be left safely on every path.
    let entered = thread::spawn(move || {
        nix::sched::setns(file.as_fd(), nix::sched::CloneFlags::CLONE_NEWNET)?;
        own_cookie()
    });
    match entered.join() {
        Ok(result) => result.map_err(failed()),
        Err(_) => Err(failed()(io::Error::other("the thread that entered it ended"))),
    }
}

/// The cookie of this thread's own namespace.
///
/// # Errors
/// The kernel is older than 5.14.
pub fn own_netns_cookie() -> Result<u64, KernelError> {
    own_cookie().map_err(KernelError::io("the network namespace's cookie"))
}

fn own_cookie() -> io::Result<u64> {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").or_else(|_| std::net::UdpSocket::bind("[::1]:0"));
    // A namespace whose loopback is down still lets one bind to every address.
    let socket = socket.or_else(|_| std::net::UdpSocket::bind("0.0.0.0:0"))?;
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
