//! What the ledger is told before and after entries go out of sing-box's files (or its service) and come
//! back: whoever edits, in this order, loses nothing in a crash (see `enforcer::reconcile`).

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use super::words::Failure;
use crate::{
    clock,
    core::event::UserId,
    enforcer::{
        reconcile::{self, Want, Wanted},
        users_edit::{Parked, ParkedKey},
    },
    ledger::{self, Ledger, ParkedEntry, ParkedRecord, ParkedStage, Reader},
    singbox::files::FileText,
};

/// What one edit parks and brings back, by the ledger's ids.
pub struct Steps {
    /// Of entries that are in the files now.
    leaving: Vec<(UserId, ParkedEntry)>,
    /// Of entries that are out already, whose place has changed.
    moved: Vec<(UserId, ParkedEntry)>,
    out: Vec<ledger::ParkedKey>,
    back: Vec<ledger::ParkedKey>,
}

fn key(key: &ParkedKey, ids: &HashMap<Arc<str>, UserId>) -> Option<ledger::ParkedKey> {
    let user = *ids.get(key.user.as_str())?;
    Some(ledger::ParkedKey { user, inbound: Arc::from(key.inbound.as_str()), nth: key.nth })
}

/// The records of users who are known, as the ledger names them.
pub(super) fn keys(keys: &[ParkedKey], ids: &HashMap<Arc<str>, UserId>) -> Vec<ledger::ParkedKey> {
    keys.iter().filter_map(|one| key(one, ids)).collect()
}

fn failed(error: ledger::CommitError) -> Failure {
    error.to_string()
}

impl Steps {
    pub fn of(
        park: &[Parked],
        unpark: &[ParkedKey],
        ids: &HashMap<Arc<str>, UserId>,
    ) -> Result<Steps, Failure> {
        let (mut leaving, mut moved) = (Vec::new(), Vec::new());
        for parked in park {
            let Some(&id) = ids.get(parked.key.user.as_str()) else { continue };
            let stage = if parked.left { &mut moved } else { &mut leaving };
            stage.push((id, entry(parked)?));
        }
        Ok(Steps {
            leaving,
            moved,
            out: park.iter().filter_map(|parked| key(&parked.key, ids)).collect(),
            back: keys(unpark, ids),
        })
    }

    /// Before the files are written.
    pub async fn before(&self, ledger: &Ledger) -> Result<(), Failure> {
        if !self.leaving.is_empty() || !self.moved.is_empty() {
            let (leaving, moved) = (self.leaving.clone(), self.moved.clone());
            ledger.park(leaving, moved, clock::wall_ms()).await.map_err(failed)?;
        }
        if !self.back.is_empty() {
            ledger.set_parked(self.back.clone(), ParkedStage::Returning).await.map_err(failed)?;
        }
        Ok(())
    }

    /// Before texts are put back that do not have them; beside the agent's runtime.
    fn keep(self, ledger: &Ledger) -> Result<(), Failure> {
        ledger.park(self.leaving, Vec::new(), clock::wall_ms()).wait().map_err(failed)
    }

    /// After they were.
    pub async fn after(self, ledger: &Ledger) -> Result<(), Failure> {
        if !self.out.is_empty() {
            ledger.set_parked(self.out, ParkedStage::Out).await.map_err(failed)?;
        }
        if !self.back.is_empty() {
            ledger.unpark(self.back).await.map_err(failed)?;
        }
        Ok(())
    }
}

/// A reload failed, and the files are to say `good` again: whom they let in by `now` alone is kept, so that the next
/// edit lets them in again, and a deleted user whose entry comes back is not adopted.
pub(super) fn save(ledger: &Ledger, now: &[FileText], good: &[FileText]) -> Result<(), Failure> {
    let users = ledger.users().wait().map_err(failed)?;
    let reader = Reader::open(ledger.path()).map_err(|error| error.to_string())?;
    let parked = parked(&reader.parked().map_err(|error| error.to_string())?)?;
    let changes = reconcile::unread(good, now).map_err(|error| error.to_string())?;
    let living = users.iter().filter(|user| user.tombstoned_ms.is_none());
    let ids: HashMap<Arc<str>, UserId> = living.map(|user| (Arc::clone(&user.name), user.id)).collect();
    let (let_in, out): (Vec<_>, Vec<_>) = changes.into_iter().partition(|change| change.what.admits());
    let let_in = let_in.into_iter().filter(|change| ids.contains_key(change.user.as_str()));
    let wanted: Wanted = let_in.map(|change| (change.user, Want::Out)).collect();
    if !wanted.is_empty() {
        let plan = reconcile::plan(now, &parked, &wanted, &[]).map_err(|error| error.to_string())?;
        Steps::of(&plan.park, &[], &ids)?.keep(ledger)?;
    }
    let gone = out.into_iter().filter(|change| !ids.contains_key(change.user.as_str()));
    let gone: BTreeSet<String> = gone.map(|change| change.user).collect();
    match gone.is_empty() {
        true => Ok(()),
        false => ledger.not_removed(gone.into_iter().collect(), clock::wall_ms()).wait().map_err(failed),
    }
}

/// As the ledger keeps it.
pub fn entry(parked: &Parked) -> Result<ParkedEntry, Failure> {
    let entry = serde_json::to_string(parked).map_err(|error| error.to_string())?;
    Ok(ParkedEntry { inbound: Arc::from(parked.key.inbound.as_str()), nth: parked.key.nth, entry })
}

/// The enforcer's records, as the ledger keeps them.
pub fn parked(records: &[ParkedRecord]) -> Result<Vec<Parked>, Failure> {
    let read = |record: &ParkedRecord| {
        let parked: Parked = serde_json::from_str(&record.entry.entry)?;
        let returned = record.stage == ParkedStage::Back;
        Ok(Parked { left: returned || record.stage == ParkedStage::Out, returned, ..parked })
    };
    let parked: Result<_, serde_json::Error> = records.iter().map(read).collect();
    parked.map_err(|error| format!("an entry kept in the ledger is damaged: {error}"))
}
