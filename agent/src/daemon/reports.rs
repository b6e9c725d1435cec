//! The part of the agent that is about services which keep totals themselves: takes what they say, has nginx
//! refuse who is kept out, and tells people how that goes.

mod refused;
#[cfg(test)]
mod tests;
mod twins;

use std::{
    collections::{BTreeMap, BTreeSet},
    pin::Pin,
    sync::Arc,
};

use anyhow::ensure;
use boxmeter_web::api::{
    names::check_name,
    types::{ServiceStatus, SourceStatus},
};
use serde_json::json;
use tokio::sync::watch;

use super::{
    agent::Agent,
    compared::{self, Compared},
    counted::{self, Api, Counted, Way},
    people,
    proxies::More,
    refusals::{self, Refusals},
    shared::Directory,
    tallies::{self, ADOPTED_MAX, Read, Tallies},
};
use crate::{
    clock,
    config::{AutoPath, Config, Service},
    core::counters::{self, Before, Reading},
    enforcer::nginx::Nginx,
    ledger::{CommitError, FileState, FoundInbound, Gone, InboundRecord, Ledger, Origin, Reply, UserRecord},
    source::vts::Url,
};
use twins::{Twins, Verdict};

/// The part that people see when totals cannot be read.
const TOTALS: &str = "service_totals";
/// The part that people see when a service counts more names than are taken in.
const NAMES: &str = "service_names";
/// The part that people see when nginx does not refuse whom it should.
const REFUSES: &str = "service_refuses";

/// What is known of one service beside its totals.
struct One {
    name: Arc<str>,
    kind: &'static str,
    /// Whom it has as users; empty: whoever it counts.
    users: BTreeSet<Arc<str>>,
    /// Where it says them.
    place: String,
    /// Of V2Ray: where its API is, for who asks it.
    api: Option<watch::Sender<Api>>,
    pid: Option<u32>,
    /// Did the last question have an answer?
    answers: bool,
    /// Of nginx: whom its file refused when this began.
    refused_before: BTreeSet<String>,
}

/// Who the users are, and their inbounds.
pub type Known = Result<(Vec<InboundRecord>, Vec<UserRecord>), CommitError>;

/// What the ledger is asked.
enum Asking {
    Known(Pin<Box<dyn Future<Output = Known> + Send>>),
    Before(Arc<str>, Reply<Option<Before>>),
    Gone(Reply<Gone>),
}

impl One {
    fn is_nginx(&self) -> bool {
        self.api.is_none()
    }

    fn origin(&self) -> Origin {
        Origin { kind: self.kind.into(), status: self.place.as_str().into() }
    }
}

/// See the module.
#[derive(Default)]
pub struct Reports {
    all: Vec<One>,
    counted: Counted,
    twins: Twins,
    refusals: Refusals,
    compared: Compared,
    /// Names of deleted users; `None` until the ledger has said them: before that nobody is taken in.
    gone: Option<Gone>,
    /// The ledger may have others by now.
    gone_is_old: bool,
    asking: Option<Asking>,
    troubles: BTreeMap<(&'static str, Arc<str>), String>,
}

/// What may happen at any time.
pub enum News {
    Counted(counted::News),
    Refusal(refusals::News),
    Before(Arc<str>, Result<Option<Before>, CommitError>),
    Gone(Result<Gone, CommitError>),
    Known(Known),
}

/// Begins to ask the services of the configuration. What was counted before is known when the ledger has said so.
pub fn begin(agent: &mut Agent, config: &Config) {
    let reports = &mut agent.reports;
    for service in config.services.iter().filter(|service| service.is_reported()) {
        reports.add(service, config);
    }
    // The kernel meters those; what they say themselves is compared with it.
    for service in config.services.iter().filter(|service| !service.is_reported()) {
        reports.compared.add(service.identity().name, &mut reports.counted);
    }
    agent.commits.tallies = Tallies::new(reports.all.iter().map(|one| (Arc::clone(&one.name), one.origin())));
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
            refused_before: BTreeSet::new(),
        };
        let way = match Url::parse(&service.status) {
            Ok(url) if service.is_nginx() => {
                if !service.refuse.as_os_str().is_empty() {
                    let nginx = nginx_of(service, config);
                    // What cannot be read is told when it is to be written.
                    one.refused_before = nginx.refused().unwrap_or_default();
                    self.refusals.add(Arc::clone(&name), nginx);
                }
                self.twins.add(Arc::clone(&name));
                Way::Vts(url)
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
                Some(Asking::Before(service, reply)) => News::Before(Arc::clone(service), reply.await),
                Some(Asking::Gone(reply)) => News::Gone(reply.await),
                Some(Asking::Known(known)) => News::Known(known.await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            news = self.counted.next() => News::Counted(news),
            news = self.refusals.next() => News::Refusal(news),
            before = asking => before,
        }
    }

    /// At the start: whom the ledger knows as deleted, before anybody is told who may connect.
    pub async fn take_over(&mut self, ledger: &Ledger) {
        match ledger.gone().await {
            Ok(gone) => self.gone = Some(gone),
            Err(error) => tracing::warn!("whose names were deleted: {error}"),
        }
        // Of a service that the kernel meters by now, or nobody: both would count again what it says later.
        let reported = self.all.iter().map(|one| Arc::clone(&one.name)).collect();
        if let Err(error) = ledger.keep_services(reported).await {
            tracing::warn!("services that report no more are known still, until the next start: {error}");
        }
    }

    /// Asks the ledger what is not known yet, one by one.
    fn ask(&mut self, ledger: &Ledger, tallies: &Tallies, users_known: bool) {
        if self.asking.is_some() || self.all.is_empty() {
            return;
        }
        if !users_known {
            let (inbounds, users) = (ledger.inbounds(), ledger.users());
            self.asking = Some(Asking::Known(Box::pin(async move { Ok((inbounds.await?, users.await?)) })));
        } else if self.gone.is_none() || std::mem::take(&mut self.gone_is_old) {
            self.asking = Some(Asking::Gone(ledger.gone()));
        } else if let Some((service, origin)) = tallies.unknown().pop() {
            let before = ledger.service_before(Arc::clone(&service), origin);
            self.asking = Some(Asking::Before(service, before));
        }
    }

    /// The accounts and users that services have without a configuration that was read for them.
    ///
    /// # Errors
    /// The ledger has not said yet who there is: all of them would look as if they were gone.
    pub fn more(&self, directory: &Directory, tallies: &Tallies, users_known: bool) -> anyhow::Result<More> {
        ensure!(users_known || self.all.is_empty(), "who the users are cannot be read from the ledger yet");
        let mut more = More::default();
        for one in &self.all {
            let (tag, kind) = (tallies::tag(&one.name), one.kind.to_owned());
            more.inbounds.push(FoundInbound { tag: Arc::clone(&tag), kind, port: 0 });
            if one.is_nginx() {
                more.users.insert(Arc::clone(&tag), self.members(one, &tag, directory, tallies));
            }
        }
        Ok(more)
    }

    /// The users of an nginx: those of the ledger, those that are named, and those that it counts.
    fn members(&self, one: &One, tag: &str, directory: &Directory, tallies: &Tallies) -> BTreeSet<Arc<str>> {
        let living = || directory.users.values().map(|user| &**user).filter(|user| is_living(user));
        let known = people::memberships(living(), &directory.inbounds);
        let known = known.filter(|(of, _)| ***of == *tag).map(|(_, name)| name);
        let present: BTreeSet<&Arc<str>> = living().map(|user| &user.name).collect();
        let may =
            |name: &str| check_name(name).is_ok() && self.gone.as_ref().is_some_and(|gone| !gone.has(name));
        let new = tallies.names(&one.name).chain(&one.users);
        let new = new.filter(|name| present.contains(name) || may(name));
        // Whoever is made where nothing else has users is one here.
        let made = living().filter(|user| directory.has_no_file() && user.file_state == FileState::Adding);
        let all = known.chain(new).chain(made.map(|user| &user.name));
        all.filter(|name| one.may_have(name)).cloned().collect()
    }

    /// What people changed of a user, and on which inbounds he was before. What the ledger has as well is taken
    /// over here before anything else happens: no reading may come in between. True: services have to follow.
    pub(super) fn user_changed(
        &mut self,
        now: &UserRecord,
        before: Option<&UserRecord>,
        directory: &Directory,
    ) -> bool {
        if self.all.is_empty() {
            return false;
        }
        self.gone_is_old = true;
        let Some(gone) = &mut self.gone else { return true };
        if is_living(now) {
            gone.remove(&now.name);
            return true;
        }
        let on = before.unwrap_or(now).inbounds.iter();
        let tags = on.filter_map(|no| directory.inbounds.iter().find(|inbound| inbound.no == *no));
        let tags = tags.map(|inbound| Arc::clone(&inbound.tag)).filter(|tag| counters::is_tag(tag));
        gone.add(&before.unwrap_or(now).name, tags);
        true
    }

    /// Others may be users, or deleted, than was known.
    pub(super) fn users_moved(&mut self) {
        self.gone_is_old = true;
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
    /// May this name be a user of it?
    fn may_have(&self, name: &str) -> bool {
        self.users.is_empty() || self.users.contains(name)
    }
}

/// How many users have this tag.
fn members_of(tag: &str, directory: &Directory) -> usize {
    let living = directory.users.values().map(|user| &**user);
    people::memberships(living, &directory.inbounds).filter(|(of, _)| ***of == *tag).count()
}

fn is_living(user: &UserRecord) -> bool {
    user.tombstoned_ms.is_none()
}

impl Agent {
    pub(super) fn report_news(&mut self, news: News) {
        match news {
            News::Counted(counted::News { service, read }) if self.reports.compared.has(&service) => {
                // One that cannot be asked is only not compared.
                if let Ok(reading) = read {
                    let kernel =
                        compared::of_kernel(&service, self.meter.kernel.accounts(), &self.directory.tags);
                    self.reports.compared.take(&service, &reading, kernel, clock::wall_ms());
                    self.directory.compared = Arc::new(self.reports.compared.all());
                }
            }
            News::Counted(counted::News { service, read: Ok(reading) }) => {
                self.totals_read(&service, &reading)
            }
            News::Counted(counted::News { service, read: Err(reason) }) => {
                self.answers(&service, false);
                self.reports.twins.failed(&service);
                let part = self.reports.trouble(TOTALS, &service, Some(reason));
                self.told(vec![part], vec![]);
            }
            News::Refusal(news) => self.refusal_news(news),
            News::Gone(gone) => {
                self.reports.asking = None;
                match gone {
                    // Somebody may have been deleted since the question.
                    Ok(_) if self.reports.gone_is_old && self.reports.gone.is_some() => {}
                    Ok(gone) => {
                        self.reports.gone = Some(gone);
                        self.tell_kept_out();
                    }
                    Err(error) => {
                        self.reports.gone_is_old = true;
                        tracing::warn!("whose names were deleted: {error}");
                    }
                }
            }
            News::Known(known) => {
                self.reports.asking = None;
                match known {
                    Ok((inbounds, users)) if !self.users_known => self.know(inbounds, users),
                    Ok(_) => {}
                    Err(error) => tracing::warn!("what the ledger knows cannot be read yet: {error}"),
                }
            }
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
            // Who answered last may be gone.
            one.pid = one.pid.filter(|_| answers);
        }
    }

    fn totals_read(&mut self, service: &Arc<str>, reading: &Reading) {
        let directory = &self.directory;
        let Some(one) = self.reports.all.iter_mut().find(|one| one.name == *service) else { return };
        one.answers = true;
        one.pid = reading.life.map(|life| life.pid).filter(|pid| *pid != 0);
        let twin = match self.reports.twins.heard(service, reading.life) {
            // Its counters stay in nginx.
            Verdict::Wait => return,
            Verdict::Twin(other) => Some(twins::reason(&other)),
            Verdict::Counts => None,
        };
        let is_twin = twin.is_some();
        let part = self.reports.trouble(TOTALS, service, twin);
        if is_twin {
            return self.told(vec![part], vec![]);
        }
        let Some(one) = self.reports.all.iter().find(|one| one.name == *service) else { return };
        let Some(gone) = &self.reports.gone else { return };
        let users = people::names(directory.users.values().map(|user| &**user));
        let members = one.is_nginx().then(|| members_of(&tallies::tag(service), directory));
        let people = tallies::People { users: &users, gone, listed: &one.users, members };
        let read = self.commits.tallies.take(service, reading, &people);
        self.told(vec![part], vec![]);
        if let Some(read) = read {
            self.totals_taken(service, read);
        }
    }

    fn totals_taken(&mut self, service: &Arc<str>, read: Read) {
        let Read { taken, new_names, too_many, gone_changed } = read;
        let reason = (too_many > 0).then(|| {
            format!(
                "{too_many} names that it counts are nobody's: it has {ADOPTED_MAX} users already, or clients choose \
                 the names; list whom it has by `users`"
            )
        });
        let part = self.reports.trouble(NAMES, service, reason);
        self.told(vec![part], vec![]);
        if new_names {
            self.proxies.apply_again();
        }
        if gone_changed {
            self.tell_kept_out();
        }
        if taken.baseline {
            self.event("service_totals_began", None, json!({"service": &**service}));
        }
        if taken.restarted {
            self.event("service_totals_restarted", None, json!({"service": &**service}));
        }
        let [up, down] = taken.nobodys;
        self.meter.publisher.add_counter("service_bytes_of_nobody", up.saturating_add(down));
        self.meter.publisher.add_counter("service_counters_fell", taken.fell);
        self.meter.publisher.add_counter("service_readings_older", u64::from(taken.older));
        for user in taken.grown {
            self.gate.first_seen(user, clock::billing());
            self.meter.seen(user, clock::wall_ms());
        }
    }

    /// Each tick: what services have to know, and what is to be known of them.
    pub(super) fn tell_services(&mut self) {
        self.reports.ask(&self.commits.ledger, &self.commits.tallies, self.users_known);
        let proxies = &self.proxies.all;
        let of = |name: &str| proxies.iter().find(|proxy| *proxy.service.name == *name)?.stats_api();
        self.reports.compared.set_apis(of);
        for one in &self.reports.all {
            if let Some(api) = &one.api
                && let Some(proxy) = self.proxies.all.iter().find(|proxy| proxy.service.name == one.name)
            {
                let now = proxy.api();
                api.send_if_modified(|known| std::mem::replace(known, now.clone()) != now);
            }
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
                    reported: true,
                }),
            }
        }
        statuses
    }
}
