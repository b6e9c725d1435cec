//! What the gate asks of the ledger: each function is one transaction of the writer's thread, with its
//! events and its idempotency key in it. On any error nothing of it is in the ledger.

use std::{collections::HashMap, sync::Arc};

use rusqlite::Transaction;

use super::{
    commit::{Stale, user_id},
    deleting,
    error::CommitError,
    idempotency,
    model::{AccountPeriod, UserRecord},
    parking, people, policies,
    records::{
        AdminChange, Asked, IdempotencyKey, Keep, NewEntry, NewUser, ParkedEntry, ParkedKey, ParkedStage,
        PolicyRecord, Refusal, SettingsChange, Settle, Standing, StateChange, StoredAnswer, Turn,
        WalletEntry, Warning,
    },
    reported::{self, UsedElsewhere},
    settings, standing, wallet,
    writer::{Ledger, Reply, Writer},
};
use crate::core::{
    event::{PolicyId, UserId},
    terms::Terms,
};

impl Writer {
    pub(super) fn change<T>(
        &mut self,
        what: Stale,
        change: impl FnOnce(&rusqlite::Transaction<'_>, i64) -> Result<T, CommitError>,
    ) -> Result<T, CommitError> {
        self.committer.changes(what);
        people::change(&mut self.connection, change)
    }
}

/// Users.
impl Ledger {
    /// Makes a user before the file is edited. Until `sync_users` finds the entry, its absence is no
    /// reason for a tombstone. Entries given along are kept as [`ParkedStage::Returning`].
    pub fn create_user(&self, new: NewUser, asked: Asked) -> Reply<UserRecord> {
        self.send(move |writer| {
            writer.change(Stale::People, |transaction, rev| settings::create(transaction, &new, &asked, rev))
        })
    }

    /// As `create_user`, of many in one transaction; of each by itself, whether it could be. A key is
    /// claimed only if anybody was made.
    pub fn create_users(
        &self,
        new: Vec<NewUser>,
        asked: Asked,
    ) -> Reply<Vec<Result<UserRecord, CommitError>>> {
        self.send(move |writer| {
            writer.change(Stale::People, |transaction, rev| {
                settings::create_all(transaction, &new, &asked, rev)
            })
        })
    }

    /// The entry could not be written, or not to the end: the user that was being added is gone again, and
    /// what there may be of it is to be removed, as of one who is deleted.
    pub fn give_up_adding(&self, user: UserId, why: String, asked: Asked) -> Reply<UserRecord> {
        self.send(move |writer| {
            writer.change(Stale::Revision, |transaction, rev| {
                settings::give_up_adding(transaction, user, &why, &asked, rev)
            })
        })
    }

    /// Changes settings; with `if_rev` only if nobody else did since that `settings_rev`
    /// ([`Refusal::UserChanged`] has what is there now). Where the quota may change, what packages paid
    /// so far is booked before.
    pub fn change_user(
        &self,
        user: UserId,
        change: SettingsChange,
        if_rev: Option<i64>,
        mut settle: Settle,
        asked: Asked,
    ) -> Reply<UserRecord> {
        self.send(move |writer| {
            writer.change(Stale::Revision, |transaction, rev| {
                settings::change(transaction, user, &change, (if_rev, &mut settle), (&asked, rev))
            })
        })
    }

    /// Enables, disables or suspends, with a reason for people.
    pub fn set_admin_state(
        &self,
        user: UserId,
        change: AdminChange,
        if_rev: Option<i64>,
        asked: Asked,
    ) -> Reply<UserRecord> {
        self.send(move |writer| {
            writer.change(Stale::Revision, |transaction, rev| {
                settings::set_admin(transaction, user, &change, if_rev, (&asked, rev))
            })
        })
    }

    /// A tombstone; history stays. Until [`Ledger::removed`] or a `sync_users` that does not find the
    /// entry, the name in the file is not adopted as somebody new.
    pub fn delete_user(&self, user: UserId, if_rev: Option<i64>, asked: Asked) -> Reply<UserRecord> {
        self.send(move |writer| {
            writer.change(Stale::Revision, |transaction, rev| {
                deleting::delete(transaction, user, if_rev, (&asked, rev))
            })
        })
    }

    /// Where entries of those may be who are being removed.
    pub fn removing(&self) -> Reply<people::Removing> {
        self.send(|writer| Ok(people::places_of_removing(&writer.connection)?))
    }

    /// The entry of a deleted user is nowhere any more. Whom somebody wanted purged is purged with it.
    pub fn removed(&self, user: UserId, at_ms: i64) -> Reply<()> {
        self.send(move |writer| {
            zeroed(writer, |transaction, rev| {
                deleting::removed(transaction, user, at_ms, rev).map(|purged| ((), purged))
            })
        })
    }

    /// Entries of deleted users come back with a text that is put back: they are to be taken out once more.
    pub fn not_removed(&self, names: Vec<String>, now_ms: i64) -> Reply<()> {
        self.send(move |writer| {
            writer.change(Stale::Revision, |transaction, rev| {
                deleting::not_removed(transaction, &names, (now_ms, rev))
            })
        })
    }

    /// Takes name and personal data of the deleted users of a name out of the file, and usage stays as
    /// nobody's: at once, or as soon as their entries are gone. What was overwritten is zeroed on the disk too;
    /// backups made before have it still. For each user, whether it is done.
    pub fn purge_deleted(&self, name: String, asked: Asked) -> Reply<Vec<bool>> {
        self.send(move |writer| {
            zeroed(writer, |transaction, rev| {
                let done = deleting::purge_deleted(transaction, &name, &asked, rev)?;
                let purged = done.contains(&true);
                Ok((done, purged))
            })
        })
    }

    /// Notes first uses; one that is known stays. True for each that is new.
    pub fn mark_first_use(&self, users: Vec<(UserId, i64)>) -> Reply<Vec<bool>> {
        self.send(move |writer| {
            writer.change(Stale::Revision, |transaction, rev| {
                settings::mark_first_use(transaction, &users, rev)
            })
        })
    }

    /// Notes warnings, each once per account and percentage; true for each that is to be told now. All or
    /// none.
    pub fn mark_warned(&self, warnings: Vec<Warning>) -> Reply<Vec<bool>> {
        self.send(move |writer| {
            writer.change(Stale::Revision, |transaction, rev| {
                warnings.iter().map(|warning| settings::mark_warned(transaction, warning, rev)).collect()
            })
        })
    }

    /// Writes decided states and their events, so that "limited since" outlives the agent.
    pub fn set_states(&self, changes: Vec<StateChange>) -> Reply<()> {
        self.send(move |writer| {
            writer
                .change(Stale::Revision, |transaction, rev| settings::set_states(transaction, &changes, rev))
        })
    }

    /// Everything that the gate has to know of everybody, as of now; `epoch` says which kernel
    /// counters `taken_over` is about.
    pub fn standings(&self, epoch: [u8; 16]) -> Reply<Vec<Standing>> {
        self.send(move |writer| Ok(standing::all(&writer.connection, epoch)?))
    }

    /// As `standings`, of these users, in their order.
    pub fn standings_of(&self, users: Vec<UserId>, epoch: [u8; 16]) -> Reply<Vec<Option<Standing>>> {
        self.send(move |writer| Ok(standing::of_users(&writer.connection, &users, epoch)?))
    }

    /// As `standings`, of one user.
    pub fn standing(&self, user: UserId, epoch: [u8; 16]) -> Reply<Option<Standing>> {
        self.send(move |writer| Ok(standing::of_user(&writer.connection, user, epoch)?))
    }
}

/// Accounts and the wallet.
impl Ledger {
    /// Ends accounts whose period is over: `settle` says what each books, from all that was committed
    /// in it. From the next batch on, usage belongs to the new account. An account that is not in
    /// force any more is left alone, so that asking again does nothing.
    pub fn turn_accounts(&self, turns: Vec<Turn>, mut settle: Settle, at_ms: i64) -> Reply<Vec<bool>> {
        self.send(move |writer| {
            writer.change(Stale::People, |transaction, rev| {
                wallet::turn(transaction, &turns, &mut settle, at_ms, rev)
            })
        })
    }

    /// Notes the rules that running accounts go by.
    pub fn keep_rules(&self, keeps: Vec<Keep>) -> Reply<()> {
        self.send(move |writer| {
            writer.change(Stale::Revision, |transaction, _| wallet::keep_rules(transaction, &keeps))
        })
    }

    /// Begins the period's usage anew: generation + 1. What the account had spent of packages is
    /// booked.
    pub fn reset_account(&self, user: UserId, mut settle: Settle, asked: Asked) -> Reply<AccountPeriod> {
        self.send(move |writer| {
            writer.change(Stale::People, |transaction, rev| {
                wallet::reset(transaction, user, &mut settle, &asked, rev)
            })
        })
    }

    /// Adds a package or an adjustment, after what the account took of packages so far was booked.
    pub fn add_entry(
        &self,
        user: UserId,
        entry: NewEntry,
        mut settle: Settle,
        asked: Asked,
    ) -> Reply<WalletEntry> {
        self.send(move |writer| {
            writer.change(Stale::Revision, |transaction, rev| {
                wallet::add(transaction, user, &entry, &mut settle, (&asked, rev))
            })
        })
    }

    /// Books what the running account of a user took of packages before one of them expired, once: asked
    /// again after that, nothing happens.
    pub fn book_expiry(&self, user: UserId, mut settle: Settle, at_ms: i64) -> Reply<()> {
        self.send(move |writer| {
            writer.change(Stale::Revision, |transaction, rev| {
                wallet::book_expiry(transaction, user, &mut settle, (at_ms, rev))
            })
        })
    }

    /// How far each connection was taken over by earlier starts of the agent.
    pub fn reported_connections(&self) -> Reply<HashMap<Arc<str>, [u64; 2]>> {
        self.send(|writer| reported::connections(&writer.connection))
    }

    /// Claims the key of an import before its first change. Asked again after the agent has died in the
    /// middle, the import goes on: each of its changes is made once by itself.
    pub fn begin_import(&self, asked: Asked) -> Reply<()> {
        self.send(move |writer| {
            let claimed =
                writer.change(Stale::Revision, |transaction, _| idempotency::claim(transaction, &asked));
            match claimed {
                Err(CommitError::Refusal(Refusal::DoneBefore(_))) => Ok(()),
                claimed => claimed,
            }
        })
    }

    /// Takes over what users had used elsewhere, as reported bytes, and what was bought there; of each by
    /// itself. The second time changes nothing and answers false.
    pub fn import_usage(
        &self,
        all: Vec<UsedElsewhere>,
        mut settle: Settle,
        asked: Asked,
    ) -> Reply<Vec<Result<bool, CommitError>>> {
        self.send(move |writer| {
            let placed: Vec<_> = (all.into_iter())
                .map(|mut one| {
                    let usage = std::mem::take(&mut one.usage).into_iter();
                    let placed = usage.map(|bytes| Ok((bytes, writer.committer.starts(bytes.at_ms)?)));
                    (one, placed.collect::<Result<Vec<_>, CommitError>>())
                })
                .collect();
            writer.change(Stale::People, |transaction, rev| {
                people::each(transaction, placed, |(one, placed)| {
                    reported::take_over(transaction, (&one, &placed?), &mut settle, (&asked, rev))
                })
            })
        })
    }
}

/// Policies.
impl Ledger {
    pub fn create_policy(&self, name: String, terms: Terms, asked: Asked) -> Reply<PolicyRecord> {
        self.send(move |writer| {
            writer.change(Stale::Revision, |transaction, rev| {
                policies::create(transaction, &name, &terms, &asked, rev)
            })
        })
    }

    /// A new name, new terms, or both; the id and its users stay. Under the old terms, what packages of
    /// its users paid so far is booked before.
    pub fn change_policy(
        &self,
        policy: PolicyId,
        name: Option<String>,
        terms: Option<Terms>,
        if_rev: Option<i64>,
        mut settle: Settle,
        asked: Asked,
    ) -> Reply<PolicyRecord> {
        self.send(move |writer| {
            writer.change(Stale::Revision, |transaction, rev| {
                let (name, terms) = (name.as_deref(), terms.as_ref());
                policies::change(transaction, policy, name, terms, (if_rev, &mut settle), (&asked, rev))
            })
        })
    }

    /// Refused with the number of users while anybody has it.
    pub fn delete_policy(&self, policy: PolicyId, if_rev: Option<i64>, asked: Asked) -> Reply<()> {
        self.send(move |writer| {
            writer.change(Stale::Revision, |transaction, rev| {
                policies::delete(transaction, policy, if_rev, (&asked, rev))
            })
        })
    }

    pub fn policies(&self) -> Reply<Vec<PolicyRecord>> {
        self.send(|writer| Ok(policies::all(&writer.connection)?))
    }
}

/// Parked entries, and answers that were given.
impl Ledger {
    /// Keeps entries, before the file is written without them; and, as they are to be from then on, those that
    /// are out already.
    pub fn park(
        &self,
        leaving: Vec<(UserId, ParkedEntry)>,
        moved: Vec<(UserId, ParkedEntry)>,
        at_ms: i64,
    ) -> Reply<()> {
        self.send(move |writer| {
            writer.change(Stale::Revision, |transaction, rev| {
                for (entries, stage) in [(&leaving, ParkedStage::Leaving), (&moved, ParkedStage::Out)] {
                    for (user, entry) in entries {
                        settings::living(transaction, *user)?;
                        parking::put(transaction, *user, std::slice::from_ref(entry), stage, at_ms, rev)?;
                    }
                }
                Ok(())
            })
        })
    }

    /// Notes how far an edit of the file is: `Out` after it was written without the entries,
    /// `Returning` before it is written with them.
    pub fn set_parked(&self, entries: Vec<ParkedKey>, stage: ParkedStage) -> Reply<()> {
        self.send(move |writer| {
            writer
                .change(Stale::Revision, |transaction, rev| parking::stage(transaction, &entries, stage, rev))
        })
    }

    /// Notes that somebody has put entries back by hand; an event, with this about each, says so once.
    pub fn found_back(&self, found: Vec<(ParkedKey, serde_json::Value)>, at_ms: i64) -> Reply<()> {
        self.send(move |writer| {
            writer.change(Stale::Revision, |transaction, rev| {
                parking::found_back(transaction, &found, at_ms, rev)
            })
        })
    }

    /// Forgets entries that are in the file again.
    pub fn unpark(&self, entries: Vec<ParkedKey>) -> Reply<()> {
        self.send(move |writer| {
            writer.change(Stale::Revision, |transaction, _| {
                entries.iter().try_for_each(|key| Ok(parking::remove(transaction, key)?))
            })
        })
    }

    /// What was answered to a key, if it was seen; [`Refusal::KeyReused`] if for something else.
    /// Changes look it up themselves, in their transaction.
    pub fn stored_answer(&self, actor: String, key: IdempotencyKey) -> Reply<Option<StoredAnswer>> {
        self.send(move |writer| idempotency::find(&writer.connection, &actor, &key))
    }

    /// Keeps the answer that was given to a change with a key.
    pub fn store_answer(&self, actor: String, key: IdempotencyKey, status: u16, answer: String) -> Reply<()> {
        self.send(move |writer| {
            writer.change(Stale::Revision, |transaction, _| {
                idempotency::store(transaction, &actor, &key, (status, &answer))
            })
        })
    }
}

impl CommitError {
    /// The refusal, if the ledger works and only this change was not to be made.
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            CommitError::Refusal(refusal) => Some(refusal),
            _ => None,
        }
    }
}

/// Purges whom somebody wanted purged and whose entry is gone by now, whoever saw it go.
pub(super) fn purge_waiting(writer: &mut Writer, at_ms: i64) -> Result<(), CommitError> {
    let ids: Vec<[u8; 16]> = writer
        .connection
        .prepare_cached(
            "SELECT id FROM users WHERE purge_actor IS NOT NULL AND purged_ms IS NULL AND tombstoned_ms IS NOT NULL
                 AND file_state <> 'removing'",
        )?
        .query_map([], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    if ids.is_empty() {
        return Ok(());
    }
    zeroed(writer, |transaction, rev| {
        for id in &ids {
            deleting::removed(transaction, user_id(*id), at_ms, rev)?;
        }
        Ok(((), true))
    })
}

/// A change that may purge somebody, and tells whether it did: what it overwrites is zeroed on the disk.
fn zeroed<T>(
    writer: &mut Writer,
    change: impl FnOnce(&Transaction<'_>, i64) -> Result<(T, bool), CommitError>,
) -> Result<T, CommitError> {
    writer.connection.pragma_update(None, "secure_delete", "ON")?;
    let result = writer.change(Stale::Revision, change);
    writer.connection.pragma_update(None, "secure_delete", "FAST")?;
    let (answer, purged) = result?;
    if purged {
        // The log has the old pages until it is copied and cut. A reader may be in the way: the next
        // checkpoint does it then.
        let checkpoint = "PRAGMA wal_checkpoint(TRUNCATE)";
        let _ = writer.connection.query_row(checkpoint, [], |row| row.get::<_, i64>(0));
    }
    Ok(answer)
}
