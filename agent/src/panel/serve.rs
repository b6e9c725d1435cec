//! One listener: HTTP/1 over TCP, in TLS or not, with limits against whoever is slow on purpose.

use std::{
    net::{SocketAddr, TcpListener},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Context as _;
use axum::Router;
use axum_server::{Handle, Server};
use hyper_util::rt::TokioTimer;

pub use super::places::Places;
use super::tls::Tls;

/// The first request has to be there by then, from the first byte of the connection.
const FIRST_MAX: Duration = Duration::from_secs(15);
/// From the first byte of a later request to the last of its headers, and how long a connection may
/// be kept without one.
const HEADER_MAX: Duration = Duration::from_secs(20);
/// For the TLS handshake.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// Bytes of a request's headers.
const HEADER_BYTES_MAX: usize = 32 << 10;
const HEADERS_MAX: usize = 100;

/// Ends every listener.
#[derive(Clone, Default)]
pub struct Ending(Arc<Mutex<Vec<Handle<SocketAddr>>>>);

impl Ending {
    fn handle(&self) -> Handle<SocketAddr> {
        let handle = Handle::new();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(handle.clone());
        handle
    }

    /// No more connections; those that are open have so long.
    pub fn begin(&self, within: Duration) {
        for handle in self.0.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            handle.graceful_shutdown(Some(within));
        }
    }
}

/// Serves until [`Ending::begin`].
///
/// # Errors
/// When the listener cannot be used.
pub async fn serve(
    listener: TcpListener,
    app: Router,
    tls: Option<Tls>,
    places: Places,
    end: Ending,
) -> anyhow::Result<()> {
    let server = axum_server::from_tcp(listener)?.handle(end.handle());
    let service = app.into_make_service_with_connect_info::<SocketAddr>();
    let served = match tls {
        None => limited(server.acceptor(places)).serve(service).await,
        Some(tls) => {
            let acceptor = tls.acceptor().handshake_timeout(HANDSHAKE_MAX).acceptor(places);
            limited(server.acceptor(acceptor)).serve(service).await
        }
    };
    served.context("serving the panel")
}

fn limited<A>(server: Server<SocketAddr, A>) -> Server<SocketAddr, A> {
    // HTTP/2 would let one connection ask for much at once, past the number of connections.
    let mut server = server.http1_only().first_request_timeout(FIRST_MAX);
    server
        .http_builder()
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_MAX)
        .max_buf_size(HEADER_BYTES_MAX)
        .max_headers(HEADERS_MAX);
    server
}
