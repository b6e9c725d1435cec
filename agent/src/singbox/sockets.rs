//! What kind of sockets another process listens on. Its own descriptors are looked at, by pidfd: names in
//! `/proc` do not tell Multipath TCP from TCP, and a network namespace is shared with others.

use std::{
    fs, io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

/// `IPPROTO_MPTCP`.
const MPTCP: i32 = 262;

/// Whether the process listens with Multipath TCP. Needs the right to trace it, as root has.
///
/// # Errors
/// The process is gone, or may not be looked at.
pub fn listens_with_mptcp(pid: u32) -> io::Result<bool> {
    // SAFETY: no pointers.
    let process = unsafe { owned(libc::syscall(libc::SYS_pidfd_open, pid, 0)) }?;
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        let entry = entry?;
        let is_socket = fs::read_link(entry.path())
            .is_ok_and(|link| link.as_os_str().as_encoded_bytes().starts_with(b"socket:"));
        let number = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok());
        let Some(number) = number.filter(|_| is_socket) else { continue };
        // SAFETY: no pointers.
        let copy = unsafe { owned(libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), number, 0)) };
        let socket = match copy {
            Ok(socket) => socket,
            // Closed meanwhile.
            Err(error) if error.raw_os_error() == Some(libc::EBADF) => continue,
            Err(error) => return Err(error),
        };
        if option(&socket, libc::SO_ACCEPTCONN)? == 1 && option(&socket, libc::SO_PROTOCOL)? == MPTCP {
            return Ok(true);
        }
    }
    Ok(false)
}

/// # Safety
/// The call returned a new descriptor, or -1.
unsafe fn owned(result: libc::c_long) -> io::Result<OwnedFd> {
    match i32::try_from(result) {
        // SAFETY: nobody else has it.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

fn option(socket: &OwnedFd, name: i32) -> io::Result<i32> {
    let mut value = 0i32;
    let mut length = size_of::<i32>() as libc::socklen_t;
    // SAFETY: `value` has room for `length` bytes.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            name,
            std::ptr::from_mut(&mut value).cast(),
            &mut length,
        )
    };
    if result == 0 { Ok(value) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listener(protocol: i32) -> io::Result<OwnedFd> {
        // SAFETY: no pointers.
        let socket = unsafe { owned(libc::socket(libc::AF_INET, libc::SOCK_STREAM, protocol).into()) }?;
        // SAFETY: the descriptor is open. Without an address the kernel chooses a port.
        if unsafe { libc::listen(socket.as_raw_fd(), 1) } == 0 {
            Ok(socket)
        } else {
            Err(io::Error::last_os_error())
        }
    }

    #[test]
    fn only_a_listener_with_multipath_tcp_counts() {
        let pid = std::process::id();
        let _tcp = listener(libc::IPPROTO_TCP).expect("a TCP listener");
        assert!(!listens_with_mptcp(pid).expect("its own process"));
        // A kernel without it has no such socket to be found.
        let Ok(mptcp) = listener(MPTCP) else { return };
        assert!(listens_with_mptcp(pid).expect("its own process"));
        drop(mptcp);
        assert!(!listens_with_mptcp(pid).expect("its own process"));
        assert!(listens_with_mptcp(u32::MAX / 2).is_err(), "no such process");
    }
}
