//! Source: nginx with nginx-module-vts, `/status/format/json`. Totals per user, by `filter_by_set_key`:
//! either a group per user (`user1::host`, with a key per address that was asked for: all of them are added),
//! or the group `users::host`, whose keys are the users.
//!
//! Keys are what clients ask for. They may be of any length and no text at all, so that they are hashed as they
//! come, and only names of users are kept.

use std::{path::PathBuf, time::Duration};

use bytes::Bytes;
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::sync::mpsc;

use super::connect;
use crate::core::counters::{COUNTERS_MAX, Reading};

mod answer;
mod pieces;

pub use answer::parse;
use pieces::Pieces;

/// Bytes of an answer: a key takes some 1,700 of them, and is read while they come. Nothing of them is kept but
/// the counters.
const ANSWER_MAX: usize = 512 << 20;

/// Pieces of an answer that wait to be read.
const PIECES_MAX: usize = 4;

/// The whole answer is there in this time, or it failed.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);

/// Why there are no totals; the text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum VtsError {
    #[error("nginx at {addr} cannot be reached ({error}); is it running, and is `status` its address?")]
    Connect { addr: std::net::SocketAddr, error: std::io::Error },
    #[error("nginx does not answer {url} in {seconds} s", seconds = ANSWER_LIMIT.as_secs())]
    Silent { url: String },
    #[error("nginx answers {url} with HTTP status {status}; it needs `vhost_traffic_status_display`")]
    Status { url: String, status: StatusCode },
    #[error(
        "nginx's answer is longer than {ANSWER_MAX} bytes or breaks off ({0}); limit its keys by \
         `vhost_traffic_status_filter_max_node`, or have one key per user: `vhost_traffic_status_filter_by_set_key \
         NAME users::$server_name`"
    )]
    Body(String),
    #[error("nginx's answer is not the JSON of nginx-module-vts ({0}); nothing of it was counted")]
    Json(String),
    #[error(
        "nginx has more than {COUNTERS_MAX} keys; limit them by `vhost_traffic_status_filter_max_node`, or have \
         one key per user"
    )]
    TooMany,
    #[error(
        "`status` must be http://ADDRESS:PORT/PATH with an IP address or localhost, as \
             http://127.0.0.1:8080/status/format/json"
    )]
    Url,
}

/// Where the answer is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    pub addr: std::net::SocketAddr,
    text: String,
    path: String,
    host: String,
}

impl Url {
    /// # Errors
    /// What is not an address without TLS on this or another machine.
    pub fn parse(text: &str) -> Result<Url, VtsError> {
        let uri: Uri = text.parse().map_err(|_| VtsError::Url)?;
        if uri.scheme_str() != Some("http") {
            return Err(VtsError::Url);
        }
        let authority = uri.authority().ok_or(VtsError::Url)?;
        let with_port = match authority.port() {
            Some(_) => authority.as_str().to_owned(),
            None => format!("{authority}:80"),
        };
        let addr = connect::controller_addr(&with_port).ok_or(VtsError::Url)?;
        let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        Ok(Url { addr, text: text.to_owned(), path, host: authority.as_str().to_owned() })
    }
}

/// Asks once.
///
/// # Errors
/// See [`VtsError`]; whatever it is, nothing is lost: the counters stay in nginx.
pub async fn read(url: &Url, netns: Option<PathBuf>) -> Result<Reading, VtsError> {
    let (pieces, read) = mpsc::channel(PIECES_MAX);
    // A large answer takes a while, and the agent's loop is on this thread.
    let parsed = tokio::task::spawn_blocking(move || parse(Pieces::new(read)));
    let fetched = match tokio::time::timeout(ANSWER_LIMIT, fetch(url, netns, pieces)).await {
        Ok(fetched) => fetched,
        Err(_) => Err(VtsError::Silent { url: url.text.clone() }),
    };
    let parsed = parsed.await.map_err(|error| VtsError::Json(error.to_string()))?;
    // What broke off was not read whole, whatever it looks like.
    fetched.and(parsed)
}

/// Hands an answer on, piece by piece, as long as somebody reads it.
async fn fetch(url: &Url, netns: Option<PathBuf>, pieces: mpsc::Sender<Bytes>) -> Result<(), VtsError> {
    let addr = url.addr;
    let stream = connect::connect(addr, netns).await.map_err(|error| VtsError::Connect { addr, error })?;
    let broken = |error: hyper::Error| VtsError::Body(error.to_string());
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    // Its error comes through the body as well.
    let driver = tokio::spawn(connection);
    let request = Request::get(&url.path)
        .header(header::HOST, &url.host)
        .header(header::USER_AGENT, concat!("boxmeter/", env!("CARGO_PKG_VERSION")))
        .body(Empty::<Bytes>::new())
        .map_err(|_| VtsError::Url)?;
    let answered = async {
        let response = sender.send_request(request).await.map_err(broken)?;
        if response.status() != StatusCode::OK {
            return Err(VtsError::Status { url: url.text.clone(), status: response.status() });
        }
        let (mut body, mut length) = (response.into_body(), 0_usize);
        while let Some(frame) = body.frame().await {
            let Ok(piece) = frame.map_err(broken)?.into_data() else { continue };
            length = length.saturating_add(piece.len());
            if length > ANSWER_MAX {
                return Err(VtsError::Body("it is too long".to_owned()));
            }
            if pieces.send(piece).await.is_err() {
                // Whoever reads it has found that it is none.
                break;
            }
        }
        Ok(())
    };
    let done = answered.await;
    driver.abort();
    done
}

#[cfg(test)]
mod tests;
