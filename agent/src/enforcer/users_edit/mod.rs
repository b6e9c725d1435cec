//! Edits the users of proxies' inbounds and leaves every other byte of the files alone. Texts and records
//! go in, splices and records come out; nothing is read or written here. Files of several proxies are one
//! set: their inbounds' tags tell them apart.
//!
//! An entry that is taken out becomes a [`Parked`] record; put back, it stands where it stood, whatever
//! else was taken out, put back, added or edited by hand meanwhile.

mod entry;
mod gap;
mod known;
mod list;
mod parked;

use std::{collections::HashMap, fmt, path::PathBuf};

pub use entry::{BadName, Brought, Credentials, Fields, Shape, Sort, check_name, password};
pub use parked::{Parked, ParkedKey};

pub(super) use known::Known;
pub(super) use list::List;

use crate::service::{Kind, Service};
use crate::singbox::{
    config::LOCKED_USER,
    files::{ConfigError, FileText},
    splice::Splice,
    tree::{self, Node},
};

/// Why an inbound's users are not edited.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Excluded {
    /// Shadowsocks with `managed`: by the API of its service.
    Managed,
    /// ShadowTLS below version 3 has one password for all.
    OnePassword,
    /// A type that knows no users.
    NoUserType,
    /// The option `users` is not written.
    NoUsersOption,
    /// V2Ray's or Xray's inbound has no list of clients or accounts.
    NoList,
}

impl fmt::Display for Excluded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Excluded::Managed => "its users live in sing-box's ssm-api service",
            Excluded::OnePassword => {
                "shadowtls below version 3 has one password for all; set `\"version\": 3` to have users"
            }
            Excluded::NoUserType => "inbounds of this type have no users",
            Excluded::NoUsersOption => {
                "it has no `users`, so that whoever knows its address or its one password comes in; write `\"users\": []` into it to give it users"
            }
            Excluded::NoList => {
                "its `settings` have no list of `clients` (or `accounts`), so that it has one user or none; write one into them"
            }
        })
    }
}

/// Why nothing can be edited.
#[derive(Debug, thiserror::Error)]
pub enum EditRefused {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(
        "{}:{line}: the key {key:?} stands twice in one object, and sing-box takes only the last one; delete the other one first",
        file.display()
    )]
    RepeatedKey { file: PathBuf, line: usize, key: String },
    #[error("two inbounds have the tag {0:?}; sing-box refuses that: rename one")]
    RepeatedTag(String),
    #[error(
        "the edited text of {} does not read back as it should, so nothing was changed; please report this with the shape of the `users` array",
        file.display()
    )]
    ReadBack { file: PathBuf },
}

/// What is wrong with one user; the others are not held up by it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UserRefused {
    #[error("{name:?}: {why}")]
    Name { name: String, why: BadName },
    #[error(
        "the inbound {inbound:?} already has a user {user:?}; give another name, or delete that user first"
    )]
    DuplicateName { user: String, inbound: String },
    #[error(
        "on the inbound {inbound:?}, {user:?} would have the same credential as {other:?}, and sing-box could not tell them apart; give one of them another"
    )]
    DuplicateCredential { user: String, other: String, inbound: String },
    #[error(
        "the password brought for {user:?} is no key of {bytes} bytes in base64, which the method of the inbound {inbound:?} needs; leave it out, and one is made"
    )]
    WrongKey { user: String, inbound: String, bytes: usize },
    #[error("there is no inbound {tag:?}; there are {known}")]
    UnknownInbound { tag: String, known: String },
    #[error("the users of the inbound {tag:?} cannot be edited: {why}")]
    Excluded { tag: String, why: Excluded },
    #[error("no inbound of the configuration has users that can be edited")]
    NoInbounds,
}

impl UserRefused {
    /// Whom it is about.
    pub fn user(&self) -> Option<&str> {
        match self {
            UserRefused::Name { name: user, .. }
            | UserRefused::DuplicateName { user, .. }
            | UserRefused::DuplicateCredential { user, .. }
            | UserRefused::WrongKey { user, .. } => Some(user),
            UserRefused::UnknownInbound { .. } | UserRefused::Excluded { .. } | UserRefused::NoInbounds => {
                None
            }
        }
    }
}

/// A user to be made.
#[derive(Clone, Debug)]
pub struct Newcomer {
    pub name: String,
    /// `None`: all that have users.
    pub inbounds: Option<Vec<String>>,
    pub brought: Brought,
}

/// What became of a user on an inbound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    Added,
    PutBack,
    TakenOut,
    Deleted,
}

impl What {
    /// Does sing-box let somebody in after it that it would not have before?
    pub fn admits(self) -> bool {
        matches!(self, What::Added | What::PutBack)
    }
}

/// A change of the files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub user: String,
    pub inbound: String,
    pub what: What,
}

/// Why a record has no place now. It is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Homeless {
    /// No inbound has its tag.
    Vanished,
    /// The inbound has another type now.
    OtherType,
    Excluded(Excluded),
}

/// Keys on the way to users, of all proxies: standing twice, they say two things.
const EDITED_KEYS: [&str; 5] = ["inbounds", "users", "settings", "clients", "accounts"];

/// An inbound as far as its users are concerned.
pub(super) struct Place<'a> {
    pub service: Service,
    pub tag: String,
    pub shape: Shape,
    pub list: Result<List<'a>, Excluded>,
}

/// All inbounds of a configuration.
pub(super) struct Places<'a> {
    pub places: Vec<Place<'a>>,
    pub homeless: Vec<(Parked, Homeless)>,
}

fn excluded(kind: &Sort, node: &Node) -> Option<Excluded> {
    let listed = kind.proxy.users(node).and_then(Node::array).is_some();
    if !kind.proxy.carries_users(&kind.name) {
        return Some(Excluded::NoUserType);
    }
    if kind.proxy != Kind::Singbox {
        return (!listed).then_some(Excluded::NoList);
    }
    let version = node.get("version").and_then(Node::port).unwrap_or(1);
    if node.get("managed").and_then(Node::bool) == Some(true) {
        Some(Excluded::Managed)
    } else if kind.name == "shadowtls" && version < 3 {
        Some(Excluded::OnePassword)
    } else if !listed {
        Some(Excluded::NoUsersOption)
    } else {
        None
    }
}

impl<'a> Places<'a> {
    /// `own`: hashes of texts that boxmeter itself has put into the files.
    pub fn read(files: &'a [FileText], parked: &[Parked], own: &[[u8; 32]]) -> Result<Self, EditRefused> {
        let mut records: HashMap<&str, Vec<Parked>> = HashMap::new();
        for record in parked {
            records.entry(&record.key.inbound).or_default().push(record.clone());
        }
        let (mut places, mut homeless) = (Vec::new(), Vec::new());
        for file in files {
            // The file is as it was before, or boxmeter put it back: the entries never left it.
            let (hash, put_back) = (hex(&file.sha256), own.contains(&file.sha256));
            let unwritten = |from: &str| put_back || from == hash;
            let (root, repeated) = tree::parse(&file.path, &file.text).map_err(ConfigError::from)?;
            let ours = |key: &str| EDITED_KEYS.iter().any(|own| key.eq_ignore_ascii_case(own));
            let proxy = file.service.kind;
            if let Some(key) = repeated.into_iter().find(|repeated| ours(&repeated.key)) {
                return Err(EditRefused::RepeatedKey { file: key.file, line: key.line, key: key.key });
            }
            for node in root.get("inbounds").and_then(Node::array).unwrap_or_default() {
                let text = |key| node.get(key).and_then(Node::str).unwrap_or_default();
                let tag = match text("tag") {
                    "" => {
                        let earlier = |place: &&Place<'_>| place.service == file.service;
                        file.service.tag(&places.iter().filter(earlier).count().to_string())
                    }
                    tag => file.service.tag(tag),
                };
                let tag = tag.to_string();
                if places.iter().any(|place: &Place<'_>| place.tag == tag) {
                    return Err(EditRefused::RepeatedTag(tag));
                }
                let kind = Sort { proxy, name: text(proxy.type_key()).to_lowercase() };
                let mut records = records.remove(tag.as_str()).unwrap_or_default();
                let list = match (excluded(&kind, node), proxy.users(node)) {
                    (None, Some(users)) => {
                        homeless.extend(
                            records.extract_if(.., |r| r.kind != kind.name).map(|r| (r, Homeless::OtherType)),
                        );
                        Ok(List::read(file, &tag, &kind, users, records, &unwritten))
                    }
                    (why, _) => {
                        let why = why.unwrap_or(Excluded::NoUsersOption);
                        let gone = records.into_iter();
                        homeless.extend(gone.map(|r| (r, Homeless::Excluded(why.clone()))));
                        Err(why)
                    }
                };
                let settings = match proxy {
                    Kind::Singbox => Some(node),
                    Kind::V2ray | Kind::Xray => node.get("settings"),
                };
                let method = settings.and_then(|settings| settings.get("method")).and_then(Node::str);
                let shape = Shape { kind, method: method.unwrap_or_default().to_owned() };
                places.push(Place { service: file.service.clone(), tag, shape, list });
            }
        }
        homeless.extend(records.into_values().flatten().map(|r| (r, Homeless::Vanished)));
        homeless.sort_by(|a, b| a.0.key.cmp(&b.0.key));
        Ok(Places { places, homeless })
    }

    /// The inbounds that a new user is to be on: the named ones, or all that have users.
    pub fn targets(&self, inbounds: Option<&[String]>) -> Result<Vec<usize>, UserRefused> {
        let Some(tags) = inbounds else {
            let all: Vec<usize> =
                self.places.iter().enumerate().filter(|(_, p)| p.list.is_ok()).map(|(at, _)| at).collect();
            return if all.is_empty() { Err(UserRefused::NoInbounds) } else { Ok(all) };
        };
        let find = |tag: &String| {
            let at = self.places.iter().position(|place| place.tag == *tag).ok_or_else(|| {
                let known = self.places.iter().filter(|p| p.list.is_ok()).map(|p| p.tag.as_str());
                let known = known.collect::<Vec<_>>().join(", ");
                UserRefused::UnknownInbound { tag: tag.clone(), known }
            })?;
            match &self.places[at].list {
                Ok(_) => Ok(at),
                Err(why) => Err(UserRefused::Excluded { tag: tag.clone(), why: why.clone() }),
            }
        };
        let mut found = tags.iter().map(find).collect::<Result<Vec<usize>, _>>()?;
        found.sort_unstable();
        found.dedup();
        Ok(found)
    }
}

impl Place<'_> {
    /// The fields of a new user's entry and its text, written like the others.
    pub fn new_entry(
        &self,
        list: &List<'_>,
        known: &mut Known,
        (name, brought): (&str, &Brought),
    ) -> Result<(Fields, String), UserRefused> {
        let (user, inbound) = (name.to_owned(), self.tag.clone());
        check_name(name, &self.shape.kind).map_err(|why| UserRefused::Name { name: user.clone(), why })?;
        let users = || list.items.iter().filter(|item| item.name != LOCKED_USER).map(|item| &*item.text);
        let brought = brought.at(&self.tag);
        let flow = match &brought.flow {
            _ if self.shape.kind.name != "vless" => String::new(),
            Some(flow) => flow.clone(),
            None => entry::usual_flow(users()),
        };
        let fields = self.shape.fields(name, &flow, brought).map_err(|wrong| UserRefused::WrongKey {
            user: user.clone(),
            inbound: inbound.clone(),
            bytes: wrong.bytes,
        })?;
        let credential = entry::credential_in(&self.shape.kind, &fields);
        if let Some(other) = credential.as_ref().and_then(|wanted| known.holder(wanted)) {
            return Err(UserRefused::DuplicateCredential { user, other: other.clone(), inbound });
        }
        known.add(name, credential);
        let text = entry::compose(&fields, users().next_back());
        Ok((fields, text))
    }
}

/// An entry that nobody can use.
pub(super) fn locked_entry(list: &List<'_>, shape: &Shape) -> String {
    // Nothing was brought, so that there is no key that could be wrong.
    let fields = shape.fields(LOCKED_USER, "", &Brought::default()).unwrap_or_default();
    entry::compose(&fields, list.items.first().map(|item| &*item.text))
}

/// Are exactly those in a file's new text who should be?
pub(super) fn reads_back(file: &FileText, text: &str, lists: &[&List<'_>]) -> bool {
    let Ok((root, _)) = tree::parse(&file.path, text) else { return false };
    let inbounds = root.get("inbounds").and_then(Node::array).unwrap_or_default();
    let proxy = file.service.kind;
    let sort = |node: &Node| {
        let name = node.get(proxy.type_key()).and_then(Node::str).unwrap_or_default();
        Sort { proxy, name: name.to_lowercase() }
    };
    let edited = inbounds.iter().filter(|node| excluded(&sort(node), node).is_none());
    let same = |(node, list): (&Node, &&List<'_>)| {
        let users = proxy.users(node).and_then(Node::array).unwrap_or_default();
        let name =
            |user: &Node| user.get(list.kind.name_key()).and_then(Node::str).unwrap_or_default().to_owned();
        users.iter().map(name).eq(list.names().into_iter().map(str::to_owned))
    };
    edited.clone().count() == lists.len() && edited.zip(lists).all(same)
}

/// Takes one element out of an array that is no list of users; comments stay.
pub(super) fn without_element(text: &str, array: &Node, at: usize) -> Option<Splice> {
    let elements = array.array()?;
    let end_of = |at: usize| elements.get(at).map(|element| element.range.end);
    let start = at.checked_sub(1).and_then(end_of).unwrap_or(array.range.start + 1);
    let end = elements.get(at + 1).map_or(array.range.end - 1, |next| next.range.start);
    let element = &elements.get(at)?.range;
    let ends = gap::Ends { opens: at == 0, closes: at + 1 == elements.len() };
    let with = gap::join(&[&text[start..element.start], &text[element.end..end]], ends);
    Some(Splice { range: start..end, with })
}

/// In hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// May new users have these names on their inbounds? What is wrong with each, if anything.
pub(super) fn check_new(
    files: &[FileText],
    parked: &[Parked],
    newcomers: &[Newcomer],
) -> Result<Vec<Option<UserRefused>>, EditRefused> {
    let places = Places::read(files, parked, &[])?;
    let mut known: Vec<Known> =
        places.places.iter().map(|place| place.list.as_ref().map(List::known).unwrap_or_default()).collect();
    let mut check = |newcomer: &Newcomer| {
        let (name, targets) = (&newcomer.name, places.targets(newcomer.inbounds.as_deref())?);
        for &at in &targets {
            let place = &places.places[at];
            check_name(name, &place.shape.kind)
                .map_err(|why| UserRefused::Name { name: name.clone(), why })?;
            if known[at].has(name) {
                return Err(UserRefused::DuplicateName { user: name.clone(), inbound: place.tag.clone() });
            }
        }
        targets.into_iter().for_each(|at| known[at].add(name, None));
        Ok(())
    };
    Ok(newcomers.iter().map(|newcomer| check(newcomer).err()).collect())
}

/// A user's logins, also those that are out now: for showing them again to who may see them.
pub fn credentials(
    files: &[FileText],
    parked: &[Parked],
    name: &str,
) -> Result<Vec<Credentials>, EditRefused> {
    let places = Places::read(files, parked, &[])?;
    let mut found = Vec::new();
    for place in &places.places {
        let Ok(list) = &place.list else { continue };
        let kind = &place.shape.kind;
        let items = list.items.iter().filter(|item| item.name == name).map(|item| &*item.text);
        let loose = list.loose.iter().filter(|record| record.key.user == name).map(|record| &*record.entry);
        found.extend(items.chain(loose).map(|text| Credentials {
            user: name.to_owned(),
            inbound: place.tag.clone(),
            kind: kind.name.clone(),
            fields: entry::fields_of(kind, text),
        }));
    }
    Ok(found)
}
