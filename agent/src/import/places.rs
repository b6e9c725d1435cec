//! Which of sing-box's inbounds the clients of a panel are on: the one of the same tag and type, else the one
//! of the same type on the same port.

use std::collections::BTreeMap;

use boxmeter_web::api::types::{ImportUser, InboundStatus};

use super::ForeignInbound;

/// What became of the panel's inbounds.
#[derive(Debug, Default, PartialEq)]
pub struct Placed {
    /// Those that are here under another name: the panel's, then ours.
    pub renamed: Vec<(String, String)>,
    /// That clients are on and that are not here; places in the list.
    pub missing: Vec<usize>,
    /// That cannot be taken over; places in the list.
    pub without: Vec<usize>,
}

/// Gives users the tags that sing-box has. A tag that is not here stays, so that nobody is made without the
/// inbound (whoever adds users refuses it); what cannot be taken over at all goes, unless nothing else is left.
pub fn place(users: &mut [ImportUser], inbounds: &[ForeignInbound], present: &[InboundStatus]) -> Placed {
    let mut placed = Placed::default();
    let mut names: BTreeMap<&str, Option<String>> = BTreeMap::new();
    for (at, inbound) in inbounds.iter().enumerate() {
        let here = here(inbound, present);
        let name = match (&inbound.why_not, here) {
            (Some(_), _) => {
                placed.without.push(at);
                None
            }
            (None, Some(tag)) => {
                if tag != inbound.tag {
                    placed.renamed.push((inbound.tag.clone(), tag.to_owned()));
                }
                Some(tag.to_owned())
            }
            (None, None) => {
                placed.missing.push(at);
                Some(unknown(inbound, present))
            }
        };
        names.insert(&inbound.tag, name);
    }
    let all: BTreeMap<&str, &ForeignInbound> = inbounds.iter().map(|it| (it.tag.as_str(), it)).collect();
    for user in users {
        let Some(tags) = user.inbounds.take() else { continue };
        let known = |tag: &String| names.get(tag.as_str()).cloned().unwrap_or_else(|| Some(tag.clone()));
        let mut kept: Vec<String> = tags.iter().filter_map(known).collect();
        if kept.is_empty() {
            // An empty list would be every inbound.
            kept =
                tags.iter().filter_map(|tag| all.get(tag.as_str())).map(|it| unknown(it, present)).collect();
        }
        user.inbounds = Some(kept);
        user.logins = std::mem::take(&mut user.logins)
            .into_iter()
            .filter_map(|(tag, login)| Some((known(&tag)?, login)))
            .collect();
    }
    placed
}

fn here<'p>(inbound: &ForeignInbound, present: &'p [InboundStatus]) -> Option<&'p str> {
    let mut same_type = present.iter().filter(|it| it.kind == inbound.kind);
    let same_port = |it: &&InboundStatus| Some(it.port) == inbound.port;
    let found = same_type.clone().find(|it| it.tag == inbound.tag).or_else(|| same_type.find(same_port));
    found.map(|it| it.tag.as_str())
}

/// A name under which nothing is here, also where another inbound has the tag.
fn unknown(inbound: &ForeignInbound, present: &[InboundStatus]) -> String {
    let mut name = inbound.tag.clone();
    while present.iter().any(|it| it.tag == name) {
        name = format!("{name} ({})", inbound.kind);
    }
    name
}

#[cfg(test)]
mod tests {
    use boxmeter_web::api::types::ImportLogin;

    use super::*;

    fn foreign(tag: &str, kind: &str, port: u16) -> ForeignInbound {
        ForeignInbound {
            tag: tag.to_owned(),
            kind: kind.to_owned(),
            port: Some(port),
            snippet: None,
            why_not: None,
        }
    }

    fn ours(tag: &str, kind: &str, port: u16) -> InboundStatus {
        InboundStatus {
            tag: tag.to_owned(),
            kind: kind.to_owned(),
            port,
            networks: Vec::new(),
            users: 0,
            note: None,
        }
    }

    fn on(tags: &[&str]) -> ImportUser {
        let login = |tag: &&str| ((*tag).to_owned(), ImportLogin::default());
        ImportUser {
            inbounds: Some(tags.iter().map(|tag| (*tag).to_owned()).collect()),
            logins: tags.iter().map(login).collect(),
            ..ImportUser::default()
        }
    }

    fn tags(user: &ImportUser) -> Vec<&str> {
        let tags: Vec<&str> = user.inbounds.iter().flatten().map(String::as_str).collect();
        let logins: Vec<&str> = user.logins.keys().map(String::as_str).collect();
        assert!(logins.iter().all(|tag| tags.contains(tag)), "{tags:?} {logins:?}");
        tags
    }

    #[test]
    fn clients_are_where_the_panel_had_them() {
        let mut off = foreign("off", "vless", 9);
        off.why_not = Some("it is switched off".to_owned());
        let inbounds = [
            foreign("a", "vless", 1),
            foreign("inbound-443", "trojan", 443),
            foreign("c", "vmess", 3),
            foreign("d", "vmess", 4),
            off,
        ];
        let present = [ours("a", "vless", 7), ours("tr", "trojan", 443), ours("c", "trojan", 5)];
        let mut users = [
            on(&["a", "inbound-443"]),
            on(&["c", "a"]),
            on(&["d"]),
            on(&["off", "a"]),
            on(&["off"]),
            ImportUser::default(),
        ];
        let placed = place(&mut users, &inbounds, &present);
        assert_eq!(placed.renamed, [("inbound-443".to_owned(), "tr".to_owned())]);
        assert_eq!((placed.missing, placed.without), (vec![2, 3], vec![4]));
        assert_eq!(tags(&users[0]), ["a", "tr"], "by tag, by port");
        assert_eq!(tags(&users[1]), ["c (vmess)", "a"], "not on the trojan that has its tag");
        assert_eq!(tags(&users[2]), ["d"]);
        assert_eq!(tags(&users[3]), ["a"], "what is off is no loss");
        let alone: Vec<&str> = users[4].inbounds.iter().flatten().map(String::as_str).collect();
        assert_eq!(alone, ["off"], "and never everywhere instead");
        assert_eq!(users[5].inbounds, None);
    }
}
