//! TCP connections to sing-box's own listeners, also inside another network namespace.

use std::{
    fs::File,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use nix::sched::{CloneFlags, setns};
use tokio::net::TcpStream;

/// sing-box listens on loopback; whoever does not answer in this time is not there.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Where to connect for a listener on this address: loopback for "any".
pub fn reachable(listen: IpAddr) -> IpAddr {
    match listen {
        // `::` is dual stack in sing-box, and `127.0.0.1` needs no IPv6 in the namespace.
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) | IpAddr::V6(Ipv6Addr::UNSPECIFIED) => {
            IpAddr::V4(Ipv4Addr::LOCALHOST)
        }
        other => other,
    }
}

/// The address of `external_controller`: `IP:PORT`, `[IP]:PORT`, `:PORT` or `localhost:PORT`. Other
/// host names are not resolved.
pub fn controller_addr(text: &str) -> Option<SocketAddr> {
    if let Ok(addr) = text.parse::<SocketAddr>() {
        return Some(SocketAddr::new(reachable(addr.ip()), addr.port()));
    }
    let (host, port) = text.rsplit_once(':')?;
    let port = port.parse().ok()?;
    matches!(host, "" | "localhost").then(|| SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port))
}

/// Connects, in the network namespace if one is given.
pub async fn connect(addr: SocketAddr, netns: Option<PathBuf>) -> io::Result<TcpStream> {
    let stream = match netns {
        None => match tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(addr)).await {
            Ok(connected) => connected?,
            Err(_) => return Err(timed_out(addr)),
        },
        Some(path) => {
            let (tx, rx) = tokio::sync::oneshot::channel();
            // A thread of its own, since a thread of the runtime must not change its namespace.
            std::thread::Builder::new().name("netns-connect".into()).spawn(move || {
                tx.send(in_netns(&path, || std::net::TcpStream::connect_timeout(&addr, CONNECT_TIMEOUT)))
            })?;
            let stream = rx.await.map_err(io::Error::other)??;
            stream.set_nonblocking(true)?;
            TcpStream::from_std(stream)?
        }
    };
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn timed_out(addr: SocketAddr) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("{addr} does not answer"))
}

/// Runs `work` in this thread after it has joined the namespace. The thread stays there: call it on a
/// thread that ends afterwards.
pub fn in_netns<T>(netns: &Path, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let named = |what: &str, error: io::Error| {
        io::Error::new(error.kind(), format!("{what} network namespace {}: {error}", netns.display()))
    };
    let namespace = File::open(netns).map_err(|e| named("open", e))?;
    match setns(namespace, CloneFlags::CLONE_NEWNET) {
        Err(nix::errno::Errno::EPERM) => {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, crate::kernel::MAY_NOT_ENTER));
        }
        joined => joined.map_err(|e| named("join", e.into()))?,
    }
    work()
}
