//! From the proxies' configurations to what the kernel watches, the core knows and the ledger keeps.
//! Pure: what is read comes in, what is to be set goes out.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use boxmeter_web::api::types::{InboundStatus, Network as ApiNetwork};

use super::shared::Directory;
use crate::{
    core::{
        attribute::InboundInfo,
        event::{InboundIndex, Network, UserId},
    },
    kernel::{self, WatchPort},
    ledger::{FoundInbound, FoundUser, InboundRecord, UserRecord},
    service::Kind,
    singbox::{ProxyConfig, config::Inbound},
};

/// The listeners that are watched: those of types that have users, with a port that is known.
pub fn watched(kind: Kind, config: &ProxyConfig) -> impl Iterator<Item = (&Inbound, u16)> {
    config
        .inbounds
        .iter()
        .filter(move |inbound| kind.carries_users(&inbound.kind) || inbound.has_users)
        .filter_map(|inbound| Some((inbound, inbound.listen_port?)))
}

/// One entry per inbound and network.
pub fn ports(kind: Kind, config: &ProxyConfig, netns: u64) -> Vec<WatchPort> {
    let mut ports = Vec::new();
    for (inbound, port) in watched(kind, config) {
        for network in inbound.transports.networks() {
            ports.push(WatchPort { netns, port, network, tag: inbound.tag.to_string() });
        }
    }
    ports
}

pub fn inbounds(kind: Kind, config: &ProxyConfig) -> Vec<FoundInbound> {
    watched(kind, config)
        .map(|(inbound, port)| FoundInbound {
            tag: Arc::clone(&inbound.tag),
            kind: inbound.kind.clone(),
            port,
        })
        .collect()
}

/// The users of managed inbounds, by the inbound's tag.
pub type Managed = BTreeMap<Arc<str>, BTreeSet<Arc<str>>>;

/// Whom managed inbounds have: as their services told, and whom the ledger has there. A service that was
/// not asked yet, or that forgot its users in a restart, makes nobody vanish.
pub fn managed(config: &ProxyConfig, told: &Managed, directory: &Directory) -> Managed {
    let of = |tag: &Arc<str>| config.inbounds.iter().any(|inbound| inbound.managed && inbound.tag == *tag);
    let mut managed: Managed =
        told.iter().filter(|(tag, _)| of(tag)).map(|(t, n)| (t.clone(), n.clone())).collect();
    for (tag, name) in memberships(directory.users.values().map(|user| &**user), &directory.inbounds) {
        if of(tag) {
            managed.entry(Arc::clone(tag)).or_default().insert(Arc::clone(name));
        }
    }
    managed
}

/// Users by name, over all inbounds of all proxies; an account has one name and may be in several. Users
/// without a name cannot be told apart and are left out: `doctor` asks for names.
pub fn users<'a>(configs: impl IntoIterator<Item = &'a ProxyConfig>, managed: &Managed) -> Vec<FoundUser> {
    let mut users: BTreeMap<Arc<str>, BTreeSet<Arc<str>>> = BTreeMap::new();
    for (tag, names) in managed {
        for name in names {
            users.entry(Arc::clone(name)).or_default().insert(Arc::clone(tag));
        }
    }
    for inbound in configs.into_iter().flat_map(|config| &config.inbounds) {
        for user in inbound.users.iter().filter(|user| !user.name.is_empty() && !user.is_locked()) {
            users.entry(Arc::clone(&user.name)).or_default().insert(Arc::clone(&inbound.tag));
        }
    }
    users
        .into_iter()
        .map(|(name, inbounds)| FoundUser { name, inbounds: inbounds.into_iter().collect() })
        .collect()
}

/// Whom a name in a sighting means. A name that the file does not have any more means who had it last:
/// sing-box let that user in, so it has not read the file since.
pub fn names<'a>(users: impl IntoIterator<Item = &'a UserRecord>) -> BTreeMap<Arc<str>, UserId> {
    // By id, which is by age.
    let (gone, present): (Vec<_>, Vec<_>) = users.into_iter().partition(|user| user.tombstoned_ms.is_some());
    gone.into_iter().chain(present).map(|user| (Arc::clone(&user.name), user.id)).collect()
}

/// The tags and names of whom the ledger has as users: those whom boxmeter itself took out of the file
/// are among them, and sing-box knows those until it reads the file.
pub fn memberships<'a>(
    users: impl IntoIterator<Item = &'a UserRecord>,
    inbounds: &'a [InboundRecord],
) -> impl Iterator<Item = (&'a Arc<str>, &'a Arc<str>)> {
    let tags: BTreeMap<_, _> = inbounds.iter().map(|inbound| (inbound.no, &inbound.tag)).collect();
    let present = users.into_iter().filter(|user| user.tombstoned_ms.is_none());
    let places = present.flat_map(|user| user.inbounds.iter().map(move |no| (*no, &user.name)));
    places.filter_map(move |(no, name)| Some((*tags.get(&no)?, name)))
}

/// The tags of the kernel's inbounds in full: the kernel keeps only the beginning of a long one.
pub fn tags(
    known: &[kernel::InboundInfo],
    watched: &BTreeMap<InboundIndex, Arc<str>>,
    records: &[InboundRecord],
) -> BTreeMap<InboundIndex, Arc<str>> {
    let full = |inbound: &kernel::InboundInfo| {
        let same = records.iter().filter(|record| kernel::cut(&record.tag) == inbound.tag);
        // Several tags with one beginning are told apart by their ports.
        let best = same.max_by_key(|record| (record.port == inbound.port, record.tombstoned_ms.is_none()));
        watched.get(&inbound.index).or(best.map(|record| &record.tag)).cloned()
    };
    known
        .iter()
        .map(|inbound| (inbound.index, full(inbound).unwrap_or_else(|| inbound.tag.as_str().into())))
        .collect()
}

/// What the attributor needs, for the inbounds that the kernel watches by these indexes.
pub fn infos(
    kind: Kind,
    config: &ProxyConfig,
    indexes: &BTreeMap<Arc<str>, InboundIndex>,
) -> Vec<InboundInfo> {
    watched(kind, config)
        .filter_map(|(inbound, _)| {
            Some(InboundInfo {
                index: *indexes.get(&inbound.tag)?,
                tag: Arc::clone(&inbound.tag),
                networks: inbound.transports.networks().collect(),
                forwarded: inbound.reports_forwarded_addresses,
                sighted_as: inbound.detour.iter().cloned().collect(),
                reported_udp: inbound.reported_udp,
                loses_port: inbound.loses_port,
            })
        })
        .collect()
}

pub fn listeners(kind: Kind, config: &ProxyConfig) -> Vec<InboundStatus> {
    watched(kind, config)
        .map(|(inbound, port)| InboundStatus {
            tag: inbound.tag.to_string(),
            kind: inbound.kind.clone(),
            port,
            networks: inbound
                .transports
                .networks()
                .map(|network| match network {
                    Network::Tcp => ApiNetwork::Tcp,
                    Network::Udp => ApiNetwork::Udp,
                })
                .collect(),
            users: inbound.users.iter().filter(|user| !user.is_locked()).count() as u64,
            note: note(inbound),
        })
        .collect()
}

fn note(inbound: &Inbound) -> Option<String> {
    if inbound.managed {
        return Some("its users live in sing-box's ssm-api service".to_owned());
    }
    if inbound.users.is_empty() && inbound.detour.is_none() {
        return Some("has no users: all of its bytes are unattributed".to_owned());
    }
    if let Some(note) = inbound.note {
        return Some(note.to_owned());
    }
    inbound
        .shares_sockets
        .then(|| "several users can share one connection of this transport: the first one pays".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::{Ledger, Options};

    fn record(no: i64, tag: &str, port: u16) -> InboundRecord {
        InboundRecord {
            no: crate::ledger::InboundNo(no),
            tag: tag.into(),
            kind: "trojan".to_owned(),
            port,
            tombstoned_ms: None,
            rev: 1,
        }
    }

    fn in_kernel(index: u32, tag: &str, port: u16) -> kernel::InboundInfo {
        let tag = kernel::cut(tag).to_owned();
        kernel::InboundInfo { index: InboundIndex(index), tag, port, netns: 0, tcp: true, udp: false }
    }

    /// The kernel keeps the beginning of a tag, and Chinese letters take three bytes each.
    #[test]
    fn long_tags_are_found_again() {
        let long = "香港".repeat(30);
        let (first, second) = (format!("{long}甲"), format!("{long}乙"));
        let records = [record(1, &first, 1), record(2, &second, 2), record(3, "short", 3)];
        let known = [in_kernel(1, &first, 1), in_kernel(2, &second, 2), in_kernel(3, "short", 3)];
        let found = tags(&known, &BTreeMap::new(), &records);
        let found: Vec<&str> = found.values().map(|tag| &**tag).collect();
        assert_eq!(found, [first.as_str(), second.as_str(), "short"]);
        // What is watched now is known from the configuration, whatever the ledger has.
        let watched = BTreeMap::from([(InboundIndex(1), Arc::from("other"))]);
        assert_eq!(&*tags(&known, &watched, &records)[&InboundIndex(1)], "other");
        assert_eq!(&*tags(&known, &BTreeMap::new(), &[])[&InboundIndex(3)], "short");
    }

    /// Managed inbounds have no users in the file.
    #[test]
    fn users_of_managed_inbounds_are_those_told_and_those_known() {
        let text = r#"{"inbounds": [
            {"type": "shadowsocks", "tag": "ss", "listen_port": 1, "managed": true, "method": "aes-128-gcm"},
            {"type": "shadowsocks", "tag": "other", "listen_port": 2, "method": "aes-128-gcm"}]}"#;
        let (root, _) = crate::singbox::tree::parse(&Arc::new("a.json".into()), text).expect("JSON");
        let config = crate::singbox::config::read(&root).expect("a configuration");
        let names = |names: &[&str]| names.iter().map(|&name| name.into()).collect::<BTreeSet<Arc<str>>>();
        let told = Managed::from([("ss".into(), names(&["bob"])), ("gone".into(), names(&["zoe"]))]);
        let found = managed(&config, &told, &Directory::default());
        assert_eq!(found, Managed::from([("ss".into(), names(&["bob"]))]));
        let users: Vec<_> =
            users([&config], &found).into_iter().map(|user| (user.name, user.inbounds)).collect();
        assert_eq!(users, [("bob".into(), vec!["ss".into()])]);
    }

    #[test]
    fn a_name_means_who_has_it_or_had_it_last() {
        let folder = tempfile::tempdir().expect("a folder");
        let options = Options::new(jiff::tz::TimeZone::UTC, 1_000);
        let ledger = Ledger::open(&folder.path().join("ledger.db"), options).expect("a ledger");
        let found = FoundInbound { tag: "in".into(), kind: "trojan".into(), port: 1 };
        let inbounds = ledger.sync_inbounds(vec![found], 1_000).wait().expect("an inbound");
        let sync = |present: &[&str]| {
            let user = |name: &&str| FoundUser { name: (*name).into(), inbounds: vec!["in".into()] };
            let found = present.iter().map(user).collect();
            ledger.sync_users(found, vec![], "unlimited".to_owned(), 2_000).wait().expect("users")
        };
        let first = names(&sync(&["alice", "bob"]))["alice"];
        let users = sync(&["bob"]);
        assert_eq!(names(&users)["alice"], first, "gone from the file, not from the running sing-box");
        let present: Vec<_> = memberships(&users, &inbounds).map(|(tag, name)| (&**tag, &**name)).collect();
        assert_eq!(present, [("in", "bob")]);
        let second = names(&sync(&["alice", "bob"]))["alice"];
        assert_ne!(second, first, "a name that comes back is another user");
        assert_eq!(names(&sync(&["bob"]))["alice"], second);
    }
}
