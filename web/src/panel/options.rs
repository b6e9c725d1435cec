//! How the panel is reached and by whom: from the configuration.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use http::{HeaderMap, header};

use crate::{
    api::names::safe,
    locale::Lang,
    share::reach::{Reach, bracketed},
};

/// Addresses that a request may have passed on its way.
const FORWARDED_MAX: usize = 32;

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// In front of every path; empty, or `/panel`.
    pub base_path: String,
    /// The panel itself speaks TLS.
    pub tls: bool,
    /// `[panel] public_url`: how people reach the panel from elsewhere.
    pub public_url: String,
    /// `[panel] listen` and `public_listen`, where they are other than loopback: how phones get to the panel
    /// where nobody said a public address.
    pub listen: Option<SocketAddr>,
    pub public_listen: Option<SocketAddr>,
    /// Whose word about the visitor's address counts.
    pub trusted_proxies: Vec<Network>,
    /// Of who says nothing about it.
    pub language: Option<Lang>,
}

impl Options {
    /// The host of the public address, if there is one.
    fn public_host(&self) -> Option<String> {
        let uri: http::Uri = self.public_url.parse().ok()?;
        uri.host().map(str::to_ascii_lowercase)
    }

    /// Whether people reach the panel by TLS from elsewhere.
    pub fn secure(&self) -> bool {
        self.tls || self.public_url.starts_with("https://")
    }

    /// Where a user finds its own page, and how far away that address still leads there. `server` is where
    /// clients find the machine, if that is known.
    pub fn page_of(&self, path: &str, headers: &HeaderMap, server: Option<&str>) -> (String, Reach) {
        let with_reach = |url: String| {
            let reach = Reach::of_url(&url);
            (url, reach)
        };
        let scheme = if self.secure() { "https" } else { "http" };
        let at = |authority: String| format!("{scheme}://{authority}{}{path}", self.base_path);
        if !self.public_url.is_empty() {
            return with_reach(format!("{}{path}", self.public_url.trim_end_matches('/')));
        }
        let said = headers.get(header::HOST).and_then(|it| it.to_str().ok()).unwrap_or("localhost");
        let here = with_reach(at(safe(said)));
        let listens = |listener: Option<SocketAddr>| {
            let listener = listener?;
            let host = match listener.ip() {
                any if any.is_unspecified() => bracketed(server?),
                one => bracketed(&one.to_string()),
            };
            Some(with_reach(at(format!("{host}:{}", listener.port()))))
        };
        // What is meant for everybody comes first; then the way that this request came, unless that is the
        // machine's own and there is a better one.
        let better = || listens(self.listen).filter(|_| here.1 == Reach::Machine);
        listens(self.public_listen).or_else(better).unwrap_or_else(|| here.clone())
    }

    /// Whether this request came by TLS, as far as is known: by our own, or by a proxy's at the public address.
    /// A tunnel to the loopback address beside that proxy has none, and its browser would drop cookies that ask
    /// for it.
    pub fn secure_at(&self, headers: &HeaderMap) -> bool {
        let host = headers.get(header::HOST).and_then(|it| it.to_str().ok()).unwrap_or_default();
        let name = without_port(host).to_ascii_lowercase();
        self.tls || (self.secure() && self.public_host().is_some_and(|public| public == name))
    }

    /// Whether a request names the panel as one of its own names. Other names are those of somebody who had
    /// them point here; literal addresses cannot be.
    pub fn knows_host(&self, host: &str) -> bool {
        let name = without_port(host).to_ascii_lowercase();
        let literal = name.trim_start_matches('[').trim_end_matches(']');
        literal.parse::<IpAddr>().is_ok()
            || name == "localhost"
            || name.ends_with(".localhost")
            || self.public_host().is_some_and(|public| public == name)
    }

    /// Where a request came from: the peer, or what trusted proxies say, the last of whom said it.
    pub fn visitor_address(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let mut from = peer.to_canonical();
        // What cannot be read ends the chain; left out, it would hide what stands before or behind it.
        let lines = headers.get_all("x-forwarded-for").iter().rev();
        let lines = lines.map(|it| String::from_utf8_lossy(it.as_bytes()).into_owned());
        let said: Vec<String> = lines
            .flat_map(|line| line.rsplit(',').map(str::to_owned).collect::<Vec<_>>())
            .take(FORWARDED_MAX)
            .collect();
        for text in said {
            if !self.trusts(from) {
                break;
            }
            let Some(address) = address(text.trim()) else { break };
            from = address.to_canonical();
        }
        from
    }

    /// A proxy on this machine that nobody has said to trust says who visits.
    pub fn hides_visitors(&self, peer: IpAddr, headers: &HeaderMap) -> bool {
        let peer = peer.to_canonical();
        peer.is_loopback() && !self.trusts(peer) && headers.contains_key("x-forwarded-for")
    }

    fn trusts(&self, address: IpAddr) -> bool {
        self.trusted_proxies.iter().any(|it| it.contains(address))
    }

    /// Whether `Origin` is the panel's own: the host that the request names.
    pub fn own_origin(&self, headers: &HeaderMap) -> Option<bool> {
        let origin = headers.get(header::ORIGIN)?.to_str().ok()?;
        let host = headers.get(header::HOST).and_then(|it| it.to_str().ok()).unwrap_or_default();
        let Some((scheme, rest)) = origin.split_once("://") else { return Some(false) };
        let schemes = matches!(scheme, "http" | "https");
        Some(schemes && (rest.eq_ignore_ascii_case(host) || self.is_public_origin(origin)))
    }

    fn is_public_origin(&self, origin: &str) -> bool {
        let base = self.public_url.trim_end_matches('/');
        let Ok(uri) = base.parse::<http::Uri>() else { return false };
        let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else { return false };
        origin.eq_ignore_ascii_case(&format!("{scheme}://{authority}"))
    }
}

/// An address or `ADDRESS/BITS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

impl std::str::FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let wrong = || format!("{text:?} is no address and no network such as 10.0.0.0/8");
        let address: IpAddr = address.trim().parse().map_err(|_| wrong())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            None => most,
            Some(bits) => bits.trim().parse().ok().filter(|it| *it <= most).ok_or_else(wrong)?,
        };
        Ok(Network { address, bits })
    }
}

impl Network {
    pub fn contains(&self, address: IpAddr) -> bool {
        fn same(a: u128, b: u128, width: u32, bits: u8) -> bool {
            let rest = width - u32::from(bits);
            rest >= 128 || (a >> rest) == (b >> rest)
        }
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(a), IpAddr::V4(b)) => same(u32::from(a).into(), u32::from(b).into(), 32, self.bits),
            (IpAddr::V6(a), IpAddr::V6(b)) => same(u128::from(a), u128::from(b), 128, self.bits),
            _ => false,
        }
    }
}

/// `203.0.113.7`, `203.0.113.7:1234`, `2001:db8::7`, `[2001:db8::7]:1234`.
fn address(text: &str) -> Option<IpAddr> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(address);
    }
    if let Ok(socket) = text.parse::<SocketAddr>() {
        return Some(socket.ip());
    }
    text.strip_prefix('[')?.strip_suffix(']')?.parse::<Ipv6Addr>().ok().map(IpAddr::V6)
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|it| it.is_ascii_digit()) && !name.ends_with(':') => {
            // `::1` without brackets is no host with a port.
            if name.contains(':') && !name.ends_with(']') { host } else { name }
        }
        _ => host,
    }
}

/// Where nothing else is known.
pub const NOWHERE: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use jiff::Zoned;
    use tower::ServiceExt as _;

    use super::*;
    use crate::{
        demo::Demo,
        panel::{
            app,
            front::{Front, MadeUp},
            public_app,
        },
    };

    fn options() -> Options {
        Options {
            public_url: "https://panel.example/x".to_owned(),
            trusted_proxies: vec!["127.0.0.1".parse().unwrap(), "10.0.0.0/8".parse().unwrap()],
            ..Options::default()
        }
    }

    #[test]
    fn only_its_own_names_and_literal_addresses_are_hosts() {
        for own in [
            "localhost:8790",
            "127.0.0.1:8790",
            "[::1]:8790",
            "::1",
            "192.0.2.1",
            "Panel.Example",
            "panel.example:443",
        ] {
            assert!(options().knows_host(own), "{own}");
        }
        for foreign in [
            "evil.example",
            "panel.example.evil.example",
            "",
            "127.0.0.1.evil.example",
            "localhost.evil.example:8790",
        ] {
            assert!(!options().knows_host(foreign), "{foreign}");
        }
    }

    #[test]
    fn an_address_counts_as_far_as_proxies_are_trusted() {
        let from = |peer: &str, forwarded: &[&str]| {
            let mut headers = HeaderMap::new();
            for line in forwarded {
                headers.append("x-forwarded-for", line.parse().unwrap());
            }
            options().visitor_address(peer.parse().unwrap(), &headers).to_string()
        };
        assert_eq!(from("198.51.100.1", &["203.0.113.7"]), "198.51.100.1");
        assert_eq!(from("127.0.0.1", &["203.0.113.7"]), "203.0.113.7");
        assert_eq!(from("127.0.0.1", &["192.0.2.66, 203.0.113.7, 10.1.2.3"]), "203.0.113.7");
        assert_eq!(from("127.0.0.1", &["192.0.2.66", "203.0.113.7"]), "203.0.113.7");
        assert_eq!(from("::ffff:127.0.0.1", &["[2001:db8::7]:99"]), "2001:db8::7");
        assert_eq!(from("127.0.0.1", &["unknown"]), "127.0.0.1");
        let mut odd = HeaderMap::new();
        odd.append("x-forwarded-for", http::HeaderValue::from_bytes(b"\xff, 203.0.113.7").unwrap());
        assert_eq!(options().visitor_address("127.0.0.1".parse().unwrap(), &odd).to_string(), "203.0.113.7");
        assert_eq!(from("127.0.0.1", &[]), "127.0.0.1");
    }

    #[test]
    fn a_proxy_that_hides_its_visitors_is_noticed() {
        let hides = |trusted: Options, peer: &str, named: bool| {
            let mut headers = HeaderMap::new();
            if named {
                headers.append("x-forwarded-for", "203.0.113.7".parse().unwrap());
            }
            trusted.hides_visitors(peer.parse().unwrap(), &headers)
        };
        let nobody = || Options { trusted_proxies: Vec::new(), ..options() };
        assert!(hides(nobody(), "127.0.0.1", true) && hides(nobody(), "::1", true));
        assert!(!hides(nobody(), "127.0.0.1", false), "a browser on this machine");
        assert!(!hides(nobody(), "198.51.100.1", true), "anybody can say so from elsewhere");
        assert!(!hides(options(), "127.0.0.1", true), "it is trusted");
    }

    #[test]
    fn networks() {
        let has = |network: &str, address: &str| {
            network.parse::<Network>().unwrap().contains(address.parse().unwrap())
        };
        assert!(has("10.0.0.0/8", "10.255.0.1") && !has("10.0.0.0/8", "11.0.0.0"));
        assert!(has("0.0.0.0/0", "8.8.8.8") && !has("0.0.0.0/0", "::1"));
        assert!(has("2001:db8::/32", "2001:db8:1::1") && !has("2001:db8::/32", "2001:db9::1"));
        for wrong in ["", "x", "10.0.0.0/33", "10.0.0.0/-1", "::/129", "10.0.0.0/8/8"] {
            assert!(wrong.parse::<Network>().is_err(), "{wrong}");
        }
    }

    /// Whether the panel and its public listener answer a page at the address that was handed over. What they
    /// refuse for its name is the one answer that no phone may get.
    async fn answered(options: &Options, url: &str) -> bool {
        let front: Arc<dyn Front> = Arc::new(MadeUp(Arc::new(Demo::new(Zoned::now()))));
        let uri: http::Uri = url.parse().unwrap();
        let mut statuses = Vec::new();
        for app in [app(Arc::clone(&front), options.clone()), public_app(front, options.clone())] {
            let request =
                http::Request::get(uri.path()).header(header::HOST, uri.authority().unwrap().as_str());
            let answer = app.oneshot(request.body(axum::body::Body::empty()).unwrap()).await.unwrap();
            statuses.push(answer.status());
        }
        // Nobody has the secret `x`: a page that says so, and not the panel's own.
        statuses.iter().all(|it| *it == http::StatusCode::NOT_FOUND)
    }

    #[tokio::test]
    async fn a_users_page_is_where_a_phone_finds_it() {
        let page = async |options: &Options, host: &str, server: Option<&str>| {
            let headers = [(header::HOST, host.parse().unwrap())].into_iter().collect();
            // A proxy takes the path of `public_url` away, or leaves it for `base_path`.
            let (url, reach) = options.page_of("/s/x", &headers, server);
            assert!(answered(options, &url.replace("example/box/", "example/")).await, "{url}");
            (url, reach)
        };
        let everywhere = |url: &str| (url.to_owned(), Reach::Everywhere);
        let local = Options::default();
        assert_eq!(page(&local, "127.0.0.1:8790", Some("203.0.113.7")).await.1, Reach::Machine);
        assert_eq!(page(&local, "203.0.113.7:8790", None).await, everywhere("http://203.0.113.7:8790/s/x"));
        let said = Options { public_url: "https://panel.example/box/".to_owned(), ..Options::default() };
        assert_eq!(page(&said, "127.0.0.1:8790", None).await, everywhere("https://panel.example/box/s/x"));
        let loopback = Options { public_url: "http://localhost:8790".to_owned(), ..Options::default() };
        assert_eq!(page(&loopback, "203.0.113.7", None).await.1, Reach::Machine);
        let any = |port| Some(SocketAddr::from(([0, 0, 0, 0], port)));
        let public = Options { public_listen: any(8443), tls: true, ..Options::default() };
        assert_eq!(
            page(&public, "localhost", Some("2001:db8::7")).await,
            everywhere("https://[2001:db8::7]:8443/s/x")
        );
        assert_eq!(
            page(&public, "localhost", Some("server.example")).await,
            everywhere("https://server.example:8443/s/x")
        );
        assert_eq!(
            page(&public, "localhost", None).await.1,
            Reach::Machine,
            "nobody knows where the machine is"
        );
        let own = Options { public_listen: Some("198.51.100.4:80".parse().unwrap()), ..Options::default() };
        assert_eq!(page(&own, "localhost", None).await, everywhere("http://198.51.100.4:80/s/x"));
        // By a tunnel to a panel that listens everywhere.
        let open = Options { listen: any(8790), base_path: "/box".to_owned(), ..Options::default() };
        assert_eq!(
            page(&open, "127.0.0.1:1", Some("a.example")).await,
            everywhere("http://a.example:8790/box/s/x")
        );
        assert_eq!(
            page(&open, "203.0.113.7:99", Some("a.example")).await,
            everywhere("http://203.0.113.7:99/box/s/x")
        );
    }

    #[test]
    fn an_origin_is_the_host_that_was_asked_or_the_public_address() {
        let own = |origin: &str, host: &str| {
            let headers = [(header::ORIGIN, origin), (header::HOST, host)];
            let headers = headers.into_iter().map(|(name, value)| (name, value.parse().unwrap())).collect();
            options().own_origin(&headers)
        };
        assert_eq!(own("http://localhost:8790", "localhost:8790"), Some(true));
        assert_eq!(own("https://panel.example", "127.0.0.1:8790"), Some(true));
        assert_eq!(own("null", "localhost:8790"), Some(false));
        assert_eq!(own("http://localhost:1", "localhost:8790"), Some(false));
        assert_eq!(own("https://evil.example", "localhost:8790"), Some(false));
        assert_eq!(options().own_origin(&HeaderMap::new()), None);
    }
}
