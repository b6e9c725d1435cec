//! Users of managed shadowsocks inbounds, which live in sing-box's `ssm-api` service instead of its
//! files: what is to be done is planned (pure), then said to the service. It works at once, without a
//! reload; connections that are open stay open.
//!
//! A user whose key the service cannot take stays in its list all the same, and from then on it refuses
//! every change: keys are checked before they are sent.

use std::{collections::HashMap, fmt, net::SocketAddr, path::PathBuf, time::Duration};

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};

use super::{
    reconcile::{Want, Wanted},
    users_edit::{
        BadName, Brought, Change, Credentials, Parked, ParkedKey, Shape, Sort, UserRefused, What, check_name,
    },
};
use crate::{singbox::services::ManagerService, source::connect};

/// No answer in this time is a failure.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes of an answer; 10,000 users are below 3 MiB.
const ANSWER_MAX: usize = 16 << 20;

const INBOUND_TYPE: &str = "shadowsocks";

/// Why the service did not do it.
#[derive(Debug, thiserror::Error)]
pub enum ManagedError {
    #[error(
        "sing-box's ssm-api service at {addr} cannot be reached ({error}); is sing-box running, and is this its configuration?"
    )]
    Connect { addr: SocketAddr, error: std::io::Error },
    #[error(
        "sing-box's ssm-api service at {addr} speaks TLS, which boxmeter does not; let it listen on 127.0.0.1 without `tls`"
    )]
    Tls { addr: SocketAddr },
    #[error(
        "no ssm-api service of the configuration names the managed inbound {0:?} in its `servers`; add it there"
    )]
    Unserved(String),
    #[error(
        "the ssm-api service at {addr} does not know the path {path:?}; sing-box runs with another configuration than this: reload it"
    )]
    Path { addr: SocketAddr, path: String },
    #[error("the ssm-api service refuses to {what} ({status}): {answer}")]
    Refused { what: String, status: StatusCode, answer: String },
    #[error(
        "the listener at {addr} does not answer as an ssm-api service does ({what}); is there another program on this port?"
    )]
    Other { addr: SocketAddr, what: String },
}

/// A user as the service has it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManagedUser {
    #[serde(rename = "username")]
    pub name: String,
    #[serde(rename = "uPSK")]
    pub key: String,
}

impl fmt::Debug for ManagedUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ManagedUser").field("name", &self.name).finish_non_exhaustive()
    }
}

/// The service, as far as it has one inbound's users.
#[derive(Clone, Debug)]
pub struct Manager {
    addr: SocketAddr,
    /// Where sing-box's network namespace is another one.
    netns: Option<PathBuf>,
    path: String,
}

#[derive(Deserialize)]
struct Listed {
    #[serde(default)]
    users: Option<Vec<ManagedUser>>,
}

impl Manager {
    /// The service that has an inbound's users.
    pub fn of(
        services: &[ManagerService],
        inbound: &str,
        netns: Option<PathBuf>,
    ) -> Result<Manager, ManagedError> {
        let served = services.iter().find_map(|service| {
            let (path, _) = service.servers.iter().find(|(_, tag)| **tag == *inbound)?;
            Some((service, path))
        });
        let (service, path) = served.ok_or_else(|| ManagedError::Unserved(inbound.to_owned()))?;
        let addr = SocketAddr::new(connect::reachable(service.listen), service.listen_port);
        if service.tls {
            return Err(ManagedError::Tls { addr });
        }
        Ok(Manager { addr, netns, path: format!("{path}/server/v1/users") })
    }

    pub async fn list(&self) -> Result<Vec<ManagedUser>, ManagedError> {
        let answer = self.call(Method::GET, &self.path, None, "list users").await?;
        let listed: Listed = serde_json::from_slice(&answer).map_err(|error| self.other(error))?;
        Ok(listed.users.unwrap_or_default())
    }

    /// The key must be one that the inbound's method takes.
    pub async fn add(&self, user: &ManagedUser) -> Result<(), ManagedError> {
        let body = serde_json::to_vec(user).map_err(|error| self.other(error))?;
        let what = format!("add {:?}", user.name);
        self.call(Method::POST, &self.path, Some(body), &what).await.map(drop)
    }

    pub async fn remove(&self, name: &str) -> Result<(), ManagedError> {
        let path = format!("{}/{}", self.path, encode(name));
        self.call(Method::DELETE, &path, None, &format!("remove {name:?}")).await.map(drop)
    }

    fn other(&self, what: impl ToString) -> ManagedError {
        ManagedError::Other { addr: self.addr, what: what.to_string() }
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
        what: &str,
    ) -> Result<Bytes, ManagedError> {
        match tokio::time::timeout(CALL_TIMEOUT, self.ask(method, path, body, what)).await {
            Ok(answer) => answer,
            Err(_) => Err(self.other("no answer")),
        }
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
        what: &str,
    ) -> Result<Bytes, ManagedError> {
        let stream = connect::connect(self.addr, self.netns.clone())
            .await
            .map_err(|error| ManagedError::Connect { addr: self.addr, error })?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| self.other(error))?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, self.addr.to_string())
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body.unwrap_or_default())))
            .map_err(|error| self.other(error))?;
        let exchange = async {
            let response = sender.send_request(request).await.map_err(|error| self.other(error))?;
            let status = response.status();
            let body = Limited::new(response.into_body(), ANSWER_MAX);
            let body = body.collect().await.map_err(|error| self.other(error))?.to_bytes();
            self.judge(status, body, path, what)
        };
        // The connection's own error comes through the exchange as well.
        tokio::pin!(exchange);
        tokio::select! {
            answer = &mut exchange => answer,
            _ = connection => exchange.await,
        }
    }

    fn judge(&self, status: StatusCode, body: Bytes, path: &str, what: &str) -> Result<Bytes, ManagedError> {
        if status.is_success() {
            return Ok(body);
        }
        if status == StatusCode::NOT_FOUND && !body.is_empty() {
            return Err(ManagedError::Path { addr: self.addr, path: path.to_owned() });
        }
        let answer = String::from_utf8_lossy(&body).trim().to_owned();
        Err(ManagedError::Refused { what: what.to_owned(), status, answer })
    }
}

/// In a path exactly as Go writes it: the service compares with that.
fn encode(name: &str) -> String {
    name.bytes().fold(String::new(), |mut text, byte| {
        use fmt::Write as _;
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => text.push(char::from(byte)),
            _ if b"-_.~$&+,:;=@".contains(&byte) => text.push(char::from(byte)),
            _ => drop(write!(text, "%{byte:02X}")),
        }
        text
    })
}

/// What is to be done with one managed inbound. The order is that of `reconcile::Plan`: park, then
/// remove and add, then unpark.
#[derive(Debug, Default)]
pub struct ManagedPlan {
    pub park: Vec<Parked>,
    pub remove: Vec<String>,
    pub add: Vec<ManagedUser>,
    pub unpark: Vec<ParkedKey>,
    pub credentials: Vec<Credentials>,
    /// Needs no reload.
    pub changes: Vec<Change>,
    pub refused: Vec<UserRefused>,
}

impl ManagedPlan {
    pub fn is_empty(&self) -> bool {
        self.park.is_empty() && self.remove.is_empty() && self.add.is_empty() && self.unpark.is_empty()
    }
}

/// Plans for one managed inbound with this method. `listed` is what its service says; `parked` may hold
/// the records of other inbounds too. A user who is out and listed again was put back by somebody, or
/// the service was restarted: it is removed again.
pub fn plan(
    inbound: &str,
    method: &str,
    listed: &[ManagedUser],
    parked: &[Parked],
    wanted: &Wanted,
) -> ManagedPlan {
    let mut plan = ManagedPlan::default();
    let out = kept(inbound, parked);
    let is_in: HashMap<&str, &ManagedUser> = listed.iter().map(|user| (user.name.as_str(), user)).collect();
    let shape = Shape { kind: Sort::singbox(INBOUND_TYPE), method: method.to_owned() };
    let mut names: Vec<&String> = wanted.keys().collect();
    names.sort_unstable();
    for name in names {
        let (now, kept) = (is_in.get(name.as_str()), out.get(name.as_str()));
        let change = |what| Change { user: name.clone(), inbound: inbound.to_owned(), what };
        match &wanted[name] {
            Want::Out => {
                if let Some(user) = now {
                    plan.park.extend(kept.is_none().then(|| record(inbound, user)));
                    plan.remove.push(name.clone());
                    plan.changes.push(change(What::TakenOut));
                }
            }
            Want::Deleted => {
                if now.is_some() {
                    plan.remove.push(name.clone());
                    plan.changes.push(change(What::Deleted));
                }
                plan.unpark.extend(kept.map(|record| record.key.clone()));
            }
            Want::In => {
                if let (None, Some(user)) = (now, kept.and_then(|record| user_of(record))) {
                    plan.add.push(user);
                    plan.changes.push(change(What::PutBack));
                }
                plan.unpark.extend(kept.map(|record| record.key.clone()));
            }
            Want::New { inbounds, brought } => {
                let named = inbounds.as_ref().is_some_and(|tags| tags.iter().any(|tag| tag == inbound));
                if !named || now.is_some() || kept.is_some() {
                    continue;
                }
                match make(&shape, inbound, name, brought, listed, &out) {
                    Err(refused) => plan.refused.push(refused),
                    Ok((user, credentials)) => {
                        plan.add.push(user);
                        plan.credentials.push(credentials);
                        plan.changes.push(change(What::Added));
                    }
                }
            }
        }
    }
    plan
}

/// A new user's entry, as if it had been taken out: with [`Want::In`] it comes into the service.
pub fn prepare(
    inbound: &str,
    method: &str,
    (listed, parked): (&[ManagedUser], &[Parked]),
    name: &str,
    brought: &Brought,
) -> Result<(Parked, Credentials), UserRefused> {
    let shape = Shape { kind: Sort::singbox(INBOUND_TYPE), method: method.to_owned() };
    let out = kept(inbound, parked);
    if listed.iter().any(|user| user.name == name) || out.contains_key(name) {
        return Err(UserRefused::DuplicateName { user: name.to_owned(), inbound: inbound.to_owned() });
    }
    let (user, credentials) = make(&shape, inbound, name, brought, listed, &out)?;
    Ok((record(inbound, &user), credentials))
}

/// A user's login, in or out.
pub fn credentials(
    inbound: &str,
    (listed, parked): (&[ManagedUser], &[Parked]),
    name: &str,
) -> Option<Credentials> {
    let parked = || kept(inbound, parked).get(name).and_then(|record| user_of(record));
    let user = listed.iter().find(|user| user.name == name).cloned().or_else(parked)?;
    Some(Credentials {
        user: user.name.clone(),
        inbound: inbound.to_owned(),
        kind: INBOUND_TYPE.to_owned(),
        fields: vec![("name", user.name), ("password", user.key)],
    })
}

/// An inbound's records by name.
fn kept<'a>(inbound: &str, parked: &'a [Parked]) -> HashMap<&'a str, &'a Parked> {
    let own = parked.iter().filter(|record| record.key.inbound == inbound && record.kind == INBOUND_TYPE);
    own.map(|record| (record.key.user.as_str(), record)).collect()
}

fn make(
    shape: &Shape,
    inbound: &str,
    name: &str,
    brought: &Brought,
    listed: &[ManagedUser],
    out: &HashMap<&str, &Parked>,
) -> Result<(ManagedUser, Credentials), UserRefused> {
    let bad = |why| UserRefused::Name { name: name.to_owned(), why };
    check_name(name, &shape.kind).map_err(bad)?;
    if name.contains('/') {
        return Err(bad(BadName::Slash));
    }
    let (user, tag) = (name.to_owned(), inbound.to_owned());
    let fields = shape.fields(name, "", brought.at(inbound)).map_err(|wrong| UserRefused::WrongKey {
        user: user.clone(),
        inbound: tag.clone(),
        bytes: wrong.bytes,
    })?;
    let key = fields.last().map(|(_, key)| key.clone()).unwrap_or_default();
    let kept = out.values().filter_map(|record| user_of(record));
    if let Some(other) = listed.iter().cloned().chain(kept).find(|other| other.key == key) {
        return Err(UserRefused::DuplicateCredential { user, other: other.name, inbound: tag });
    }
    let made = ManagedUser { name: user.clone(), key };
    Ok((made, Credentials { user, inbound: tag, kind: INBOUND_TYPE.to_owned(), fields }))
}

/// A record of the same kind as those of files, with the user as the service writes it.
fn record(inbound: &str, user: &ManagedUser) -> Parked {
    Parked {
        key: ParkedKey { user: user.name.clone(), inbound: inbound.to_owned(), nth: 0 },
        kind: INBOUND_TYPE.to_owned(),
        file: PathBuf::new(),
        entry: serde_json::json!({"username": user.name, "uPSK": user.key}).to_string(),
        index: 0,
        previous: None,
        next: None,
        before: Vec::new(),
        after: Vec::new(),
        from: String::new(),
        left: false,
        returned: false,
    }
}

fn user_of(record: &Parked) -> Option<ManagedUser> {
    serde_json::from_str(&record.entry).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::singbox::Secret;

    fn user(name: &str, key: &str) -> ManagedUser {
        ManagedUser { name: name.into(), key: key.into() }
    }

    fn plan_for(listed: &[ManagedUser], parked: &[Parked], name: &str, want: Want) -> ManagedPlan {
        plan("m", "2022-blake3-aes-128-gcm", listed, parked, &HashMap::from([(name.to_owned(), want)]))
    }

    fn new(password: Option<&str>) -> Want {
        let brought = Brought { password: password.map(|text| Secret(text.into())), ..Brought::default() };
        Want::New { inbounds: Some(vec!["m".into()]), brought }
    }

    #[test]
    fn out_and_in_again_is_the_same_user() {
        let listed = [user("a", "AAAAAAAAAAAAAAAAAAAAAA=="), user("b", "AQAAAAAAAAAAAAAAAAAAAA==")];
        let out = plan_for(&listed, &[], "a", Want::Out);
        assert_eq!(out.remove, ["a"]);
        assert!(plan_for(&listed[1..], &out.park, "a", Want::Out).is_empty());
        // A crash after the commit, or a service that has lost what was said to it.
        let again = plan_for(&listed, &out.park, "a", Want::Out);
        assert_eq!((again.remove.len(), again.park.len()), (1, 0));
        let back = plan_for(&listed[1..], &out.park, "a", Want::In);
        assert_eq!((&back.add[..], back.unpark.len()), (&listed[..1], 1));
        assert_eq!(plan_for(&listed[1..], &out.park, "a", Want::Deleted).unpark.len(), 1);
        assert_eq!(plan_for(&listed, &[], "b", Want::Deleted).remove, ["b"]);
    }

    #[test]
    fn new_users_get_keys_that_fit_and_only_where_named() {
        let made = plan_for(&[], &[], "n", new(None));
        assert_eq!(made.add[0].key.len(), 24);
        assert!(plan_for(&made.add, &[], "n", new(None)).is_empty());
        let everywhere = Want::New { inbounds: None, brought: Brought::default() };
        assert!(plan_for(&[], &[], "n", everywhere).is_empty());
        for (name, password, wanted) in [
            ("n", Some("zz"), "no key of 16 bytes"),
            ("n", Some(made.add[0].key.as_str()), "same credential"),
            ("a/b", None, "slash"),
            ("7", None, "digits"),
        ] {
            let refused = plan_for(&[user("x", &made.add[0].key)], &[], name, new(password)).refused;
            assert!(refused[0].to_string().contains(wanted), "{refused:?}");
        }
    }

    #[test]
    fn names_are_written_as_go_does() {
        assert_eq!(encode("zoë @b%"), "zo%C3%AB%20@b%25");
    }
}
