//! Addresses of what messages are posted to.

use std::net::{IpAddr, Ipv6Addr};

use http::Uri;

/// Where to post to.
#[derive(Clone, PartialEq, Eq)]
pub struct Web {
    pub tls: bool,
    pub host: String,
    pub port: u16,
    /// Path and query, which may hold a secret.
    pub path: String,
}

impl Web {
    /// Host and port: what may be told.
    pub fn place(&self) -> String {
        let host = &self.host;
        match host.contains(':') {
            true => format!("[{host}]:{}", self.port),
            false => format!("{host}:{}", self.port),
        }
    }

    /// As it goes into the request.
    pub fn authority(&self) -> String {
        let usual = if self.tls { 443 } else { 80 };
        let place = self.place();
        match place.strip_suffix(&format!(":{usual}")) {
            Some(host) if self.port == usual => host.to_owned(),
            _ => place,
        }
    }
}

/// Its path and query are not printed.
impl std::fmt::Debug for Web {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Web({})", self.place())
    }
}

/// On this machine or in a private network, as far as the text says.
pub fn is_near(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    match host.parse() {
        Ok(IpAddr::V4(ip)) => ip.is_loopback() || ip.is_private(),
        Ok(IpAddr::V6(ip)) => ip == Ipv6Addr::LOCALHOST || ip.is_unique_local(),
        Err(_) => host == "localhost",
    }
}

/// Reads an address. What it says of a bad one quotes nothing of it.
///
/// # Errors
/// No address of the web, one with a name or password in it, or one where everybody on the way could read along.
pub fn web(text: &str) -> Result<Web, String> {
    let wrong = || "must be an address as \"https://example.org/hook\"".to_owned();
    let uri: Uri = text.parse().map_err(|_| wrong())?;
    let tls = match uri.scheme_str() {
        Some("https") => true,
        Some("http") => false,
        _ => return Err(wrong()),
    };
    let authority = uri.authority().ok_or_else(wrong)?;
    if authority.as_str().contains('@') {
        return Err("must have no name or password before the host: put a secret into the path".to_owned());
    }
    let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
    if host.is_empty() {
        return Err(wrong());
    }
    if !tls && !is_near(&host) {
        return Err("must begin with https://; http:// is for this machine and private addresses".to_owned());
    }
    let port = authority.port_u16().unwrap_or(if tls { 443 } else { 80 });
    let path = uri.path_and_query().map_or("/", |it| it.as_str());
    let path = if path.is_empty() { "/" } else { path };
    Ok(Web { tls, host, port, path: path.to_owned() })
}
