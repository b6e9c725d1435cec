//! Reads one line of the access log of V2Ray 4 and 5 and of Xray: which address, which user. Pure.
//!
//! ```text
//! 2026/11/30 00:26:56 127.0.0.1:40854 accepted tcp:127.0.0.1:8080 [OUT] email: USER
//! 2026/11/30 00:26:56 tcp:127.0.0.1:40870 accepted tcp:example.com:80 [OUT] email: USER
//! 2026/11/30 00:26:56.123456 from 127.0.0.1:40854 accepted tcp:127.0.0.1:80 [IN >> OUT] email: USER
//! ```
//!
//! The client chooses what stands between `accepted` and the user, and a refused client's text may hold line
//! breaks. So a line is read from its start and from its end, against the configured users, and what lies
//! between is only looked at for the inbound. A forged line cannot be told from a true one.

use std::{collections::HashMap, net::SocketAddr, sync::Arc};

use crate::core::event::Network;

use super::{
    KnownInbounds, KnownUser,
    api_state::parse_peer,
    log_line::{ADDRESS_UNPARSABLE, USER_AMBIGUOUS, USER_UNKNOWN},
};

/// Places at which the user's name may begin that are tried, from the end.
const NAME_STARTS_MAX: usize = 8;

/// The user's name follows.
const EMAIL: &str = "email:";

/// What may stand between the inbound's tag and the outbound's.
const ARROWS: [&str; 4] = [" >> ", " -> ", " ==> ", " >["];

/// Who may log in where.
#[derive(Clone, Debug, Default)]
pub struct Names {
    known: KnownInbounds,
    /// Places in `known`, by name.
    places: HashMap<Arc<str>, Vec<usize>>,
}

impl Names {
    pub fn new(known: KnownInbounds) -> Names {
        let mut places: HashMap<Arc<str>, Vec<usize>> = HashMap::new();
        for (at, inbound) in known.0.iter().enumerate() {
            for (name, _) in inbound.users.iter().filter(|(_, user)| **user == KnownUser::Named) {
                places.entry(Arc::clone(name)).or_default().push(at);
            }
        }
        Names { known, places }
    }
}

/// A line about a user's connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// As the machine's clock shows, in whatever zone the proxy has, as if it were UTC.
    pub shown_s: i64,
    pub network: Network,
    pub peer: SocketAddr,
    pub user: Arc<str>,
    /// Tags of the inbounds that the connection can be on.
    pub inbounds: Vec<Arc<str>>,
}

/// The time at a line's start and what follows it.
pub fn split_time(line: &str) -> Option<(i64, &str)> {
    const LEN: usize = "2026/11/30 00:26:56".len();
    let (head, rest) = line.split_at_checked(LEN)?;
    let time =
        jiff::fmt::strtime::parse("%Y/%m/%d %H:%M:%S", head).and_then(|time| time.to_datetime()).ok()?;
    let shown_s = time.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp().as_second();
    let fraction =
        rest.strip_prefix('.').map_or(0, |digits| 1 + digits.bytes().take_while(u8::is_ascii_digit).count());
    Some((shown_s, rest[fraction..].strip_prefix(' ')?))
}

/// Reads a line. `written` says how the proxy itself writes an inbound's tag. `None`: it is about nobody's
/// connection; an error is the counter of a line that cannot be used.
pub fn parse(
    names: &Names,
    written: impl Fn(&Arc<str>) -> Option<String>,
    line: &str,
) -> Option<Result<Accepted, &'static str>> {
    let (shown_s, rest) = split_time(line)?;
    let rest = rest.strip_prefix("from ").unwrap_or(rest);
    let (from, rest) = rest.split_once(' ')?;
    let rest = rest.strip_prefix("accepted ")?;
    let (user, middle) = match user(names, rest) {
        Ok(Some(found)) => found,
        Ok(None) => return None,
        Err(counter) => return Some(Err(counter)),
    };
    let (network, address) = match from.split_once(':') {
        Some(("tcp", address)) => (Network::Tcp, address),
        Some(("udp", address)) => (Network::Udp, address),
        _ if rest.starts_with("udp:") => (Network::Udp, from),
        _ => (Network::Tcp, from),
    };
    let Some(peer) = parse_peer(address) else { return Some(Err(ADDRESS_UNPARSABLE)) };
    let places = &names.places[&user];
    let tags: Vec<&Arc<str>> = places.iter().map(|&at| &names.known.0[at].tag).collect();
    // The proxy's own brackets are the last ones: those before may be part of what the client asks for.
    let route = middle.trim_end().strip_suffix(']').and_then(|rest| {
        let at = rest.match_indices('[').map(|(at, _)| at).rfind(|&at| !rest[..at].ends_with('>'))?;
        Some(&rest[at + 1..])
    });
    let said = |tag: &&&Arc<str>| {
        let tag = written(tag).unwrap_or_default();
        let rest = route.and_then(|route| route.strip_prefix(tag.as_str()));
        rest.is_some_and(|rest| ARROWS.iter().any(|arrow| rest.starts_with(arrow)))
    };
    let told: Vec<&&Arc<str>> = tags.iter().filter(said).collect();
    let inbounds = match told.as_slice() {
        [only] => vec![Arc::clone(only)],
        _ => tags.into_iter().cloned().collect(),
    };
    Some(Ok(Accepted { shown_s, network, peer, user, inbounds }))
}

/// The user at the line's end and what stands before it. `None`: no user.
fn user<'l>(names: &Names, rest: &'l str) -> Result<Option<(Arc<str>, &'l str)>, &'static str> {
    let rest = rest.trim_end_matches([' ', '\r']);
    let mut found: Option<(Arc<str>, &str)> = None;
    let mut fits = false;
    for (at, _) in rest.rmatch_indices(EMAIL).take(NAME_STARTS_MAX) {
        if !rest[..at].ends_with([' ', ']']) {
            continue;
        }
        fits = true;
        let name = &rest[at + EMAIL.len()..];
        let name = name.strip_prefix(' ').unwrap_or(name);
        let Some((name, _)) = names.places.get_key_value(name) else { continue };
        if found.is_some() {
            return Err(USER_AMBIGUOUS);
        }
        found = Some((Arc::clone(name), &rest[..at]));
    }
    if found.is_none() && fits { Err(USER_UNKNOWN) } else { Ok(found) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::KnownInbound;

    fn names() -> Names {
        let inbound = |tag: &str, users: &[&str]| KnownInbound {
            kind: "trojan".into(),
            tag: tag.into(),
            users: users.iter().map(|&user| (user.into(), KnownUser::Named)).collect(),
        };
        let known = vec![
            inbound("x/trojan", &["a@b.c", "bob", "x email: bob"]),
            inbound("x/vmess", &["a@b.c", "email: bob"]),
        ];
        Names::new(KnownInbounds(Arc::new(known)))
    }

    /// User, peer, network and the tags of inbounds.
    type Read = (String, String, Network, Vec<String>);

    fn read(line: &str) -> Option<Result<Read, &'static str>> {
        let written = |tag: &Arc<str>| tag.strip_prefix("x/").map(str::to_owned);
        parse(&names(), written, line).map(|found| {
            found.map(|it| {
                let inbounds = it.inbounds.iter().map(|tag| tag.to_string()).collect();
                (it.user.to_string(), it.peer.to_string(), it.network, inbounds)
            })
        })
    }

    /// Lines of V2Ray 4.34 as it wrote them; those of the others as their sources write them.
    #[test]
    fn lines_of_all_versions_are_read() {
        for (line, user, peer, network, inbounds) in [
            (
                "2026/11/30 00:26:56 127.0.0.1:40854 accepted tcp:127.0.0.1:8080 [direct] email: bob",
                "bob",
                "127.0.0.1:40854",
                Network::Tcp,
                &["x/trojan"][..],
            ),
            (
                "2026/11/30 00:26:56 tcp:[::ffff:1.2.3.4]:7 accepted tcp:a.example:80 [direct] email: bob\r",
                "bob",
                "1.2.3.4:7",
                Network::Tcp,
                &["x/trojan"],
            ),
            // Without a tag of the outbound, and as older ones wrote it.
            (
                "2026/11/30 00:26:56 [2001:db8::1]:7 accepted tcp:1.1.1.1:80  email:a@b.c ",
                "a@b.c",
                "[2001:db8::1]:7",
                Network::Tcp,
                &["x/trojan", "x/vmess"],
            ),
            (
                "2026/11/30 00:26:56.123456 from 127.0.0.1:1 accepted udp:8.8.8.8:53 [vmess -> out] email: a@b.c",
                "a@b.c",
                "127.0.0.1:1",
                Network::Udp,
                &["x/vmess"],
            ),
            (
                "2026/11/30 00:26:56.123456 from tcp:127.0.0.1:1 accepted tcp:8.8.8.8:53 [trojan >[rule]> out] email: a@b.c",
                "a@b.c",
                "127.0.0.1:1",
                Network::Tcp,
                &["x/trojan"],
            ),
            (
                "2026/11/30 00:26:56 udp:127.0.0.1:40854 accepted udp:1.1.1.1:53 [direct] email: bob",
                "bob",
                "127.0.0.1:40854",
                Network::Udp,
                &["x/trojan"],
            ),
        ] {
            let inbounds = inbounds.iter().map(|&tag| tag.to_owned()).collect();
            let expected = (user.to_owned(), peer.to_owned(), network, inbounds);
            assert_eq!(read(line), Some(Ok(expected)), "{line}");
        }
    }

    #[test]
    fn what_is_nobodys_is_not_read() {
        for line in [
            "",
            "2026/11/30 00:26:56",
            "V2Ray 4.34.0 (user) 20230518-074445 (go1.19.8 linux/amd64)",
            "2026/11/30 00:26:56 tcp:127.0.0.1:57378 accepted tcp:127.0.0.1:8080 [direct]",
            "2026/11/30 00:26:56 127.0.0.1:4 rejected  proxy/trojan: not trojan protocol email: bob",
            "2026/13/30 00:26:56 127.0.0.1:4 accepted tcp:127.0.0.1:8080 [direct] email: bob",
            "x 2026/11/30 00:26:56 127.0.0.1:4 accepted tcp:127.0.0.1:8080 [direct] email: bob",
        ] {
            assert_eq!(read(line), None, "{line}");
        }
    }

    #[test]
    fn what_has_two_readings_or_none_is_counted() {
        let line = |rest: &str| format!("2026/11/30 00:26:56 127.0.0.1:4 accepted tcp:h:1 [direct] {rest}");
        assert_eq!(read(&line("email: zoe")), Some(Err(USER_UNKNOWN)));
        assert_eq!(read(&line("email: bob more")), Some(Err(USER_UNKNOWN)));
        assert_eq!(read(&line("email: x email: bob")), Some(Err(USER_AMBIGUOUS)));
        assert_eq!(read(&line("email: email: bob")), Some(Err(USER_AMBIGUOUS)));
        let far = "2026/11/30 00:26:56 nowhere accepted tcp:h:1 [direct] email: bob";
        assert_eq!(read(far), Some(Err(ADDRESS_UNPARSABLE)));
        // Nor is a tag one that it writes.
        let forged =
            "2026/11/30 00:26:56 127.0.0.1:4 accepted tcp:[trojan >> x]:1 [vmess >> out] email: a@b.c";
        assert!(matches!(read(forged), Some(Ok((.., inbounds))) if inbounds == ["x/vmess"]));
        let forged = "2026/11/30 00:26:56 127.0.0.1:4 accepted tcp:[trojan >> x]:1 [out] email: a@b.c";
        assert!(matches!(read(forged), Some(Ok((.., inbounds))) if inbounds.len() == 2));
        // What a client writes before the name is no name.
        let forged = "2026/11/30 00:26:56 127.0.0.1:4 accepted http://h/?email:bob [direct] email: a@b.c";
        assert!(matches!(read(forged), Some(Ok((user, ..))) if user == "a@b.c"));
    }
}
