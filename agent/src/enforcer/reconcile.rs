//! From what the proxies' files say now, what was taken out of them, and what is wanted, to one batch of
//! edits. Level-triggered: planned again after it was carried out, the plan is empty. Pure.
//!
//! The order that survives a crash between any two steps, for who carries it out:
//!
//! 1. `Plan::park` into the ledger, in one transaction. A crash here leaves records whose entries are
//!    still in the file, which has the text of `Parked::from`: the next plan takes them out again.
//! 2. `Editor::write(&plan.edits)`. Nothing is lost if it fails: the records of entries that are in the
//!    file again are recognised as in 1.
//! 3. `Plan::unpark` out of the ledger. A crash before leaves records of users who are wanted and in: the
//!    next plan only unparks them.
//! 4. The reload, when `reloads` says so.

use std::collections::{HashMap, HashSet};

use super::{
    editor::Edit,
    swap,
    users_edit::{
        self, Brought, Change, Credentials, EditRefused, Homeless, List, Newcomer, Parked, ParkedKey, Place,
        Places, UserRefused, What, hex,
    },
};
use crate::singbox::{
    config::LOCKED_USER,
    files::FileText,
    splice::{self, Splice},
};

/// What is to be true of a user's entries.
#[derive(Clone, Debug)]
pub enum Want {
    /// In the file, wherever it was.
    In,
    /// Out, and kept.
    Out,
    /// On these inbounds (`None`: all that have users); made where it is not. [`prepare`] says beforehand
    /// whether that can be.
    New { inbounds: Option<Vec<String>>, brought: Brought },
    /// Gone for good, also what was kept.
    Deleted,
}

/// What is wanted, by name. Users that are not named stay as they are.
pub type Wanted = HashMap<String, Want>;

/// What is to be done; see the head of this file for the order.
#[derive(Debug, Default)]
pub struct Plan {
    /// New and changed records: commit them before the files are written.
    pub park: Vec<Parked>,
    pub edits: Vec<Edit>,
    /// Records that are over: remove them after the files were written.
    pub unpark: Vec<ParkedKey>,
    /// What the ledger then has.
    pub parked_after: Vec<Parked>,
    /// Of new users; to be shown once.
    pub credentials: Vec<Credentials>,
    /// What sing-box will notice at its next reload.
    pub changes: Vec<Change>,
    /// Wanted out, but somebody has put the entry back by hand: it stays, and the user is still cut in
    /// the kernel. Told each time; an event is due the first time.
    pub returned: Vec<ParkedKey>,
    /// Records that have no place now, and why. They are kept.
    pub homeless: Vec<(ParkedKey, Homeless)>,
    /// What could not be done for single users.
    pub refused: Vec<UserRefused>,
}

impl Plan {
    /// Is there nothing to do?
    pub fn is_empty(&self) -> bool {
        self.park.is_empty() && self.edits.is_empty() && self.unpark.is_empty()
    }
}

/// Plans. `own` are hashes of texts that boxmeter itself put into the files (`Editor::own_texts`): an
/// entry that is in such a text was not put back by hand.
pub fn plan(
    files: &[FileText],
    parked: &[Parked],
    wanted: &Wanted,
    own: &[[u8; 32]],
) -> Result<Plan, EditRefused> {
    let mut places = Places::read(files, parked, own)?;
    let mut plan = Plan::default();
    let mut new: Vec<(usize, &str, &Brought)> = Vec::new();
    for (name, want) in wanted {
        if let Want::New { inbounds, brought } = want {
            match places.targets(inbounds.as_deref()) {
                Ok(targets) => new.extend(targets.into_iter().map(|at| (at, name.as_str(), brought))),
                Err(refused) => plan.refused.push(refused),
            }
        }
    }
    // So that the same wishes give the same file.
    new.sort_unstable_by_key(|(at, name, _)| (*at, *name));
    let mut after = Vec::new();
    for (at, place) in places.places.iter_mut().enumerate() {
        let of_place =
            new.iter().filter(|(target, ..)| *target == at).map(|(_, name, brought)| (*name, *brought));
        settle(place, wanted, of_place, &mut plan);
        if let Ok(list) = &place.list {
            after.extend(list.records(&hex(&list.file.sha256)));
        }
    }
    for (record, why) in places.homeless.drain(..) {
        if !matches!(wanted.get(&record.key.user), Some(Want::Deleted)) {
            plan.homeless.push((record.key.clone(), why));
            after.push(record);
        }
    }
    compare(parked, &after, &mut plan);
    plan.parked_after = after;
    plan.edits = edits(files, &places)?;
    Ok(plan)
}

/// Can these files be planned with? Others' plans need not fail with them.
///
/// # Errors
/// What is wrong with them.
pub fn readable(files: &[FileText]) -> Result<(), EditRefused> {
    Places::read(files, &[], &[]).map(drop)
}

/// A new user's entries, made before anything is changed.
#[derive(Debug, Default)]
pub struct Prepared {
    /// For the ledger, as if they had been taken out: with [`Want::In`] they come into the files.
    pub entries: Vec<Parked>,
    pub credentials: Vec<Credentials>,
}

/// Makes the entries of new users; of each, on all of its inbounds or on none. What the ledger keeps of
/// them before the files are written is what a crash leaves to be done.
pub fn prepare(
    files: &[FileText],
    parked: &[Parked],
    newcomers: &[Newcomer],
) -> Result<Vec<Result<Prepared, UserRefused>>, EditRefused> {
    let mut refused = users_edit::check_new(files, parked, newcomers)?;
    let made = loop {
        let good = newcomers.iter().zip(&refused).filter(|(_, refused)| refused.is_none());
        let want =
            |one: &Newcomer| Want::New { inbounds: one.inbounds.clone(), brought: one.brought.clone() };
        let wanted = good.map(|(one, _)| (one.name.clone(), want(one))).collect();
        let made = plan(files, parked, &wanted, &[])?;
        let why: HashMap<&str, &UserRefused> =
            made.refused.iter().filter_map(|why| Some((why.user()?, why))).collect();
        if why.is_empty() {
            break made;
        }
        // Who was refused on one inbound may stand on another one in this plan.
        for (one, refused) in newcomers.iter().zip(&mut refused).filter(|(_, refused)| refused.is_none()) {
            *refused = why.get(one.name.as_str()).map(|why| (*why).clone());
        }
    };
    let mut after = files.to_vec();
    for file in &mut after {
        if let Some(edit) = made.edits.iter().find(|edit| edit.path == *file.path) {
            file.text.clone_from(&edit.content);
            file.sha256 = swap::sha256(file.text.as_bytes());
        }
    }
    let good = newcomers.iter().zip(&refused).filter(|(_, refused)| refused.is_none());
    let mut prepared: HashMap<&str, Prepared> =
        good.map(|(one, _)| (one.name.as_str(), Prepared::default())).collect();
    let out = prepared.keys().map(|name| ((*name).to_owned(), Want::Out)).collect();
    for record in plan(&after, &made.parked_after, &out, &[])?.parked_after {
        if let Some(prepared) = prepared.get_mut(record.key.user.as_str()) {
            prepared.entries.push(record);
        }
    }
    for credentials in made.credentials {
        if let Some(prepared) = prepared.get_mut(credentials.user.as_str()) {
            prepared.credentials.push(credentials);
        }
    }
    let of = |one: &Newcomer| prepared.remove(one.name.as_str()).unwrap_or_default();
    let (mut of, all) = (of, newcomers.iter().zip(refused));
    Ok(all.map(|(one, refused)| refused.map_or_else(|| Ok(of(one)), Err)).collect())
}

/// What sing-box, which runs with the texts `loaded` (`Editor::loaded_texts`), has not read of the files
/// as they are `now`: what an agent that starts tells its `Reloads`.
pub fn unread(loaded: &[FileText], now: &[FileText]) -> Result<Vec<Change>, EditRefused> {
    let (loaded, now) = (Places::read(loaded, &[], &[])?, Places::read(now, &[], &[])?);
    let entries = |places: &Places<'_>| -> HashMap<(String, String), Vec<String>> {
        let mut entries: HashMap<_, Vec<String>> = HashMap::new();
        for list in places.places.iter().filter_map(|place| place.list.as_ref().ok()) {
            for item in list.items.iter().filter(|item| item.name != LOCKED_USER) {
                let key = (list.tag.clone(), item.name.clone().into_owned());
                entries.entry(key).or_default().push(item.text.clone().into_owned());
            }
        }
        entries
    };
    let (loaded, now) = (entries(&loaded), entries(&now));
    let mut changes = Vec::new();
    let mut note = |(inbound, user): &(String, String), what| {
        changes.push(Change { user: user.clone(), inbound: inbound.clone(), what });
    };
    for key in loaded.keys().filter(|key| !now.contains_key(*key)) {
        note(key, What::TakenOut);
    }
    for (key, texts) in &now {
        match loaded.get(key) {
            None => note(key, What::PutBack),
            Some(old) if old != texts => {
                note(key, What::Deleted);
                note(key, What::Added);
            }
            Some(_) => {}
        }
    }
    Ok(changes)
}

/// Brings one inbound to what is wanted.
fn settle<'w>(
    place: &mut Place<'_>,
    wanted: &Wanted,
    new: impl Iterator<Item = (&'w str, &'w Brought)>,
    plan: &mut Plan,
) {
    let Ok(list) = &mut place.list else { return };
    let tag = list.tag.clone();
    let mut changed = |user: &str, what| {
        plan.changes.push(Change { user: user.to_owned(), inbound: tag.clone(), what });
    };
    let deleted = |name: &str| matches!(wanted.get(name), Some(Want::Deleted));
    list.loose.retain(|record| !deleted(&record.key.user));
    list.delete(|item| {
        let goes = deleted(&item.name);
        if goes && item.was_here {
            changed(&item.name, What::Deleted);
        }
        goes
    });
    let hand_made: HashSet<String> = list.returned.iter().map(|record| record.key.user.clone()).collect();
    for item in &mut list.items {
        if item.here && !hand_made.contains(&*item.name) && matches!(wanted.get(&*item.name), Some(Want::Out))
        {
            item.here = false;
            changed(&item.name, What::TakenOut);
        }
    }
    list.returned.retain(|record| {
        let stays =
            !matches!(wanted.get(&record.key.user), Some(Want::In | Want::Deleted | Want::New { .. }));
        if stays {
            plan.returned.push(record.key.clone());
        }
        stays
    });
    put_back(list, wanted, &mut changed, &mut plan.refused);
    add(place, new, plan);
    if let Ok(list) = &mut place.list {
        let shape = &place.shape;
        list.lock(|list| users_edit::locked_entry(list, shape));
    }
}

/// Puts back who is wanted in.
fn put_back(
    list: &mut List<'_>,
    wanted: &Wanted,
    changed: &mut impl FnMut(&str, What),
    refused: &mut Vec<UserRefused>,
) {
    let is_wanted = |name: &str| matches!(wanted.get(name), Some(Want::In));
    let any = list.items.iter().any(|item| !item.here && is_wanted(&item.name))
        || list.loose.iter().any(|record| is_wanted(&record.key.user));
    if !any {
        return;
    }
    let mut holders: HashMap<String, String> = HashMap::new();
    for item in list.items.iter().filter(|item| item.here) {
        if let Some(credential) = item.credential(&list.kind) {
            holders.insert(credential.into_owned(), item.name.clone().into_owned());
        }
    }
    let (kind, inbound) = (list.kind.clone(), list.tag.clone());
    let mut may = |user: &str, credential: Option<String>| {
        if let Some(credential) = credential {
            let other = holders.entry(credential).or_insert_with(|| user.to_owned());
            if other != user {
                let (user, other, inbound) = (user.to_owned(), other.clone(), inbound.clone());
                refused.push(UserRefused::DuplicateCredential { user, other, inbound });
                return false;
            }
        }
        changed(user, What::PutBack);
        true
    };
    for item in &mut list.items {
        if !item.here && is_wanted(&item.name) {
            let credential = item.credential(&kind).map(|credential| credential.into_owned());
            item.here = may(&item.name, credential);
        }
    }
    for record in std::mem::take(&mut list.loose) {
        let credential = List::credential_of(&kind, &record);
        if is_wanted(&record.key.user) && may(&record.key.user, credential) {
            list.insert_loose(record);
        } else {
            list.loose.push(record);
        }
    }
}

/// Makes who is new.
fn add<'w>(place: &mut Place<'_>, new: impl Iterator<Item = (&'w str, &'w Brought)>, plan: &mut Plan) {
    let mut known = None;
    for (name, brought) in new {
        let Ok(list) = &place.list else { return };
        let known = known.get_or_insert_with(|| list.known());
        // It was made already, or it is out.
        if known.has(name) {
            continue;
        }
        match place.new_entry(list, known, (name, brought)) {
            Err(refused) => plan.refused.push(refused),
            Ok((fields, text)) => {
                let (user, inbound) = (name.to_owned(), place.tag.clone());
                let kind = place.shape.kind.name.clone();
                plan.credentials.push(Credentials {
                    user: user.clone(),
                    inbound: inbound.clone(),
                    kind,
                    fields,
                });
                plan.changes.push(Change { user, inbound, what: What::Added });
                if let Ok(list) = &mut place.list {
                    list.insert(list.items.len(), name, text);
                }
            }
        }
    }
}

fn compare(before: &[Parked], after: &[Parked], plan: &mut Plan) {
    let old: HashMap<&ParkedKey, &Parked> = before.iter().map(|record| (&record.key, record)).collect();
    let kept: HashSet<&ParkedKey> = after.iter().map(|record| &record.key).collect();
    plan.park = after.iter().filter(|record| old.get(&record.key) != Some(record)).cloned().collect();
    plan.unpark = before.iter().filter(|record| !kept.contains(&record.key)).map(|r| r.key.clone()).collect();
}

fn edits(files: &[FileText], places: &Places<'_>) -> Result<Vec<Edit>, EditRefused> {
    let mut edits = Vec::new();
    for file in files {
        let lists = places.places.iter().filter_map(|place| place.list.as_ref().ok());
        let lists: Vec<&List<'_>> = lists.filter(|list| list.file.path == file.path).collect();
        let splices: Vec<Splice> = lists.iter().filter_map(|list| list.splice()).collect();
        if splices.is_empty() {
            continue;
        }
        let content = splice::apply(&file.text, &splices);
        if !users_edit::reads_back(file, &content, &lists) {
            return Err(EditRefused::ReadBack { file: file.path.as_ref().clone() });
        }
        edits.push(Edit {
            service: file.service.clone(),
            path: file.path.as_ref().clone(),
            expected: file.sha256,
            content,
        });
    }
    Ok(edits)
}
