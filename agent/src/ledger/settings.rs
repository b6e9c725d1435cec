//! What people decide about a user: made, changed, disabled; and the marks that the
//! gate sets. Every change, its event and its idempotency key are one transaction.

use boxmeter_web::api::names;
use rusqlite::{OptionalExtension, Transaction, params};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    columns,
    commit::id_bytes,
    error::CommitError,
    idempotency,
    model::UserRecord,
    parking, people, policies,
    records::{
        AdminChange, AdminState, Asked, FileState, NewUser, ParkedStage, Refusal, Settings, SettingsChange,
        Settle, StateChange, Warning,
    },
    wallet,
};
use crate::core::{event::UserId, policy};

/// Bytes of an e-mail address, a note, a reason.
const TEXT_MAX: usize = 1000;

/// Makes a user before the file is edited, so that the entry is recognised when it appears.
pub(super) fn create(
    transaction: &Transaction<'_>,
    new: &NewUser,
    asked: &Asked,
    rev: i64,
) -> Result<UserRecord, CommitError> {
    idempotency::claim(transaction, asked)?;
    create_one(transaction, new, asked, rev)
}

/// As [`create`], of many: what is wrong with one is its answer, and nothing of it is there.
pub(super) fn create_all(
    transaction: &Transaction<'_>,
    new: &[NewUser],
    asked: &Asked,
    rev: i64,
) -> Result<Vec<Result<UserRecord, CommitError>>, CommitError> {
    idempotency::claim(transaction, asked)?;
    let mut made = people::each(transaction, new, |one| create_one(transaction, one, asked, rev))?;
    match asked.key.is_some() && made.iter().all(Result::is_err) {
        true => made.pop().map_or_else(|| Ok(Vec::new()), |refused| refused.map(|_| Vec::new())),
        false => Ok(made),
    }
}

fn create_one(
    transaction: &Transaction<'_>,
    new: &NewUser,
    asked: &Asked,
    rev: i64,
) -> Result<UserRecord, CommitError> {
    check_name(&new.name)?;
    check_settings(transaction, &new.settings)?;
    let taken: bool = transaction.query_row(
        "SELECT EXISTS (SELECT 1 FROM users WHERE name = ?1
             AND (tombstoned_ms IS NULL OR file_state = 'removing'))",
        [&new.name],
        |row| row.get(0),
    )?;
    if taken {
        return Err(Refusal::NameTaken("user", new.name.clone()).into());
    }
    let id = UserId(Uuid::now_v7());
    let settings = &new.settings;
    transaction.execute(
        "INSERT INTO users (id, name, created_ms, file_state, policy_id, overrides, admin_state, admin_since_ms,
                            admin_actor, account_start_ms, account_generation, warned, expires_ms, email, note,
                            state, state_cause, state_since_ms, settings_rev, rev)
         VALUES (?1, ?2, ?13, 'adding', ?4, ?5, ?6, ?3, ?7, ?8, 0, '[]', ?9, ?10, ?11, 'active', 'none', ?3, ?12, ?12)",
        params![
            id_bytes(id),
            new.name,
            asked.at_ms,
            settings.policy.0.into_bytes(),
            columns::to_json(&settings.overrides)?,
            new.admin,
            asked.actor,
            new.account_start_ms,
            settings.expires_ms,
            settings.email,
            settings.note,
            rev,
            new.created_ms
        ],
    )?;
    parking::put(transaction, id, &new.entries, ParkedStage::Returning, asked.at_ms, rev)?;
    let made = known(transaction, id)?;
    let data = json!({
        "name": new.name, "policy": made.policy, "overrides": settings.overrides,
        "expires_ms": settings.expires_ms, "admin": new.admin.word(),
    });
    asked.event(transaction, "user_created", Some(id), data, rev)?;
    Ok(made)
}

/// The entry could not be written. How far that came is not known: until the file is seen without it, the
/// name in it is not adopted.
pub(super) fn give_up_adding(
    transaction: &Transaction<'_>,
    id: UserId,
    why: &str,
    asked: &Asked,
    rev: i64,
) -> Result<UserRecord, CommitError> {
    let user = known(transaction, id)?;
    if user.file_state != FileState::Adding || user.tombstoned_ms.is_some() {
        return Err(Refusal::Invalid("the user is not being added".to_owned()).into());
    }
    was_on_parked(transaction, id, asked.at_ms, rev)?;
    parking::remove_all(transaction, id)?;
    transaction.execute(
        "UPDATE users SET tombstoned_ms = ?2, file_state = 'removing', rev = ?3 WHERE id = ?1",
        params![id_bytes(id), asked.at_ms, rev],
    )?;
    asked.event(
        transaction,
        "user_not_added",
        Some(id),
        json!({
            "message": format!("{} could not be added: {why}", user.name),
            "name": &*user.name,
            "why": why,
            "severity": "warning",
        }),
        rev,
    )?;
    known(transaction, id)
}

/// Notes the inbounds of a user's parked entries as those on which it was: where else it may still be is
/// asked of them.
pub(super) fn was_on_parked(
    transaction: &Transaction<'_>,
    id: UserId,
    at_ms: i64,
    rev: i64,
) -> rusqlite::Result<()> {
    transaction.execute(
        "INSERT INTO user_inbounds
         SELECT DISTINCT p.user_id, i.no, ?2, ?3 FROM parked p JOIN inbounds i ON i.tag = p.inbound_tag
         WHERE p.user_id = ?1 ON CONFLICT DO NOTHING",
        params![id_bytes(id), at_ms, rev],
    )?;
    Ok(())
}

/// Changes what is given; nothing if somebody else was faster.
pub(super) fn change(
    transaction: &Transaction<'_>,
    id: UserId,
    change: &SettingsChange,
    (if_rev, settle): (Option<i64>, &mut Settle),
    (asked, rev): (&Asked, i64),
) -> Result<UserRecord, CommitError> {
    idempotency::claim(transaction, asked)?;
    let before = living(transaction, id)?;
    check_rev(&before, if_rev)?;
    let old = &before.settings;
    let new = Settings {
        policy: change.policy.unwrap_or(old.policy),
        overrides: change.overrides.clone().unwrap_or_else(|| old.overrides.clone()),
        expires_ms: change.expires_ms.unwrap_or(old.expires_ms),
        email: change.email.clone().unwrap_or_else(|| old.email.clone()),
        note: change.note.clone().unwrap_or_else(|| old.note.clone()),
    };
    let forget = change.forget_first_use && before.first_use_ms.is_some();
    if new == *old && !forget {
        return Ok(before);
    }
    check_settings(transaction, &new)?;
    if new.policy != old.policy || new.overrides != old.overrides {
        // Under the old quota, what packages paid is final.
        wallet::settle_if_used(transaction, id, settle, (asked, rev))?;
    }
    transaction.execute(
        "UPDATE users SET policy_id = ?2, overrides = ?3, expires_ms = ?4, email = ?5, note = ?6,
             first_use_ms = iif(?8, NULL, first_use_ms), settings_rev = ?7, rev = ?7 WHERE id = ?1",
        params![
            id_bytes(id),
            new.policy.0.into_bytes(),
            columns::to_json(&new.overrides)?,
            new.expires_ms,
            new.email,
            new.note,
            rev,
            forget
        ],
    )?;
    let after = known(transaction, id)?;
    let mut data = difference(&before, &after);
    let in_force = |of: &UserRecord| {
        let terms = policies::terms(transaction, of.settings.policy)?;
        columns::to_json(&policy::in_force(Some(&terms), &of.settings.overrides))
    };
    let terms = differing(&in_force(&before)?, &in_force(&after)?)?;
    if !terms.is_empty() {
        data["terms"] = Value::Object(terms);
    }
    asked.event(transaction, "user_changed", Some(id), data, rev)?;
    Ok(after)
}

/// What holds of what was and what is, where it differs: by name, before and after.
fn differing(before: &str, after: &str) -> Result<serde_json::Map<String, Value>, CommitError> {
    let read = |text: &str| {
        serde_json::from_str::<serde_json::Map<String, Value>>(text)
            .map_err(|error| CommitError::Other(error.to_string()))
    };
    let (before, after) = (read(before)?, read(after)?);
    let mut terms = serde_json::Map::new();
    for (name, was) in before {
        let is = after.get(&name).cloned().unwrap_or_default();
        if was != is {
            terms.insert(name, json!([was, is]));
        }
    }
    Ok(terms)
}

/// What changed, for the event. Personal data is only named: events outlive a purge.
fn difference(before: &UserRecord, after: &UserRecord) -> Value {
    let mut data = json!({});
    if before.settings.policy != after.settings.policy {
        data["policy"] = json!([before.policy, after.policy]);
    }
    if before.settings.overrides != after.settings.overrides {
        data["overrides"] = json!([before.settings.overrides, after.settings.overrides]);
    }
    if before.settings.expires_ms != after.settings.expires_ms {
        data["expires_ms"] = json!([before.settings.expires_ms, after.settings.expires_ms]);
    }
    if before.first_use_ms != after.first_use_ms {
        data["first_use"] = json!("forgotten");
    }
    if before.settings.email != after.settings.email {
        data["email"] = json!("changed");
    }
    if before.settings.note != after.settings.note {
        data["note"] = json!("changed");
    }
    data
}

/// Enables, disables or suspends.
pub(super) fn set_admin(
    transaction: &Transaction<'_>,
    id: UserId,
    change: &AdminChange,
    if_rev: Option<i64>,
    (asked, rev): (&Asked, i64),
) -> Result<UserRecord, CommitError> {
    idempotency::claim(transaction, asked)?;
    let before = living(transaction, id)?;
    check_rev(&before, if_rev)?;
    check_text("a reason", change.why.as_deref())?;
    let stays = change.if_enabled && before.admin.state != AdminState::Enabled;
    if stays || before.admin.state == change.to && before.admin.until_ms == change.until_ms {
        return Ok(before);
    }
    let evidence = change.evidence.as_ref().map(columns::to_json).transpose()?;
    transaction.execute(
        "UPDATE users SET admin_state = ?2, admin_since_ms = ?3, admin_actor = ?4, admin_why = ?5,
             admin_until_ms = ?6, admin_evidence = ?7, settings_rev = ?8, rev = ?8 WHERE id = ?1",
        params![
            id_bytes(id),
            change.to,
            asked.at_ms,
            asked.actor,
            change.why,
            change.until_ms,
            evidence,
            rev
        ],
    )?;
    let kind = match change.to {
        AdminState::Enabled => "user_enabled",
        AdminState::Disabled => "user_disabled",
        AdminState::Suspended => "user_suspended",
    };
    let data = json!({
        "was": before.admin.state.word(), "why": change.why, "until_ms": change.until_ms,
        "evidence": change.evidence,
    });
    asked.event(transaction, kind, Some(id), data, rev)?;
    known(transaction, id)
}

/// The instants of first use; one that is known stays. True for each that is new.
pub(super) fn mark_first_use(
    transaction: &Transaction<'_>,
    users: &[(UserId, i64)],
    rev: i64,
) -> Result<Vec<bool>, CommitError> {
    let mut new = Vec::with_capacity(users.len());
    for (id, at_ms) in users {
        let changed = transaction
            .prepare_cached(
                "UPDATE users SET first_use_ms = ?2, rev = ?3 WHERE id = ?1 AND first_use_ms IS NULL",
            )?
            .execute(params![id_bytes(*id), at_ms, rev])?;
        if changed > 0 {
            Asked::new("agent", *at_ms).event(transaction, "first_use", Some(*id), json!({}), rev)?;
        }
        new.push(changed > 0);
    }
    Ok(new)
}

/// Notes that people were warned; true if it is the first time in this account, and the account is
/// still in force. The event is written then, so that it is once, whatever is killed.
pub(super) fn mark_warned(
    transaction: &Transaction<'_>,
    warning: &Warning,
    rev: i64,
) -> Result<bool, CommitError> {
    let &Warning { user: id, account, percent, ref data, at_ms } = warning;
    let warned: Option<String> = transaction
        .prepare_cached(
            "SELECT warned FROM users WHERE id = ?1 AND account_start_ms = ?2 AND account_generation = ?3",
        )?
        .query_row(params![id_bytes(id), account.start_ms, account.generation], |row| row.get(0))
        .optional()?;
    let Some(warned) = warned else { return Ok(false) };
    let mut warned: Vec<u16> =
        serde_json::from_str(&warned).map_err(|error| CommitError::Other(error.to_string()))?;
    if warned.contains(&percent) {
        return Ok(false);
    }
    warned.push(percent);
    warned.sort_unstable();
    transaction.prepare_cached("UPDATE users SET warned = ?2, rev = ?3 WHERE id = ?1")?.execute(params![
        id_bytes(id),
        columns::to_json(&warned)?,
        rev
    ])?;
    let mut data = data.clone();
    data["percent"] = json!(percent);
    data["account"] = json!({ "start_ms": account.start_ms, "generation": account.generation });
    Asked::new("agent", at_ms).event(transaction, "quota_warning", Some(id), data, rev)?;
    Ok(true)
}

/// Writes the states that were decided; one that is as it was changes nothing.
pub(super) fn set_states(
    transaction: &Transaction<'_>,
    changes: &[StateChange],
    rev: i64,
) -> Result<(), CommitError> {
    for change in changes {
        let changed = transaction
            .prepare_cached(
                "UPDATE users SET state = ?2, state_since_ms = ?3, rev = ?4, state_cause = ?5
                 WHERE id = ?1 AND (state, state_cause) <> (?2, ?5)",
            )?
            .execute(params![id_bytes(change.user), change.state, change.since_ms, rev, change.cause])?;
        if changed > 0 {
            let mut data = change.data.clone();
            data["state"] = json!(change.state);
            data["state_cause"] = json!(change.cause);
            let asked = Asked::new("agent", change.since_ms);
            asked.event(transaction, "state_changed", Some(change.user), data, rev)?;
        }
    }
    Ok(())
}

pub(super) fn known(transaction: &Transaction<'_>, id: UserId) -> Result<UserRecord, CommitError> {
    Ok(people::user(transaction, id)?.ok_or(Refusal::NoSuchUser)?)
}

pub(super) fn living(transaction: &Transaction<'_>, id: UserId) -> Result<UserRecord, CommitError> {
    let user = known(transaction, id)?;
    if user.tombstoned_ms.is_some() { Err(Refusal::NoSuchUser.into()) } else { Ok(user) }
}

pub(super) fn check_rev(now: &UserRecord, if_rev: Option<i64>) -> Result<(), Refusal> {
    if if_rev.is_some_and(|rev| rev != now.settings_rev) {
        return Err(Refusal::UserChanged { now: Box::new(now.clone()) });
    }
    Ok(())
}

fn check_settings(transaction: &Transaction<'_>, settings: &Settings) -> Result<(), CommitError> {
    policies::terms(transaction, settings.policy)?;
    check_text("an e-mail address", settings.email.as_deref())?;
    check_text("a note", settings.note.as_deref())
}

fn check_text(what: &str, text: Option<&str>) -> Result<(), CommitError> {
    match text {
        Some(text) if text.len() > TEXT_MAX => {
            Err(Refusal::Invalid(format!("{what} has at most {TEXT_MAX} bytes")).into())
        }
        _ => Ok(()),
    }
}

/// The last line of defence, by the one rule of names.
pub(super) fn check_name(name: &str) -> Result<(), CommitError> {
    names::check_name(name).map_err(|error| Refusal::Invalid(error.to_string()).into())
}
