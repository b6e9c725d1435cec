//! All proxies beside the agent: what each of them sees becomes one directory of watched ports, one list
//! of inbounds and one of users.

use std::{collections::BTreeMap, pin::Pin, sync::Arc};

use anyhow::{Context, bail};
use boxmeter_web::api::types::{InboundStatus, ServiceStatus, SingboxStatus, SourceKind};
use futures_util::future::select_all;

use super::{
    meter::Meter,
    people,
    proxy::{self, Changes, Proxy},
    shared::Directory,
};
use crate::{
    core::event::{InboundIndex, Network, SourceEvent},
    kernel::{self, Namespace, WatchPort},
    ledger::{CommitError, FoundInbound, InboundRecord, Ledger, UserRecord},
    service::{self, Service},
};

pub struct Proxies {
    pub all: Vec<Proxy>,
    default_policy: String,
    applying: Option<Applying>,
    apply_again: bool,
    /// Why parts do not work, by part and proxy.
    troubles: BTreeMap<(&'static str, usize), String>,
}

/// What the ledger says to the configurations.
pub type Synced = Result<(Vec<InboundRecord>, Vec<UserRecord>), CommitError>;

/// Configurations on their way into the ledger, which may be slow or locked.
struct Applying {
    synced: Pin<Box<dyn Future<Output = Synced> + Send>>,
    watched: BTreeMap<InboundIndex, Arc<str>>,
    listeners: Vec<InboundStatus>,
}

/// What may happen at any time.
pub enum News {
    /// A source's event, and which proxy's it is.
    Source(usize, SourceEvent),
    Changes(Changes),
    Synced(Synced),
}

/// See [`Proxies::remembered`].
#[derive(Default)]
struct Remembered {
    ports: Vec<WatchPort>,
    inbounds: Vec<FoundInbound>,
    users: people::Managed,
}

/// What followed from the configurations.
pub struct Applied {
    pub users: Vec<UserRecord>,
    pub inbounds: Vec<InboundRecord>,
    pub tags: BTreeMap<InboundIndex, Arc<str>>,
    pub listeners: Vec<InboundStatus>,
}

impl Proxies {
    pub fn new(all: Vec<Proxy>, default_policy: String) -> Self {
        Proxies { all, default_policy, applying: None, apply_again: true, troubles: BTreeMap::new() }
    }

    /// What happens next; there is at least one proxy. May be called again without having ended.
    pub async fn next(&mut self) -> News {
        let proxies = self.all.iter_mut().map(|proxy| Box::pin(proxy.next()));
        let (at, news) = tokio::select! {
            synced = synced(&mut self.applying) => return News::Synced(synced),
            (news, at, _) = select_all(proxies) => (at, news),
        };
        match news {
            proxy::News::Source(event) => News::Source(at, event),
            proxy::News::Changes(changes) => News::Changes(self.together(at, changes)),
        }
    }

    pub fn try_event(&mut self) -> Option<(usize, SourceEvent)> {
        self.all.iter_mut().enumerate().find_map(|(at, proxy)| Some((at, proxy.try_event()?)))
    }

    /// What a source says of itself.
    pub fn heard(&mut self, at: usize, event: &SourceEvent) -> Changes {
        let changes = self.all[at].heard(event);
        self.together(at, changes)
    }

    /// The reasons of all proxies for one part stand together.
    fn together(&mut self, at: usize, mut changes: Changes) -> Changes {
        for (part, reason) in &mut changes.parts {
            match reason.take() {
                Some(reason) => self.troubles.insert((part, at), reason),
                None => self.troubles.remove(&(*part, at)),
            };
            let all = self.troubles.range((*part, 0)..=(*part, usize::MAX));
            let all: Vec<String> = all.map(|((_, at), reason)| self.named(*at, reason)).collect();
            *reason = (!all.is_empty()).then(|| all.join("; "));
        }
        changes
    }

    fn named(&self, at: usize, reason: &str) -> String {
        let service = &self.all[at].service;
        if service.is_singbox() { reason.to_owned() } else { format!("{}: {reason}", service.name) }
    }

    /// Counters of what sources lost, over all of them.
    pub fn counters(&self) -> BTreeMap<&'static str, u64> {
        let mut sums = BTreeMap::new();
        for (name, value) in self.all.iter().flat_map(Proxy::counters) {
            let sum: &mut u64 = sums.entry(name).or_default();
            *sum = sum.saturating_add(value);
        }
        sums
    }

    /// The source of sing-box, or of the first proxy where there is none.
    pub fn kind(&self) -> Option<SourceKind> {
        self.all.first().and_then(Proxy::kind)
    }

    /// Does the source of sing-box hear, or do all where there is none? What the others do is in their own
    /// statuses.
    pub fn connected(&self) -> bool {
        match self.all.iter().find(|proxy| proxy.service.is_singbox()) {
            Some(singbox) => singbox.connected,
            None => self.all.iter().all(|proxy| proxy.connected),
        }
    }

    /// Whose inbound a tag is.
    pub fn of_tag(&self, tag: &str) -> Option<usize> {
        let named = |proxy: &Proxy| !proxy.service.is_singbox() && proxy.service.written(tag).is_some();
        let singbox = || self.all.iter().position(|proxy| proxy.service.is_singbox());
        self.all.iter().position(named).or_else(singbox)
    }

    pub fn singbox_status(&self) -> SingboxStatus {
        let singbox = self.all.iter().find(|proxy| proxy.service.is_singbox());
        singbox.map(Proxy::status).unwrap_or_default()
    }

    /// Of all but sing-box.
    pub fn service_statuses(&self) -> Vec<ServiceStatus> {
        self.all.iter().filter(|proxy| !proxy.service.is_singbox()).map(Proxy::service_status).collect()
    }

    pub fn apply_again(&mut self) {
        self.apply_again = true;
    }

    /// Looks for configurations and processes, and waits for what it finds: at the start.
    pub async fn first_look(&mut self) -> Changes {
        let mut all = Changes::default();
        for at in 0..self.all.len() {
            let changes = self.all[at].first_look().await;
            all.add(self.together(at, changes));
        }
        all
    }

    /// Looks whether a configuration or a process changed. Never waits: a search for a process ends with
    /// [`News::Changes`].
    pub fn look(&mut self) -> Changes {
        let again = self.applying.is_none() && std::mem::take(&mut self.apply_again);
        let mut all = Changes { config: again, ..Changes::default() };
        for at in 0..self.all.len() {
            let changes = self.all[at].look();
            all.add(self.together(at, changes));
        }
        all
    }

    /// Watches the ports and asks the ledger to adopt inbounds and users; it ends with
    /// [`News::Synced`] and [`Proxies::applied`]. In an order in which nothing is counted for a name
    /// that the ledger does not have.
    ///
    /// # Errors
    /// When the kernel refuses; what was done stays, and trying again is safe.
    pub fn apply(
        &mut self,
        meter: &mut Meter,
        ledger: &Ledger,
        directory: &Directory,
        now_ms: i64,
    ) -> anyhow::Result<()> {
        if self.applying.is_some() {
            self.apply_again = true;
            return Ok(());
        }
        anyhow::ensure!(
            self.all.iter().any(|proxy| proxy.config.is_some()),
            "no proxy's configuration was ever read"
        );
        self.check_tags()?;
        let remembered = self.remembered(meter, directory);
        let (mut ports, mut namespaces, mut complete) = (remembered.ports, Vec::new(), true);
        for proxy in &mut self.all {
            let seen = proxy.namespace()?;
            complete &= seen.is_some() && proxy.config.is_some();
            let namespace = seen.map_or_else(Namespace::own, Ok)?;
            if let Some(config) = &proxy.config {
                ports.extend(people::ports(proxy.service.kind, config, namespace.cookie()));
            }
            namespaces.push(namespace);
        }
        meter.walks_are_complete = complete;
        namespaces.sort_by_key(Namespace::cookie);
        namespaces.dedup_by_key(|namespace| namespace.cookie());
        meter.kernel.set_namespaces(namespaces);
        let indexes = meter.kernel.watch(&ports)?;
        let watched = || ports.iter().zip(&indexes);
        let by_tag = watched().map(|(port, &index)| (Arc::from(port.tag.as_str()), index)).collect();
        let configs =
            || self.all.iter().filter_map(|proxy| Some((proxy.service.kind, proxy.config.as_ref()?)));
        let infos: Vec<_> =
            configs().flat_map(|(kind, config)| people::infos(kind, config, &by_tag)).collect();
        meter.set_inbounds(&infos, meter_inbounds(meter));
        // Whoever is deleted may be in files that cannot be read now.
        let stale = self.all.iter().filter(|proxy| proxy.is_unread).filter_map(|proxy| proxy.config.as_ref());
        let stale = stale.flat_map(|config| &config.inbounds).map(|inbound| Arc::clone(&inbound.tag));
        let unread = remembered.inbounds.iter().map(|inbound| Arc::clone(&inbound.tag));
        let unread: Vec<Arc<str>> = stale.chain(unread).collect();
        let found = configs().flat_map(|(kind, config)| people::inbounds(kind, config));
        let inbounds = ledger.sync_inbounds(found.chain(remembered.inbounds).collect(), now_ms);
        let mut managed = self.managed(directory);
        managed.extend(remembered.users);
        let elsewhere = configs().flat_map(|(_, config)| &config.inbounds).filter(|inbound| inbound.managed);
        let elsewhere = elsewhere.map(|inbound| Arc::clone(&inbound.tag)).chain(unread).collect();
        let found = people::users(configs().map(|(_, config)| config), &managed);
        let users = ledger.sync_users(found, elsewhere, self.default_policy.clone(), now_ms);
        self.applying = Some(Applying {
            synced: Box::pin(async move { Ok((inbounds.await?, users.await?)) }),
            watched: watched().map(|(port, &index)| (index, Arc::from(port.tag.as_str()))).collect(),
            listeners: configs().flat_map(|(kind, config)| people::listeners(kind, config)).collect(),
        });
        Ok(())
    }

    /// What ledger and kernel know of the proxies whose configuration was not read yet: without it their
    /// users would look as if they were gone, and their ports would be watched no more.
    fn remembered(&self, meter: &Meter, directory: &Directory) -> Remembered {
        let services: Vec<Service> = self.all.iter().map(|proxy| proxy.service.clone()).collect();
        let unread = |tag: &str| {
            let own = service::of_tag(&services, tag);
            self.all.iter().any(|proxy| Some(&proxy.service) == own && proxy.config.is_none())
        };
        let mut remembered = Remembered::default();
        let records = directory.inbounds.iter().filter(|record| record.tombstoned_ms.is_none());
        for record in records.filter(|record| unread(&record.tag)) {
            let (tag, kind, port) = (Arc::clone(&record.tag), record.kind.clone(), record.port);
            let same = |it: &kernel::InboundInfo| it.tag == kernel::cut(&tag) && it.port == port;
            for known in meter.kernel.inbounds().into_iter().filter(same) {
                let networks = [(known.tcp, Network::Tcp), (known.udp, Network::Udp)];
                for (_, network) in networks.into_iter().filter(|(listens, _)| *listens) {
                    let tag = tag.to_string();
                    remembered.ports.push(WatchPort { netns: known.netns, port, network, tag });
                }
            }
            remembered.inbounds.push(FoundInbound { tag, kind, port });
        }
        let living = directory.users.values().map(|user| &**user);
        for (tag, name) in people::memberships(living, &directory.inbounds).filter(|(tag, _)| unread(tag)) {
            remembered.users.entry(Arc::clone(tag)).or_default().insert(Arc::clone(name));
        }
        remembered
    }

    /// A tag of sing-box that reads as one of another service would mix the two up.
    fn check_tags(&self) -> anyhow::Result<()> {
        let singbox = self.all.iter().filter(|proxy| proxy.service.is_singbox());
        let mut tags = singbox.filter_map(|proxy| proxy.config.as_ref()).flat_map(|config| &config.inbounds);
        let others = || self.all.iter().filter(|proxy| !proxy.service.is_singbox());
        let mixed = tags.find_map(|inbound| {
            Some((inbound, others().find(|proxy| proxy.service.written(&inbound.tag).is_some())?))
        });
        if let Some((inbound, proxy)) = mixed {
            let (tag, name) = (&inbound.tag, &proxy.service.name);
            bail!(
                "the tag {tag:?} of sing-box reads as one of the service {name:?}; give that another `name`"
            );
        }
        Ok(())
    }

    /// Users of managed inbounds: whoever was deleted meanwhile is nobody new.
    fn managed(&self, directory: &Directory) -> people::Managed {
        let mut all = people::Managed::new();
        for proxy in &self.all {
            let Some(config) = &proxy.config else { continue };
            let told = proxy.managed.iter().map(|(tag, names)| {
                let listed_ns = proxy.managed_ns.get(tag).copied().unwrap_or(0);
                (tag.clone(), proxy.without_removed(tag, names.clone(), listed_ns))
            });
            all.extend(people::managed(config, &told.collect(), directory));
        }
        all
    }

    /// Waits for the ledger's answer to [`Proxies::apply`], if it was asked: at the start.
    pub async fn first_synced(&mut self) -> Option<Synced> {
        if self.applying.is_some() { Some(synced(&mut self.applying).await) } else { None }
    }

    /// Tells the core and the sources who the users are.
    ///
    /// # Errors
    /// When the ledger or the kernel refuses; trying again is safe.
    pub fn applied(&mut self, meter: &mut Meter, synced: Synced) -> anyhow::Result<Applied> {
        let applying = self.applying.take().context("nothing is being applied")?;
        let (inbounds, users) = synced?;
        for proxy in &self.all {
            proxy.learn_users(&users, &inbounds);
        }
        meter.set_users(people::names(&users))?;
        let tags = people::tags(&meter.kernel.inbounds(), &applying.watched, &inbounds);
        Ok(Applied { users, inbounds, tags, listeners: applying.listeners })
    }
}

/// Never, if nothing is being applied.
async fn synced(applying: &mut Option<Applying>) -> Synced {
    match applying {
        Some(applying) => applying.synced.as_mut().await,
        None => std::future::pending().await,
    }
}

/// Every inbound of this epoch, watched now or not: their unattributed bytes are still to be read.
fn meter_inbounds(meter: &Meter) -> Vec<InboundIndex> {
    meter.kernel.inbounds().into_iter().map(|inbound| inbound.index).collect()
}
