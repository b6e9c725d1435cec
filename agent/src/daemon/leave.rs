//! Boxmeter leaves: its programs go out of the kernel, and what it put into the proxies' files goes out of
//! those, with no agent running. What others have put there meanwhile stays.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use anyhow::Context as _;
use boxmeter_common::user::METER_PAYLOAD;

use super::{commits::Commits, edit_ways, hands, kernel_config, meter::Meter, people, zone};
use crate::{
    clock,
    config::Config,
    core::{policy, terms::Terms},
    enforcer::{
        added,
        editor::{Edit, EditError, Editor, Reload},
        live,
        reconcile::{self, Want, Wanted},
        users_edit::Parked,
    },
    kernel::Kernel,
    ledger::{
        AdminState, FileState, Ledger, NewEvent, Options, ParkedRecord, ParkedStage, Reader, UserRecord,
    },
    service::{self, Service},
    singbox::{config::LOCKED_USER, files::FileText},
};

/// What stops holding.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leaving {
    /// There are pinned programs.
    pub attached: bool,
    /// There is a ledger.
    pub ledger: bool,
    /// Quotas, speeds, numbers and dates that users have, by their policy or of their own.
    pub limits: u64,
    /// Users who have any.
    pub limited: u64,
    /// Users whose entries are out of sing-box's files.
    pub out: Vec<String>,
}

/// What was done beside the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Left {
    pub put_back: Vec<String>,
    /// Out of sing-box's files still; the ledger has their entries.
    pub still_out: Vec<String>,
    /// Locked entries that are gone, and those that stay since their list would be empty without.
    pub locked_removed: u64,
    pub locked_left: u64,
    /// What `doctor --fix` had added is gone.
    pub api_removed: bool,
    /// Files in which somebody has changed what `doctor --fix` had added, so that it stays.
    pub kept: Vec<PathBuf>,
    pub reloaded: bool,
    /// Why sing-box's files are as they were; the kernel's part is done.
    pub trouble: Option<String>,
    /// What is not as it should be though the files' part is done: the ledger could not be told, or a
    /// service of a managed inbound.
    pub unfinished: Vec<String>,
}

fn count(terms: &Terms, user: &UserRecord) -> u64 {
    let limits = [
        terms.quota_bytes.is_some(),
        terms.total_quota_bytes.is_some(),
        terms.speed_up.is_some(),
        terms.speed_down.is_some(),
        terms.max_flows.is_some(),
        terms.max_addresses.is_some(),
        terms.valid_days.is_some(),
        user.settings.expires_ms.is_some(),
        user.admin.state != AdminState::Enabled,
    ];
    limits.into_iter().map(u64::from).sum()
}

fn out(users: &[UserRecord], parked: &[ParkedRecord]) -> Vec<String> {
    let out: BTreeSet<_> =
        parked.iter().filter(|record| record.stage != ParkedStage::Back).map(|record| record.user).collect();
    let living = users.iter().filter(|user| user.tombstoned_ms.is_none());
    let mut names: Vec<String> =
        living.filter(|user| out.contains(&user.id)).map(|user| user.name.to_string()).collect();
    names.sort_unstable();
    names
}

/// What would stop holding, from the ledger; an agent may run.
///
/// # Errors
/// When the ledger cannot be read.
pub fn leaving(config: &Config) -> anyhow::Result<Leaving> {
    let attached = config.kernel.pins.exists();
    if !config.ledger.path.exists() {
        return Ok(Leaving { attached, ..Leaving::default() });
    }
    let reader = Reader::open(&config.ledger.path)?;
    let (users, policies, parked) = (reader.users()?, reader.policies()?, reader.parked()?);
    let terms = |user: &UserRecord| {
        let policy = policies.iter().find(|policy| policy.id == user.settings.policy);
        policy::in_force(policy.map(|policy| &policy.terms), &user.settings.overrides)
    };
    let living = users.iter().filter(|user| user.tombstoned_ms.is_none());
    let limits: Vec<u64> = living.map(|user| count(&terms(user), user)).collect();
    Ok(Leaving {
        attached,
        ledger: true,
        limits: limits.iter().sum(),
        limited: limits.iter().map(|&limits| u64::from(limits > 0)).sum(),
        out: out(&users, &parked),
    })
}

/// What is to be left of boxmeter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leave {
    /// Sing-box's files stay as they are: another version takes over.
    Files,
    /// Who is out stays out.
    Out,
    Nothing,
}

/// Commits what the kernel has, takes boxmeter's own out of sing-box's files unless they are to stay, and removes
/// programs and maps.
///
/// # Errors
/// When an agent runs, or something could not be committed: nothing is removed then.
pub fn detach(config: &Config, leave: Leave) -> anyhow::Result<Left> {
    let attached = config.kernel.pins.exists();
    anyhow::ensure!(
        attached || config.ledger.path.exists(),
        "nothing is attached: there is no {}",
        config.kernel.pins.display()
    );
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let started = clock::now();
        let kernel = attached.then(|| Kernel::open(&kernel_config(config))).transpose()?;
        let ledger = Ledger::open(&config.ledger.path, Options::new(zone(config)?, started.wall_ms))?;
        let meter = match kernel {
            Some(kernel) => Some(commit_last(kernel, &ledger).await?),
            None => None,
        };
        // Before the programs go: who is let in again is cut until then, and nobody slips through.
        let left = match leave {
            Leave::Files => Ok(Left::default()),
            Leave::Out | Leave::Nothing => tidy(config, &ledger, leave == Leave::Nothing).await,
        };
        let left = left.unwrap_or_else(|reason| Left { trouble: Some(reason), ..Left::default() });
        anyhow::ensure!(
            attached || left != Left::default(),
            "nothing is attached: there is no {}",
            config.kernel.pins.display()
        );
        if let Some(meter) = meter {
            meter.kernel.detach()?;
        }
        Ok(left)
    })
}

fn event(kind: &str, at_ms: i64) -> NewEvent {
    let (user, actor, data) = (None, "uid:0".to_owned(), serde_json::json!({}));
    NewEvent { at_ms, kind: kind.to_owned(), user, actor, data }
}

async fn commit_last(kernel: Kernel, ledger: &Ledger) -> anyhow::Result<Meter> {
    let mut meter = Meter::new(kernel, METER_PAYLOAD)?;
    let inbounds = ledger.inbounds().await?;
    let known = meter.kernel.inbounds();
    let tags = people::tags(&known, &BTreeMap::new(), &inbounds);
    let mut commits = Commits::new(ledger.clone());
    commits.set_inbounds(&inbounds, &tags);
    let tick = meter.read_now()?;
    commits.take(tick);
    let now = clock::now();
    let detached = event("detached", now.wall_ms);
    commits.start(meter.kernel.epoch(), meter.watched(), vec![detached], now);
    commits.done().await.map_err(|(error, _)| error).context("committing the last counts")?;
    Ok(meter)
}

/// Takes boxmeter's own out of the proxies' files.
async fn tidy(config: &Config, ledger: &Ledger, put_back: bool) -> Result<Left, String> {
    let ways = edit_ways(config).map_err(|error| error.to_string())?;
    let services: Vec<Service> = ways.iter().map(|way| way.service.clone()).collect();
    let users = ledger.users().await.map_err(|error| error.to_string())?;
    let reader = Reader::open(ledger.path()).map_err(|error| error.to_string())?;
    let records = reader.parked().map_err(|error| error.to_string())?;
    let wanted = wanted(&users, &records, put_back);
    let parked = hands::parked(&records)?;
    let (mut left, mut troubles) = (Left::default(), Vec::new());
    for way in ways {
        let process = way.service.find(&way.config).ok();
        let proxy = Editor { process, ..way };
        let own = |record: &&Parked| service::of_tag(&services, &record.key.inbound) == Some(&proxy.service);
        let parked: Vec<Parked> = parked.iter().filter(own).cloned().collect();
        // What cannot be done with one keeps nothing from the others.
        if let Err(reason) = tidy_one(&proxy, ledger, (&parked, &wanted), &users, &mut left).await {
            troubles.push(reason);
        }
    }
    left.trouble = (!troubles.is_empty()).then(|| troubles.join("; "));
    let records = reader.parked().unwrap_or_else(|error| {
        left.unfinished.push(error.to_string());
        records
    });
    left.still_out = out(&users, &records);
    let back = wanted.into_iter().filter(|(_, want)| matches!(want, Want::In)).map(|(name, _)| name);
    left.put_back = back.filter(|name| !left.still_out.contains(name)).collect();
    left.put_back.sort_unstable();
    Ok(left)
}

async fn tidy_one(
    proxy: &Editor,
    ledger: &Ledger,
    (parked, wanted): (&[Parked], &Wanted),
    users: &[UserRecord],
    left: &mut Left,
) -> Result<(), String> {
    let added = proxy.added().map_err(|error| error.to_string())?;
    let pending = proxy.own_texts().map_err(|error| error.to_string())?;
    let nothing = parked.is_empty() && added.is_empty() && pending.is_empty();
    if nothing && !proxy.config.iter().any(|path| path.exists()) {
        return Ok(());
    }
    let files = proxy.service.read(&proxy.config).map_err(|error| error.to_string())?;
    let plan = reconcile::plan(&files, parked, wanted, &pending).map_err(|error| error.to_string())?;
    let after = edited(&files, &plan.edits);
    let taken = added::take_out(&after, &added);
    let edits = difference(&files, &edited(&after, &taken.edits));
    let steps = hands::Steps::of(&plan.park, &plan.unpark, &hands::living(users))?;
    steps.before(ledger).await?;
    let brought = bring_in(proxy, &edits, !pending.is_empty()).await?;
    left.reloaded |= brought.reloaded;
    left.unfinished.extend(brought.by_hand);
    // From here on the files are not as they were, whatever else goes wrong.
    left.unfinished.extend(proxy.set_added(&[]).err().map(|error| error.to_string()));
    left.unfinished.extend(steps.after(ledger).await.err());
    if proxy.process.is_some() && proxy.service.is_singbox() {
        left.unfinished.extend(tell_services(proxy, &files, ledger, (parked, wanted), users).await);
    }
    let locked =
        |files: &[FileText]| files.iter().map(|file| file.text.matches(LOCKED_USER).count() as u64).sum();
    let (before, after): (u64, u64) = (locked(&files), locked(&edited(&files, &edits)));
    left.locked_removed += before.saturating_sub(after);
    left.locked_left += after;
    left.api_removed |= !taken.edits.is_empty();
    left.kept.extend(taken.kept);
    Ok(())
}

/// How a proxy came to know its files.
struct Brought {
    reloaded: bool,
    /// What is left to the admin.
    by_hand: Option<String>,
}

/// Writes the edits and has the proxy know them: by its API where that takes them, else by a reload or restart.
async fn bring_in(proxy: &Editor, edits: &[Edit], pending: bool) -> Result<Brought, String> {
    let reloaded = |reloaded| Ok(Brought { reloaded, by_hand: None });
    let failed = |error: EditError| error.to_string();
    if proxy.service.is_singbox() {
        return reloaded(match edits.is_empty() {
            false => proxy.apply(edits, || Ok(())).map_err(failed)?.reloaded,
            // What an edit before has taken out is let in by the running sing-box until it reads its files.
            true if !pending || proxy.reload == Reload::Never => false,
            true => proxy.reload(|| Ok(())).map_err(failed)?,
        });
    }
    if !edits.is_empty() {
        proxy.write(edits).map_err(failed)?;
    }
    // What an agent wrote that died before it told is told too.
    let now = proxy.service.read(&proxy.config).map_err(|error| error.to_string())?;
    let loaded = proxy.loaded_texts().map_err(failed)?;
    let unread = reconcile::unread(&loaded, &now).map_err(|error| error.to_string())?;
    let keys: BTreeSet<_> = unread.into_iter().map(|it| (it.inbound, it.user)).collect();
    if keys.is_empty() || proxy.process.is_none() {
        return reloaded(false);
    }
    let keys: Vec<_> = keys.into_iter().collect();
    let mut refused = None;
    let done = live::tell_all(proxy, &keys, |_, answer| refused = answer.err().or(refused.take())).await;
    let Some(reason) = done.err().or(refused) else {
        proxy.loaded().map_err(failed)?;
        return reloaded(false);
    };
    if proxy.is_by_hand() {
        let by_hand = format!("{reason}: restart it by hand, so that it reads its users");
        return Ok(Brought { reloaded: false, by_hand: Some(by_hand) });
    }
    reloaded(proxy.reload(|| Ok(())).map_err(failed)?)
}

/// Has managed inbounds follow; what they did not do.
async fn tell_services(
    singbox: &Editor,
    files: &[FileText],
    ledger: &Ledger,
    (parked, wanted): (&[Parked], &Wanted),
    users: &[UserRecord],
) -> Vec<String> {
    let services = match hands::services(files, singbox.process.as_ref()) {
        Ok(services) => services,
        Err(failure) => return vec![failure],
    };
    let (ids, removed) = (hands::living(users), hands::Removed::default());
    let mut missed = BTreeSet::new();
    for service in services {
        let reached = service.reach(ledger, (parked, wanted), &ids, &removed).await;
        missed.extend(reached.refused.into_iter().map(|(_, failure)| failure).chain(reached.failed));
    }
    missed.into_iter().collect()
}

/// Deleted users go for good; everybody else comes back, or stays as it is.
fn wanted(users: &[UserRecord], parked: &[ParkedRecord], put_back: bool) -> Wanted {
    let mut wanted = Wanted::new();
    for user in users.iter().filter(|user| user.file_state == FileState::Removing) {
        wanted.insert(user.name.to_string(), Want::Deleted);
    }
    for name in out(users, parked).into_iter().filter(|_| put_back) {
        wanted.insert(name, Want::In);
    }
    wanted
}

/// Files with edits in them.
fn edited(files: &[FileText], edits: &[Edit]) -> Vec<FileText> {
    let mut after = files.to_vec();
    for file in &mut after {
        if let Some(edit) = edits.iter().find(|edit| edit.path == *file.path) {
            file.text.clone_from(&edit.content);
        }
    }
    after
}

fn difference(files: &[FileText], after: &[FileText]) -> Vec<Edit> {
    let changed = files.iter().zip(after).filter(|(old, new)| old.text != new.text);
    let edit = |(old, new): (&FileText, &FileText)| Edit {
        service: old.service.clone(),
        path: old.path.as_ref().clone(),
        expected: old.sha256,
        content: new.text.clone(),
    };
    changed.map(edit).collect()
}
