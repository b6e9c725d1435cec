//! One request over HTTP/1.1, with or without TLS, with limits on everything. Follows no redirect and knows no
//! proxy. Tells apart what cannot have arrived from what may have.

use std::{fs, io, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use super::CONNECT_LIMIT;
use crate::config::notify::Web;

/// How long the other side may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(15);
/// Bytes of an answer that are read.
const ANSWER_MAX: usize = 64 << 10;
/// The longest pause that another side may ask for.
const RETRY_AFTER_MAX: u64 = 3600;

/// What is posted.
pub struct Post {
    pub path: String,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
}

#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub retry_after: Option<Duration>,
    pub body: Bytes,
}

/// Why there is no answer.
#[derive(Debug)]
pub enum NoAnswer {
    /// Not a byte of the request has left.
    NotSent(String),
    /// It may have arrived.
    Unsure(String),
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Posts, in a limited time. What it says quotes neither path nor body.
pub async fn post(to: &Web, ca_file: &str, post: Post) -> Result<Answer, NoAnswer> {
    let request = request(to, post).map_err(NoAnswer::NotSent)?;
    let stream = match timeout(CONNECT_LIMIT, connect(to, ca_file)).await {
        Ok(stream) => stream.map_err(NoAnswer::NotSent)?,
        Err(_) => return Err(NoAnswer::NotSent(format!("{} does not answer", to.place()))),
    };
    let (mut sender, connection) = http1::handshake::<_, Full<Bytes>>(TokioIo::new(stream))
        .await
        .map_err(|error| NoAnswer::NotSent(format!("{}: {error}", to.place())))?;
    let driver = tokio::spawn(connection);
    let answered = timeout(ANSWER_LIMIT, async {
        let response = sender.send_request(request).await?;
        let (status, retry_after) = (response.status(), retry_after(&response));
        // The status is what counts: a body that breaks changes nothing of it.
        let body = Limited::new(response.into_body(), ANSWER_MAX).collect().await;
        Ok::<_, hyper::Error>(Answer {
            status,
            retry_after,
            body: body.map(|body| body.to_bytes()).unwrap_or_default(),
        })
    })
    .await;
    driver.abort();
    match answered {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(NoAnswer::Unsure(format!("{} ended without an answer: {error}", to.place()))),
        Err(_) => {
            let seconds = ANSWER_LIMIT.as_secs();
            Err(NoAnswer::Unsure(format!("{} has not answered within {seconds} s", to.place())))
        }
    }
}

fn request(to: &Web, post: Post) -> Result<Request<Full<Bytes>>, String> {
    let mut request = Request::builder()
        .method(Method::POST)
        .uri(post.path)
        .header(header::HOST, to.authority())
        .header(header::USER_AGENT, concat!("boxmeter/", env!("CARGO_PKG_VERSION")))
        .header(header::CONTENT_TYPE, "application/json");
    for (name, value) in post.headers {
        request = request.header(name, value);
    }
    request.body(Full::from(post.body)).map_err(|_| "its address cannot be asked for".to_owned())
}

fn retry_after(response: &Response<Incoming>) -> Option<Duration> {
    let text = response.headers().get(header::RETRY_AFTER).map(HeaderValue::to_str)?.ok()?;
    text.trim().parse().ok().map(|seconds: u64| Duration::from_secs(seconds.min(RETRY_AFTER_MAX)))
}

async fn connect(to: &Web, ca_file: &str) -> Result<Box<dyn Stream>, String> {
    let place = to.place();
    let stream = TcpStream::connect((to.host.as_str(), to.port))
        .await
        .map_err(|error| format!("{place} cannot be reached: {error}"))?;
    let _ = stream.set_nodelay(true);
    if !to.tls {
        return Ok(Box::new(stream));
    }
    let name = ServerName::try_from(to.host.clone()).map_err(|_| format!("{place} is no name for TLS"))?;
    let connector = TlsConnector::from(Arc::new(trust(ca_file)?));
    let stream = connector.connect(name, stream).await.map_err(|error| tls_error(&place, &error))?;
    Ok(Box::new(stream))
}

fn tls_error(place: &str, error: &io::Error) -> String {
    format!(
        "TLS with {place} failed: {error}; if its certificate is your own, name its authority in `ca_file`"
    )
}

/// The usual authorities, and those of a file.
fn trust(ca_file: &str) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.into() };
    if !ca_file.is_empty() {
        for certificate in certificates(ca_file)? {
            roots
                .add(certificate)
                .map_err(|error| format!("a certificate in {ca_file} cannot be used: {error}"))?;
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

/// The certificates of a file, at least one.
pub fn certificates(ca_file: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let bad =
        |error: &dyn std::fmt::Display| format!("the certificates in {ca_file} cannot be read: {error}");
    let pem = fs::read(ca_file).map_err(|error| bad(&error))?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match found {
        Ok(found) if found.is_empty() => Err(bad(&"there is none in it")),
        Ok(found) => Ok(found),
        Err(error) => Err(bad(&error)),
    }
}
