//! From where an address can be opened: a QR code that only this machine can follow is worse than none.

use std::net::{IpAddr, Ipv6Addr};

/// See the module; ordered from near to far.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reach {
    /// Only the machine itself: loopback.
    Machine,
    /// Only its own network.
    Network,
    Everywhere,
}

impl Reach {
    pub fn of_address(address: IpAddr) -> Reach {
        match address.to_canonical() {
            it if it.is_loopback() || it.is_unspecified() => Reach::Machine,
            IpAddr::V4(it) => {
                let [a, b, ..] = it.octets();
                let carrier = a == 100 && (64..128).contains(&b);
                near(it.is_private() || it.is_link_local() || carrier)
            }
            IpAddr::V6(it) => near(it.is_unique_local() || it.is_unicast_link_local()),
        }
    }

    /// Of a host as it stands in an address: with brackets around IPv6, without a port.
    pub fn of_host(host: &str) -> Reach {
        let host = host.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        if let Ok(address) = host.parse::<IpAddr>() {
            return Reach::of_address(address);
        }
        match host.as_str() {
            "" | "localhost" => Reach::Machine,
            it if it.ends_with(".localhost") => Reach::Machine,
            // A single word is looked up by the own network only, and these ends are kept for such names.
            it => {
                near(!it.contains('.') || [".local", ".lan", ".internal"].iter().any(|end| it.ends_with(end)))
            }
        }
    }

    /// Of a whole address, `https://host:port/path`.
    pub fn of_url(url: &str) -> Reach {
        let host = url.parse::<http::Uri>().ok().and_then(|uri| uri.host().map(Reach::of_host));
        host.unwrap_or(Reach::Machine)
    }
}

fn near(it: bool) -> Reach {
    if it { Reach::Network } else { Reach::Everywhere }
}

/// A host as it stands in an address: IPv6 in brackets.
pub fn bracketed(host: &str) -> String {
    if host.parse::<Ipv6Addr>().is_ok() { format!("[{host}]") } else { host.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_reaches_the_machine_and_private_addresses_their_network() {
        for (url, reach) in [
            ("http://127.0.0.1:8790/s/x", Reach::Machine),
            ("http://localhost:8790/s/x", Reach::Machine),
            ("http://panel.localhost/s/x", Reach::Machine),
            ("http://[::1]:8790/s/x", Reach::Machine),
            ("http://[::ffff:127.0.0.1]/", Reach::Machine),
            ("http://0.0.0.0:1/", Reach::Machine),
            ("nothing", Reach::Network),
            ("/s/x", Reach::Machine),
            ("http://192.168.1.9/s/x", Reach::Network),
            ("http://10.1.2.3:8790/", Reach::Network),
            ("http://100.64.0.1/", Reach::Network),
            ("http://[fd00::1]/", Reach::Network),
            ("http://server/", Reach::Network),
            ("http://server.lan/", Reach::Network),
            ("https://panel.example.org/panel/s/x", Reach::Everywhere),
            ("http://203.0.113.7:8790/", Reach::Everywhere),
            ("http://[2001:db8::7]/", Reach::Everywhere),
        ] {
            assert_eq!(Reach::of_url(url), reach, "{url}");
        }
        assert_eq!(bracketed("2001:db8::7"), "[2001:db8::7]");
        assert_eq!(bracketed("a.example"), "a.example");
    }
}
