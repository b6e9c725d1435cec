//! Serves the router on a unix socket: one task per connection, a limit on their number by what the callers
//! may do, and each caller's access decided once per connection from the kernel's word on who it is.

use std::{future::Future, io, sync::Arc, time::Duration};

use axum::{Router, body::Body, response::IntoResponse as _};
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{UnixListener, UnixStream, unix::UCred},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tower::ServiceExt;

use super::{error::ApiError, order::Identity, routes::Access};

/// Connections at a time of those who may do the same. A client holds one per question.
pub const CONNECTIONS_MAX: usize = 256;
/// Of everybody else together; they are only told that they may not.
const STRANGERS_MAX: usize = 16;
/// Connections beyond the limit that are told so; still more are closed at once.
const TURNED_AWAY_MAX: usize = 32;
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
    let places = Places::new();
    let mut tasks = tokio::task::JoinSet::new();
    tokio::pin!(shutdown);
    loop {
        let stream = tokio::select! {
            () = &mut shutdown => return Ok(()),
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection on the API socket");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
        };
        let peer = stream.peer_cred().ok();
        let granted = peer.and_then(|peer| Some((access(&peer)?, Identity::Uid(peer.uid()))));
        let (place, router) = match places.take(granted.as_ref().map(|it| it.0)) {
            Place::Free(place) => (place, router.clone()),
            Place::TurnedAway(place) => (place, Router::new().fallback(full)),
            Place::None => continue,
        };
        tasks.spawn(async move {
            connection(stream, router, granted).await;
            drop(place);
        });
        while tasks.try_join_next().is_some() {}
    }
}

async fn full() -> axum::response::Response {
    let text = format!("{CONNECTIONS_MAX} questions like this one are being answered: try again in a moment");
    ApiError::unavailable(text).into_response()
}

/// Who holds connections. Root always finds one, whatever the panel's visitors or readers hold.
struct Places {
    admin: Arc<Semaphore>,
    panel: Arc<Semaphore>,
    others: Arc<Semaphore>,
    strangers: Arc<Semaphore>,
    turned_away: Arc<Semaphore>,
}

enum Place {
    Free(OwnedSemaphorePermit),
    TurnedAway(OwnedSemaphorePermit),
    None,
}

impl Places {
    fn new() -> Self {
        let of = |count| Arc::new(Semaphore::new(count));
        Places {
            admin: of(CONNECTIONS_MAX),
            panel: of(CONNECTIONS_MAX),
            others: of(CONNECTIONS_MAX),
            strangers: of(STRANGERS_MAX),
            turned_away: of(TURNED_AWAY_MAX),
        }
    }

    fn take(&self, access: Option<Access>) -> Place {
        let places = match access {
            Some(Access::Admin) => &self.admin,
            Some(Access::Panel) => &self.panel,
            Some(Access::Read | Access::Users) => &self.others,
            None => &self.strangers,
        };
        if let Ok(place) = Arc::clone(places).try_acquire_owned() {
            return Place::Free(place);
        }
        match Arc::clone(&self.turned_away).try_acquire_owned() {
            Ok(place) => Place::TurnedAway(place),
            Err(_) => Place::None,
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn whoever_holds_all_places_holds_only_those_of_their_kind() {
        let places = Places::new();
        let held: Vec<_> = (0..CONNECTIONS_MAX)
            .map(|_| match places.take(Some(Access::Read)) {
                Place::Free(place) => place,
                _ => panic!("turned away too early"),
            })
            .collect();
        let turned_away: Vec<_> = (0..TURNED_AWAY_MAX)
            .map(|_| match places.take(Some(Access::Read)) {
                Place::TurnedAway(place) => place,
                _ => panic!("one place too many, or nobody said anything"),
            })
            .collect();
        assert!(matches!(places.take(Some(Access::Read)), Place::None));
        for free in [Some(Access::Panel), Some(Access::Admin), None] {
            assert!(matches!(places.take(free), Place::Free(_)), "{free:?}");
        }
        drop((held, turned_away));
        assert!(matches!(places.take(Some(Access::Read)), Place::Free(_)));
    }
}
