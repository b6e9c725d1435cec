//! The part of the agent that is about services which keep totals themselves: takes what they say, has nginx
//! refuse who is kept out, and tells people how that goes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use boxmeter_web::api::{
    names::check_name,
    types::{ServiceStatus, SourceStatus},
};
use serde_json::json;
use tokio::sync::watch;

use super::{
    agent::Agent,
    counted::{self, Api, Counted, Way},
    people,
    proxies::More,
    refusals::{self, Refusals},
    shared::Directory,
    tallies::{self, Tallies},
};
use crate::{
    clock,
    config::{AutoPath, Config, Service},
    core::{
        counters::{Before, Reading},
        event::UserId,
    },
    enforcer::nginx::Nginx,
    ledger::{CommitError, FoundInbound, Ledger, Reply, UserRecord},
    source::vts::Url,
};

/// The part that people see when totals cannot be read.
const TOTALS: &str = "service_totals";
/// The part that people see when nginx does not refuse whom it should.
const REFUSES: &str = "service_refuses";

/// What is known of one service beside its totals.
struct One {
    name: Arc<str>,
    kind: &'static str,
    /// Whom it has as users; empty: whoever it counts.
    users: Vec<Arc<str>>,
    /// Where it says them.
    place: String,
    /// Of V2Ray: where its API is, for who asks it.
    api: Option<watch::Sender<Api>>,
    pid: Option<u32>,
    /// Did the last question have an answer?
    answers: bool,
}

impl One {
    fn is_nginx(&self) -> bool {
        self.api.is_none()
    }
}

/// See the module.
#[derive(Default)]
pub struct Reports {
    all: Vec<One>,
    counted: Counted,
    refusals: Refusals,
    /// What the ledger knows of a service, while it is asked.
    asking: Option<(Arc<str>, Reply<Option<Before>>)>,
    troubles: BTreeMap<(&'static str, Arc<str>), String>,
}

/// What may happen at any time.
pub enum News {
    Counted(counted::News),
    Refusal(refusals::News),
    Before(Arc<str>, Result<Option<Before>, CommitError>),
}

/// Begins to ask the services of the configuration. What was counted before is known when the ledger has said so.
pub fn begin(agent: &mut Agent, config: &Config) {
    let reports = &mut agent.reports;
    for service in config.services.iter().filter(|service| service.is_reported()) {
        reports.add(service, config);
    }
    agent.commits.tallies = Tallies::new(reports.all.iter().map(|one| Arc::clone(&one.name)));
}

fn path_of(path: &AutoPath) -> Option<std::path::PathBuf> {
    match path {
        AutoPath::Auto => None,
        AutoPath::Path(path) => Some(path.clone()),
    }
}

/// How a configured nginx is found and told; also for `doctor`.
pub fn nginx_of(service: &Service, config: &Config) -> Nginx {
    let name = service.identity().name;
    Nginx {
        file: service.refuse.clone(),
        pid_file: path_of(&service.pid_file),
        binary: path_of(&service.binary),
        config: service.config.first().cloned(),
        note: config.ledger.path.with_file_name("services").join(format!("{name}.json")),
    }
}

impl Reports {
    fn add(&mut self, service: &Service, config: &Config) {
        let identity = service.identity();
        let name = identity.name;
        let mut one = One {
            name: Arc::clone(&name),
            kind: identity.kind.program(),
            users: service.users.iter().map(|user| Arc::from(user.as_str())).collect(),
            place: service.status.clone(),
            api: None,
            pid: None,
            answers: false,
        };
        let way = match Url::parse(&service.status) {
            Ok(url) if service.is_nginx() => {
                let nginx = nginx_of(service, config);
                if !service.refuse.as_os_str().is_empty() {
                    self.refusals.add(Arc::clone(&name), nginx.clone());
                }
                Way::Vts(url, nginx)
            }
            _ => {
                let (sender, api) = watch::channel(None);
                one.api = Some(sender);
                Way::Stats(api)
            }
        };
        self.counted.ask(name, way, service.every);
        self.all.push(one);
    }

    /// May be called again without having ended.
    pub async fn next(&mut self) -> News {
        let asking = async {
            match &mut self.asking {
                Some((service, reply)) => News::Before(Arc::clone(service), reply.await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            news = self.counted.next() => News::Counted(news),
            news = self.refusals.next() => News::Refusal(news),
            before = asking => before,
        }
    }

    /// Asks the ledger what it knows of a service.
    fn ask(&mut self, ledger: &Ledger, tallies: &Tallies) {
        if self.asking.is_none()
            && let Some(service) = tallies.unknown().pop()
        {
            self.asking = Some((Arc::clone(&service), ledger.service_before(service)));
        }
    }

    /// The accounts and users that services have without a configuration that was read for them.
    pub fn more(&self, directory: &Directory, tallies: &Tallies) -> More {
        let mut more = More::default();
        for one in &self.all {
            let (tag, kind) = (tallies::tag(&one.name), one.kind.to_owned());
            more.inbounds.push(FoundInbound { tag: Arc::clone(&tag), kind, port: 0 });
            if one.is_nginx() {
                more.users.insert(Arc::clone(&tag), one.members(&tag, directory, tallies));
            }
        }
        more
    }

    /// A reason for a part, or that it works; the reasons of all services stand together.
    fn trouble(
        &mut self,
        part: &'static str,
        service: &Arc<str>,
        reason: Option<String>,
    ) -> (&'static str, Option<String>) {
        match reason {
            Some(reason) => self.troubles.insert((part, Arc::clone(service)), reason),
            None => self.troubles.remove(&(part, Arc::clone(service))),
        };
        let all = self.troubles.iter().filter(|((of, _), _)| *of == part);
        let all: Vec<String> = all.map(|((_, name), reason)| format!("{name}: {reason}")).collect();
        (part, (!all.is_empty()).then(|| all.join("; ")))
    }
}

impl One {
    /// May somebody of this name be taken in by himself?
    fn may_adopt(&self, name: &str, directory: &Directory) -> bool {
        let wanted = self.users.is_empty() || self.users.iter().any(|user| **user == *name);
        // Whoever was deleted stays so: nginx keeps his counters for as long as it likes.
        let gone = || directory.users.values().any(|user| *user.name == *name);
        self.is_nginx() && wanted && check_name(name).is_ok() && !gone()
    }

    /// Its users: those of the ledger, those that are named, and those that it counts.
    fn members(&self, tag: &str, directory: &Directory, tallies: &Tallies) -> BTreeSet<Arc<str>> {
        let living = directory.users.values().map(|user| &**user);
        let known = people::memberships(living, &directory.inbounds);
        let known = known.filter(|(of, _)| ***of == *tag).map(|(_, name)| name);
        let present: BTreeSet<&Arc<str>> =
            directory.users.values().filter(|user| is_living(user)).map(|user| &user.name).collect();
        let new = tallies.names(&self.name).chain(&self.users);
        let new = new.filter(|name| present.contains(name) || self.may_adopt(name, directory));
        known.chain(new).cloned().collect()
    }
}

fn is_living(user: &UserRecord) -> bool {
    user.tombstoned_ms.is_none()
}

impl Agent {
    pub(super) fn report_news(&mut self, news: News) {
        match news {
            News::Counted(counted::News { service, read: Ok(reading) }) => {
                self.totals_read(&service, &reading)
            }
            News::Counted(counted::News { service, read: Err(reason) }) => {
                self.answers(&service, false);
                let part = self.reports.trouble(TOTALS, &service, Some(reason));
                self.told(vec![part], vec![]);
            }
            News::Refusal(news) => self.refusal_news(news),
            News::Before(service, before) => {
                self.reports.asking = None;
                match before {
                    Ok(before) => self.commits.tallies.set_before(&service, before),
                    Err(error) => tracing::warn!("what is known of the service {service}: {error}"),
                }
            }
        }
    }

    fn answers(&mut self, service: &str, answers: bool) {
        if let Some(one) = self.reports.all.iter_mut().find(|one| *one.name == *service) {
            one.answers = answers;
        }
    }

    fn totals_read(&mut self, service: &Arc<str>, reading: &Reading) {
        let directory = &self.directory;
        let Some(one) = self.reports.all.iter_mut().find(|one| one.name == *service) else { return };
        one.answers = true;
        one.pid = reading.life.map(|life| life.pid).filter(|pid| *pid != 0);
        let users = people::names(directory.users.values().map(|user| &**user));
        let one = &*one;
        let may = |name: &str| one.may_adopt(name, directory);
        let new =
            reading.counters.iter().any(|counter| !users.contains_key(&counter.name) && may(&counter.name));
        let taken = self.commits.tallies.take(service, reading, &users, may);
        let part = self.reports.trouble(TOTALS, service, None);
        self.told(vec![part], vec![]);
        if new {
            self.proxies.apply_again();
        }
        let Some(taken) = taken else { return };
        if taken.baseline {
            self.event("service_totals_began", None, json!({"service": &**service}));
        }
        if taken.restarted {
            self.event("service_totals_restarted", None, json!({"service": &**service}));
        }
        let [up, down] = taken.nobodys;
        self.meter.publisher.add_counter("service_bytes_of_nobody", up.saturating_add(down));
        self.meter.publisher.add_counter("service_counters_fell", taken.fell);
        for user in taken.grown {
            self.gate.first_seen(user, clock::billing());
        }
    }

    fn refusal_news(&mut self, news: refusals::News) {
        match news {
            refusals::News::Follows { service, refused } => {
                let data = json!({"service": &*service, "refused": refused});
                self.event("service_refuses", None, data);
            }
            refusals::News::LeftOut { service, names } => {
                let shown: Vec<String> = names.iter().map(|name| name.chars().take(64).collect()).collect();
                let data = json!({"service": &*service, "severity": "warning", "names": shown,
                                  "message": "these names cannot be written into nginx's file"});
                self.event("service_name_left_out", None, data);
            }
            refusals::News::Failed { service, reason } => {
                let data = json!({"service": &*service, "severity": "error", "message": &*reason});
                self.event("service_refuse_failed", None, data);
                let part = self.reports.trouble(REFUSES, &service, Some(reason));
                self.told(vec![part], vec![]);
            }
            refusals::News::Waits { service, reason } => {
                let part = self.reports.trouble(REFUSES, &service, Some(reason));
                self.told(vec![part], vec![]);
            }
            refusals::News::Mended { service } => {
                let part = self.reports.trouble(REFUSES, &service, None);
                self.told(vec![part], vec![]);
            }
        }
    }

    /// Each tick: what services have to know, and what is to be known of them.
    pub(super) fn tell_services(&mut self) {
        self.reports.ask(&self.commits.ledger, &self.commits.tallies);
        for one in &self.reports.all {
            if let Some(api) = &one.api
                && let Some(proxy) = self.proxies.all.iter().find(|proxy| proxy.service.name == one.name)
            {
                let now = proxy.api();
                api.send_if_modified(|known| std::mem::replace(known, now.clone()) != now);
            }
        }
    }

    /// Whom nginx refuses: those who may not connect, and those who were deleted while it still has their
    /// locations.
    pub(super) fn tell_refused(&self, out: &BTreeSet<UserId>) {
        if !self.users_known {
            return;
        }
        for one in self.reports.all.iter().filter(|one| one.is_nginx()) {
            let tag = tallies::tag(&one.name);
            let no =
                self.directory.inbounds.iter().find(|inbound| inbound.tag == tag).map(|inbound| inbound.no);
            let users = || self.directory.users.values();
            let living: BTreeSet<&str> =
                users().filter(|user| is_living(user)).map(|user| &*user.name).collect();
            let deleted = |user: &UserRecord| {
                !is_living(user)
                    && user.purged_ms.is_none()
                    && no.is_some_and(|no| user.inbounds.contains(&no))
                    && !living.contains(&*user.name)
            };
            let refused = users().filter(|user| out.contains(&user.id) && is_living(user) || deleted(user));
            self.reports.refusals.set(&one.name, &refused.map(|user| user.name.to_string()).collect());
        }
    }

    /// Of all services but sing-box.
    pub(super) fn service_statuses(&self) -> Vec<ServiceStatus> {
        let mut statuses = self.proxies.service_statuses();
        for one in &self.reports.all {
            match statuses.iter_mut().find(|status| *status.name == *one.name) {
                Some(status) => status.source.connected = one.answers,
                None => statuses.push(ServiceStatus {
                    name: one.name.to_string(),
                    kind: one.kind.to_owned(),
                    pid: one.pid,
                    version: None,
                    config: Some(one.place.clone()),
                    source: SourceStatus { connected: one.answers, ..SourceStatus::default() },
                }),
            }
        }
        statuses
    }
}
