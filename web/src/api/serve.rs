//! Serves the router on a unix socket: one task per connection, a limit on their number, and the
//! caller's access decided once per connection from the kernel's word on who it is.

use std::{future::Future, io, sync::Arc, time::Duration};

use axum::{Router, body::Body};
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{UnixListener, UnixStream, unix::UCred},
    sync::Semaphore,
};
use tower::ServiceExt;

use super::{order::Identity, routes::Access};

/// Connections at a time; more wait in the listener's backlog. A client holds one per question.
pub const CONNECTIONS_MAX: usize = 256;
/// A client that says nothing for this long is let go, so that it does not hold a connection.
const HEADER_TIME_MAX: Duration = Duration::from_secs(30);
/// A pause after an error of `accept`, which is mostly a lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until `shutdown` is ready; open connections are then dropped with their tasks.
///
/// `access` says what a peer may do; `None` is answered with 403 by the router.
///
/// # Errors
/// None at present: errors of single connections end those, errors of `accept` are logged.
pub async fn serve<F>(
    listener: UnixListener,
    router: Router,
    access: F,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()>
where
    F: Fn(&UCred) -> Option<Access> + Send + Sync + 'static,
{
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut tasks = tokio::task::JoinSet::new();
    tokio::pin!(shutdown);
    loop {
        let place = Arc::clone(&places).acquire_owned();
        let accepted = async {
            let place = place.await.map_err(io::Error::other)?;
            listener.accept().await.map(|(stream, _)| (stream, place))
        };
        let (stream, place) = tokio::select! {
            () = &mut shutdown => return Ok(()),
            accepted = accepted => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection on the API socket");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
        };
        let peer = stream.peer_cred().ok();
        let granted = peer.and_then(|peer| Some((access(&peer)?, Identity::Uid(peer.uid()))));
        let router = router.clone();
        tasks.spawn(async move {
            connection(stream, router, granted).await;
            drop(place);
        });
        while tasks.try_join_next().is_some() {}
    }
}

async fn connection(stream: UnixStream, router: Router, granted: Option<(Access, Identity)>) {
    let service = hyper::service::service_fn(move |mut request: http::Request<Incoming>| {
        if let Some((access, identity)) = granted.clone() {
            request.extensions_mut().insert(access);
            request.extensions_mut().insert(identity);
        }
        router.clone().oneshot(request.map(Body::new))
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIME_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a connection of the API socket ended early");
    }
}
