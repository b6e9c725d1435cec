//! The proxies as the worker sees them: which files each has, what it has not read of them yet.

use std::{
    collections::{BTreeSet, HashMap},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use super::{
    super::{
        Around, steps,
        words::{Failure, blocking},
    },
    Failures, Found, Worker, ns, retry, whole,
};
use crate::{
    clock,
    enforcer::{
        editor::{EditError, Editor, Reload},
        live, reconcile,
        reloads::{BATCH, Decision, Reloads, Scene, Settings, Why},
        users_edit::{Change, Parked},
    },
    ledger::Reader,
    service::{self, Service},
    singbox::files::FileText,
};

/// One proxy.
pub(in crate::daemon::hands) struct Side {
    pub proxy: Editor,
    pub reloads: Reloads,
    pub within: Duration,
    /// Which process the files were last known to be read by.
    process: Option<(u32, u64)>,
    /// For which reading of the configuration and which process it was asked how it is told changes: that
    /// parses files and asks the service manager.
    asked: Option<(u64, Option<(u32, u64)>)>,
    /// A process was there at the last look, or there was no look yet.
    runs: bool,
    /// The files as they were read or written last: another text is somebody else's.
    pub texts: Option<HashMap<Arc<PathBuf>, [u8; 32]>>,
    /// What an agent before this one has written is not known yet.
    first: bool,
    /// It is told changes by its API while it runs.
    pub has_live: bool,
    /// This process has an API that does not do that.
    pub refuses_live: bool,
    /// It is the admin's to restart it.
    pub by_hand: bool,
    /// Inbounds and users that the API cannot change.
    pub for_restart: BTreeSet<(String, String)>,
    /// The API did not answer: not before this time again (ns, monotonic).
    pub live_again_ns: u64,
}

impl Side {
    fn new(proxy: Editor, within: Duration) -> Side {
        let reloads = Reloads::new(Settings { batch: BATCH, within, retry: retry() });
        Side {
            proxy,
            reloads,
            within,
            process: None,
            asked: None,
            runs: true,
            texts: None,
            first: true,
            has_live: false,
            refuses_live: false,
            for_restart: BTreeSet::new(),
            by_hand: false,
            live_again_ns: 0,
        }
    }

    pub fn service(&self) -> &Service {
        &self.proxy.service
    }

    /// Whether it has an API, and who restarts it, as of now.
    async fn learn_how_told(&mut self, of: (u64, Option<(u32, u64)>)) {
        if self.asked == Some(of) {
            return;
        }
        let asked = self.proxy.clone();
        let known = blocking(move || Ok((asked.is_by_hand(), live::api_of(&asked)))).await;
        let Ok((by_hand, api)) = known else { return };
        self.by_hand = by_hand;
        // A configuration that cannot be read says nothing new, and is asked again.
        if let Ok(api) = api {
            self.has_live = api.is_some();
            // Nobody may have been there to be asked whose it is to restart it.
            self.asked = (!by_hand || self.proxy.reload == Reload::Never).then_some(of);
        }
    }

    /// Whether it is to read its files now, and why. One that has an API is told by that, unless it did not
    /// answer for as long as a removal may wait.
    pub fn reloads_now(&self, now_ns: u64, scene: Scene) -> Option<Why> {
        let Decision::Now(why) = self.reloads.decide(now_ns, scene) else { return None };
        (!self.has_live || self.for_live().is_empty() || self.has_waited(now_ns)).then_some(why)
    }

    /// What waits and may be told by the API.
    pub fn for_live(&self) -> Vec<(String, String)> {
        let mut keys = self.reloads.keys();
        keys.retain(|key| !self.for_restart.contains(key));
        keys
    }

    fn has_waited(&self, now_ns: u64) -> bool {
        self.reloads.oldest_ns().is_some_and(|oldest| now_ns.saturating_sub(oldest) >= ns(self.within))
    }

    /// When the reload comes at the latest (ns, monotonic); `None`: it is the admin's, or it was given up.
    pub fn latest_ns(&self, now_ns: u64, scene: Scene) -> Option<u64> {
        if self.by_hand || self.reloads.gave_up() {
            return None;
        }
        Some(match self.reloads.decide(now_ns, scene) {
            Decision::At(at) => at,
            _ => self.reloads.oldest_ns().unwrap_or(now_ns).saturating_add(ns(self.within)),
        })
    }
}

impl Worker {
    pub(super) async fn look_around(&mut self, now: Around) {
        let mut gone = Vec::new();
        for proxy in &now.proxies {
            let at = match self.sides.iter().position(|side| *side.service() == proxy.service) {
                Some(at) => at,
                None => {
                    let within = self.within.get(&proxy.service).copied().unwrap_or(BATCH);
                    self.sides.push(Side::new(proxy.clone(), within));
                    self.sides.len() - 1
                }
            };
            let side = &mut self.sides[at];
            side.proxy = proxy.clone();
            let process = proxy.process.as_ref().map(|process| (process.pid, process.start_ticks));
            side.learn_how_told((now.looks, process)).await;
            if let Some(running) = &proxy.process
                && side.process != process
            {
                // Another process has read the files as they were when it began.
                side.reloads.restarted(clock::mono_ns().saturating_sub(ns(running.age())));
                side.process = process;
                side.live_again_ns = 0;
                side.refuses_live = false;
                side.for_restart.clear();
            }
            side.has_live &= !side.refuses_live;
            side.reloads.set_live(side.has_live);
            if proxy.process.is_none() && side.runs {
                gone.push(at);
            }
            side.runs = proxy.process.is_some();
        }
        let wanted = self.around.kept_out != now.kept_out || self.around.looks != now.looks;
        self.around = now;
        if wanted && self.around.kept_out.is_some() {
            self.plan_at_ns.get_or_insert(clock::mono_ns());
        }
        for at in gone {
            self.recover(at).await;
        }
    }

    /// sing-box, where there is one.
    pub(super) fn singbox(&self) -> Option<&Editor> {
        self.sides.iter().map(|side| &side.proxy).find(|proxy| proxy.service.is_singbox())
    }

    /// Whose inbound a tag is.
    pub(super) fn side_of(&mut self, tag: &str) -> Option<&mut Side> {
        let services = self.services_here();
        let service = service::of_tag(&services, tag)?;
        self.sides.iter_mut().find(|side| side.service() == service)
    }

    pub(super) async fn find(&self) -> Result<Found, Failure> {
        if self.sides.is_empty() {
            return Err("no proxy's configuration could be read yet; see `boxmeter status`".to_owned());
        }
        let proxies: Vec<(Service, Vec<PathBuf>)> =
            self.sides.iter().map(|side| (side.service().clone(), side.proxy.config.clone())).collect();
        let users = self.ledger.users().await.map_err(|error| error.to_string())?;
        let removing = self.ledger.removing().await.map_err(|error| error.to_string())?;
        let path = self.ledger.path().to_owned();
        blocking(move || {
            // What cannot be read of one proxy keeps no other from being edited.
            let (mut files, mut failures) = (Vec::new(), Failures::new());
            for (service, paths) in &proxies {
                let read = service.read(paths).map_err(|error| error.to_string());
                let good = read.and_then(|read| match reconcile::readable(&read) {
                    Ok(()) => Ok(read),
                    Err(refused) => Err(refused.to_string()),
                });
                match good {
                    Ok(read) => files.extend(read),
                    Err(failure) => drop(failures.insert(service.clone(), failure)),
                }
            }
            if files.is_empty() && !failures.is_empty() {
                return Err(whole(&failures));
            }
            let reader = Reader::open(&path).map_err(|error| error.to_string())?;
            let records = reader.parked().map_err(|error| error.to_string())?;
            let services: Vec<Service> = proxies.into_iter().map(|(service, _)| service).collect();
            let unread = |record: &Parked| {
                service::of_tag(&services, &record.key.inbound).is_some_and(|of| failures.contains_key(of))
            };
            let (hidden, parked) = steps::parked(&records)?.into_iter().partition(unread);
            Ok(Found { files, parked, users, removing, hidden, failures })
        })
        .await
    }

    /// The services, to ask whose a tag is.
    pub(super) fn services_here(&self) -> Vec<Service> {
        self.sides.iter().map(|side| side.service().clone()).collect()
    }

    /// Hashes of texts that boxmeter itself has put into the files, and what agents before this one wrote and
    /// the proxies have not read.
    pub(super) async fn known_texts(&mut self, files: &[FileText]) -> Result<Vec<[u8; 32]>, Failure> {
        let proxies: Vec<(Editor, bool)> =
            self.sides.iter().map(|side| (side.proxy.clone(), side.first)).collect();
        let now = files.to_vec();
        let (own, unread) = blocking(move || {
            let failed = |error: EditError| error.to_string();
            let (mut own, mut loaded) = (Vec::new(), Vec::new());
            for (proxy, first) in &proxies {
                own.extend(proxy.own_texts().map_err(failed)?);
                let here = || now.iter().filter(|file| file.service == proxy.service);
                match *first && here().next().is_some() {
                    true => loaded.extend(proxy.loaded_texts().map_err(failed)?),
                    false => loaded.extend(here().cloned()),
                }
            }
            Ok((own, reconcile::unread(&loaded, &now).map_err(|error| error.to_string())?))
        })
        .await?;
        for side in &mut self.sides {
            side.first &= !files.iter().any(|file| file.service == side.proxy.service);
        }
        self.wait_for_reading(&unread);
        Ok(own)
    }

    /// The proxies have not read this yet.
    pub(super) fn wait_for_reading(&mut self, changes: &[Change]) {
        let now_ns = clock::mono_ns();
        for change in changes {
            if let Some(side) = self.side_of(&change.inbound) {
                side.reloads.changed(change, now_ns);
            }
        }
    }
}
