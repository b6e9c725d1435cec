//! How many connections there are: some for everybody together, fewer for one address, so that nobody
//! takes them all. Whoever gets none is let go at once; how often that was is in the log.

use std::{
    collections::HashMap,
    io,
    net::IpAddr,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use axum_server::accept::Accept;
use boxmeter_web::panel::options::Network;
use nix::sys::socket::{setsockopt, sockopt};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// Connections at a time, of a listener: each page has one that stays open.
pub const CONNECTIONS_MAX: usize = 512;
/// Of one address. A reverse proxy, on this machine or trusted, has them all: everybody comes from there.
pub const ADDRESS_MAX: usize = 64;
/// A client that takes nothing of its answer for so long, or is gone without a word, loses its place.
const UNREAD_MAX_MS: u32 = 60_000;
/// Refusals between two lines of the log, after the first.
const TOLD_EVERY: u64 = 1_000;

/// See the module; clones share the places.
#[derive(Clone, Default)]
pub struct Places(Arc<Inner>);

#[derive(Default)]
struct Inner {
    /// Whose word about their visitors counts.
    proxies: Vec<Network>,
    taken: Mutex<Taken>,
    refused: AtomicU64,
}

#[derive(Default)]
struct Taken {
    all: usize,
    by_address: HashMap<IpAddr, usize>,
}

/// Whose places they are: anybody with IPv6 has a whole /64.
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(it) if !it.is_loopback() => IpAddr::from((u128::from(it) >> 64 << 64).to_be_bytes()),
        other => other,
    }
}

/// A place, until it is dropped.
struct Place {
    places: Places,
    address: IpAddr,
}

impl Places {
    /// `proxies`: those of `trusted_proxies`.
    pub fn new(proxies: Vec<Network>) -> Self {
        Places(Arc::new(Inner { proxies, ..Inner::default() }))
    }

    fn take(&self, peer: IpAddr) -> Option<Place> {
        let proxy = peer.is_loopback() || self.0.proxies.iter().any(|it| it.contains(peer));
        let address = network(peer);
        let mut taken = self.0.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let own = taken.by_address.get(&address).copied().unwrap_or(0);
        let full = taken.all >= CONNECTIONS_MAX || (own >= ADDRESS_MAX && !proxy);
        if full {
            drop(taken);
            let before = self.0.refused.fetch_add(1, Ordering::Relaxed);
            if before.is_multiple_of(TOLD_EVERY) {
                tracing::warn!(%address, refused = before + 1, "too many connections to the panel: refusing some");
            }
            return None;
        }
        taken.all += 1;
        taken.by_address.insert(address, own + 1);
        drop(taken);
        Some(Place { places: self.clone(), address })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.0.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.all -= 1;
        if let Some(own) = taken.by_address.get_mut(&self.address) {
            *own -= 1;
            if *own == 0 {
                taken.by_address.remove(&self.address);
            }
        }
    }
}

/// A connection that has a place.
pub struct Seated {
    stream: TcpStream,
    _place: Place,
}

impl<S> Accept<TcpStream, S> for Places {
    type Stream = Seated;
    type Service = S;
    type Future = std::future::Ready<io::Result<(Seated, S)>>;

    fn accept(&self, stream: TcpStream, service: S) -> Self::Future {
        let seated = stream.peer_addr().and_then(|peer| {
            stream.set_nodelay(true)?;
            setsockopt(&stream, sockopt::TcpUserTimeout, &UNREAD_MAX_MS)?;
            let place = self.take(peer.ip().to_canonical());
            let place = place.ok_or_else(|| io::Error::other("there is no place for it"))?;
            Ok((Seated { stream, _place: place }, service))
        });
        std::future::ready(seated)
    }
}

impl AsyncRead for Seated {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Seated {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_does_not_take_every_place() {
        let places = Places::new(Vec::new());
        let [a, b]: [IpAddr; 2] = ["192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap()];
        let mut taken: Vec<Place> = (0..ADDRESS_MAX).map_while(|_| places.take(a)).collect();
        assert_eq!(taken.len(), ADDRESS_MAX);
        assert!(places.take(a).is_none());
        assert!(places.take(b).is_some(), "another one has its own");
        taken.pop();
        assert!(places.take(a).is_some(), "one went");
    }

    /// Else everybody who comes by a proxy would share the places of one address.
    #[test]
    fn a_trusted_proxy_has_them_all_wherever_it_is() {
        let proxies = ["10.0.0.0/8", "2001:db8::9"].map(|it| it.parse().unwrap());
        for (peer, most) in [
            ("10.1.2.3", CONNECTIONS_MAX),
            ("2001:db8::9", CONNECTIONS_MAX),
            ("11.1.2.3", ADDRESS_MAX),
            // A neighbour of the proxy's.
            ("2001:db8::a", ADDRESS_MAX),
        ] {
            let (places, peer) = (Places::new(proxies.to_vec()), peer.parse().unwrap());
            let taken: Vec<Place> = std::iter::from_fn(|| places.take(peer)).collect();
            assert_eq!(taken.len(), most, "{peer}");
        }
    }

    #[test]
    fn places_come_back_and_have_an_end() {
        let places = Places::new(Vec::new());
        let proxy: IpAddr = "127.0.0.1".parse().unwrap();
        let taken: Vec<Place> = (0..CONNECTIONS_MAX).map_while(|_| places.take(proxy)).collect();
        assert_eq!(taken.len(), CONNECTIONS_MAX);
        assert!(places.take(proxy).is_none());
        drop(taken);
        assert!(places.take(proxy).is_some());
        assert!(places.0.taken.lock().unwrap().by_address.is_empty());
    }
}
