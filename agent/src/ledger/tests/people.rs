//! What people decide about users and policies: once, whole, and by whoever looked last.

use super::*;

#[test]
fn a_user_is_there_before_the_file_has_it() {
    let rig = Rig::new("UTC", &["alice"]);
    let made = rig.ledger.create_user(new_user(&rig, "bob"), asked()).wait().unwrap();
    assert_eq!((made.file_state, made.policy.as_str()), (FileState::Adding, "basic"));
    // Whatever is read before the edit neither buries nor doubles.
    for _ in 0..2 {
        let (users, _) = sync(&rig.ledger, &["alice"], start_ms() + 1000);
        assert_eq!(users.iter().filter(|user| user.tombstoned_ms.is_none()).count(), 2);
    }
    let (users, _) = sync(&rig.ledger, &["alice", "bob"], start_ms() + 2000);
    let bob: Vec<_> = users.iter().filter(|user| &*user.name == "bob").collect();
    assert_eq!((bob.len(), bob[0].id, bob[0].file_state), (1, made.id, FileState::Settled));
    assert_eq!(bob[0].inbounds, [rig.inbound]);
    assert_eq!(kinds(&rig, made.id), ["user_created"]);
    // From here on the file decides again.
    let (users, _) = sync(&rig.ledger, &["alice"], start_ms() + 3000);
    assert!(users.iter().find(|user| user.id == made.id).unwrap().tombstoned_ms.is_some());
}

#[test]
fn an_addition_that_failed_leaves_the_name_free() {
    let rig = Rig::new("UTC", &["alice"]);
    let bob = rig.ledger.create_user(new_user(&rig, "bob"), asked()).wait().unwrap();
    let taken = refusal(rig.ledger.create_user(new_user(&rig, "bob"), asked()));
    assert_eq!(taken, Refusal::NameTaken("user", "bob".to_owned()));
    let gone = rig.ledger.give_up_adding(bob.id, "sing-box refuses it".to_owned(), asked()).wait().unwrap();
    assert!(gone.tombstoned_ms.is_some());
    assert!(matches!(
        refusal(rig.ledger.give_up_adding(bob.id, String::new(), asked())),
        Refusal::Invalid(_)
    ));
    assert_eq!(kinds(&rig, bob.id), ["user_created", "user_not_added"]);
    // The file may have been written: the entry is nobody's, and to be taken out again.
    assert_eq!(living_of(&rig, &["alice", "bob"], &[], "bob"), 0);
    assert!(rig.reader().standings(EPOCH).unwrap().iter().any(|one| one.id == bob.id), "to be cut");
    // Seen without it, or told that it is nowhere: the name is free.
    rig.ledger.removed(bob.id, start_ms()).wait().unwrap();
    let again = rig.ledger.create_user(new_user(&rig, "bob"), asked()).wait().unwrap();
    assert_ne!(again.id, bob.id);
    rig.ledger.give_up_adding(again.id, String::new(), asked()).wait().unwrap();
    assert_eq!(living_of(&rig, &["alice"], &[], "bob"), 0);
    rig.ledger.create_user(new_user(&rig, "bob"), asked()).wait().unwrap();
}

/// How many of a name live, when these are found in the files and these inbounds have theirs elsewhere.
fn living_of(rig: &Rig, names: &[&str], elsewhere: &[&str], name: &str) -> usize {
    let elsewhere = elsewhere.iter().map(|tag| Arc::from(*tag)).collect();
    let users = rig.ledger.sync_users(found(names), elsewhere, "unlimited".to_owned(), start_ms() + 1000);
    let users = users.wait().unwrap();
    users.iter().filter(|user| &*user.name == name && user.tombstoned_ms.is_none()).count()
}

/// The service of a managed inbound may be away, and have a deleted user still when it is back.
#[test]
fn a_deleted_user_of_a_managed_inbound_is_nobody_new_until_its_service_was_told() {
    let rig = Rig::new("UTC", &["alice", "bob"]);
    let second = FoundInbound { tag: Arc::from("files"), kind: "trojan".to_owned(), port: 444 };
    let first = FoundInbound { tag: Arc::from("in"), kind: "shadowsocks".to_owned(), port: 443 };
    rig.ledger.sync_inbounds(vec![first, second], start_ms()).wait().unwrap();
    // Deleted, and made but given up: both may be with the service.
    let entries = vec![ParkedEntry { inbound: Arc::from("in"), nth: 0, entry: "{}".to_owned() }];
    let zoe = NewUser { entries, ..new_user(&rig, "zoe") };
    let zoe = rig.ledger.create_user(zoe, asked()).wait().unwrap().id;
    rig.ledger.give_up_adding(zoe, "its service is away".to_owned(), asked()).wait().unwrap();
    rig.ledger.delete_user(user(&rig, 0), None, asked()).wait().unwrap();
    for (name, id) in [("alice", user(&rig, 0)), ("zoe", zoe)] {
        for seen in [&["bob"][..], &["bob", name], &["bob"], &["bob", name]] {
            assert_eq!(living_of(&rig, seen, &["in"], name), 0, "{seen:?}");
        }
        let removing = rig.ledger.removing().wait().unwrap();
        assert!(removing.may_be_on(id, "in") && !removing.may_be_on(id, "files"));
        rig.ledger.removed(id, start_ms()).wait().unwrap();
        assert_eq!(living_of(&rig, &["bob", name], &["in"], name), 1, "now it is somebody new");
    }
    // Who never was there is not held up by it.
    rig.ledger.delete_user(user(&rig, 1), None, asked()).wait().unwrap();
    living_of(&rig, &[], &["files"], "bob");
    rig.ledger.create_user(new_user(&rig, "bob"), asked()).wait().unwrap();
}

#[test]
fn odd_names_and_unknown_policies_are_refused() {
    let rig = Rig::new("UTC", &[]);
    let before = rig.ledger.info().wait().unwrap();
    for name in ["", " a", "a ", "a\nb", "a\u{1b}[0m", "[x]", "(purged)", &"x".repeat(129)] {
        assert!(matches!(
            refusal(rig.ledger.create_user(new_user(&rig, name), asked())),
            Refusal::Invalid(_)
        ));
    }
    let mut new = new_user(&rig, "中文用户");
    new.settings.policy = crate::core::event::PolicyId(uuid::Uuid::now_v7());
    let unknown = refusal(rig.ledger.create_user(new.clone(), asked()));
    assert!(matches!(unknown, Refusal::NoSuchPolicy(_)), "{unknown}");
    assert_eq!(rig.ledger.info().wait().unwrap(), before, "nothing was changed");
    new.settings.policy = policy(&rig, "free").id;
    rig.ledger.create_user(new, asked()).wait().unwrap();
}

#[test]
fn the_second_of_two_changes_is_told_what_is_there() {
    let rig = Rig::new("UTC", &["alice"]);
    let alice = rig.ledger.users().wait().unwrap().remove(0);
    let quota = |bytes| SettingsChange {
        overrides: Some(Overrides { quota_bytes: Some(Some(bytes)), ..Overrides::default() }),
        ..SettingsChange::default()
    };
    let seen = alice.settings_rev;
    // What the agent itself writes is no reason to ask people again.
    rig.ledger.mark_first_use(vec![(alice.id, start_ms())]).wait().unwrap();
    let first = rig.ledger.change_user(alice.id, quota(GIB), Some(seen), nothing(), asked()).wait().unwrap();
    let second = refusal(rig.ledger.change_user(alice.id, quota(2 * GIB), Some(seen), nothing(), asked()));
    assert_eq!(second, Refusal::UserChanged { now: Box::new(first.clone()) });
    let off =
        rig.ledger.set_admin_state(alice.id, AdminChange::to(AdminState::Disabled), Some(seen), asked());
    assert!(matches!(refusal(off), Refusal::UserChanged { .. }));
    assert!(matches!(
        refusal(rig.ledger.delete_user(alice.id, Some(seen), asked())),
        Refusal::UserChanged { .. }
    ));
    let email = SettingsChange { email: Some(Some("a@example.org".to_owned())), ..SettingsChange::default() };
    let rev = Some(first.settings_rev);
    let third = rig.ledger.change_user(alice.id, email.clone(), rev, nothing(), asked()).wait().unwrap();
    assert_eq!(third.settings.overrides, first.settings.overrides, "what was not given stays");
    let before = rig.ledger.info().wait().unwrap().rev;
    let same = rig.ledger.change_user(alice.id, email, None, nothing(), asked()).wait().unwrap();
    assert_eq!((same.settings_rev, rig.ledger.info().wait().unwrap().rev), (third.settings_rev, before));
    let events = rig.reader().events(Some(alice.id), None, None, 10).unwrap();
    let last = events.last().unwrap();
    assert_eq!((last.kind.as_str(), last.actor.as_str()), ("user_changed", "root"));
    assert_eq!(last.data, serde_json::json!({ "email": "changed" }), "personal data is only named");
}

#[test]
fn disabled_by_people_stays_until_people_say_otherwise() {
    let rig = Rig::new("UTC", &["alice"]);
    let alice = user(&rig, 0);
    let why = Some("unpaid".to_owned());
    let change = AdminChange { why: why.clone(), ..AdminChange::to(AdminState::Disabled) };
    let off = rig.ledger.set_admin_state(alice, change, None, asked()).wait().unwrap().admin;
    assert_eq!((off.state, off.why, off.actor.as_str()), (AdminState::Disabled, why, "root"));
    begin_account(&rig, alice, AccountPeriod { start_ms: start_ms() + 1000, generation: 0 });
    sync(&rig.ledger, &["alice"], start_ms() + 2000);
    assert_eq!(standing(&rig, alice).admin.state, AdminState::Disabled);
    rig.ledger.set_admin_state(alice, AdminChange::to(AdminState::Enabled), None, asked()).wait().unwrap();
    rig.ledger.set_admin_state(alice, AdminChange::to(AdminState::Enabled), None, asked()).wait().unwrap();
    assert_eq!(kinds(&rig, alice), ["user_adopted", "user_disabled", "period_turned", "user_enabled"]);
}

#[test]
fn a_deleted_name_in_the_file_is_nobody_new() {
    let rig = Rig::new("UTC", &["alice", "bob"]);
    let alice = user(&rig, 0);
    rig.commit(start_ms(), &[(Some(0), 100)]);
    let gone = rig.ledger.delete_user(alice, None, asked()).wait().unwrap();
    assert_eq!((gone.file_state, gone.tombstoned_ms), (FileState::Removing, Some(start_ms())));
    let (users, _) = sync(&rig.ledger, &["alice", "bob"], start_ms() + 1000);
    assert_eq!(users.len(), 2, "the entry is still there, and nobody was adopted");
    assert!(rig.reader().standings(EPOCH).unwrap().iter().any(|one| one.id == alice), "still to be cut");
    assert!(matches!(
        refusal(rig.ledger.create_user(new_user(&rig, "alice"), asked())),
        Refusal::NameTaken(..)
    ));
    sync(&rig.ledger, &["bob"], start_ms() + 2000);
    let (users, _) = sync(&rig.ledger, &["alice", "bob"], start_ms() + 3000);
    assert_eq!(users.len(), 3, "now it is somebody new");
    let answer = rig.reader().usage(&ask(By::Range, "UTC", start_ms() + 4000)).unwrap();
    assert_eq!(answer.rows[0].usage, counters(100), "history stays");
    assert!(matches!(refusal(rig.ledger.delete_user(alice, None, asked())), Refusal::NoSuchUser));
}

/// Whoever sees the entry go: the file was edited by hand, or the agent died before it told.
#[test]
fn a_purge_that_waits_is_done_when_a_reading_finds_no_entry() {
    let rig = Rig::new("UTC", &["alice", "bob"]);
    let gone = user(&rig, 0);
    rig.ledger.delete_user(gone, None, asked()).wait().unwrap();
    assert_eq!(rig.ledger.purge_deleted("alice".to_owned(), asked()).wait().unwrap(), [false]);
    let find = |names: &[&str]| {
        let found = names.iter().map(|name| FoundUser { name: (*name).into(), inbounds: vec!["in".into()] });
        let policy = "unlimited".to_owned();
        rig.ledger.sync_users(found.collect(), vec![], policy, start_ms()).wait().unwrap();
    };
    find(&["alice", "bob"]);
    assert_eq!(of_id(&rig, gone).purged_ms, None, "it is still there");
    find(&["bob"]);
    assert!(of_id(&rig, gone).purged_ms.is_some());
    // Of nobody, with a key: the key is not used up.
    let key = || Asked { key: Some(IdempotencyKey { key: "k".into(), request: [1; 32] }), ..asked() };
    for _ in 0..2 {
        let nobody = rig.ledger.purge_deleted("nobody".to_owned(), key()).wait();
        assert!(matches!(nobody, Err(CommitError::Refusal(Refusal::NoSuchUser))), "{nobody:?}");
    }
}

/// Its entry comes back with a text that is put back, and its row does not say whose it was.
#[test]
fn an_entry_of_somebody_purged_that_comes_back_is_nobody_new() {
    let rig = Rig::new("UTC", &["alice", "bob"]);
    let (gone, stays) = (user(&rig, 0), user(&rig, 1));
    rig.ledger.delete_user(gone, None, asked()).wait().unwrap();
    rig.ledger.purge_deleted("alice".to_owned(), asked()).wait().unwrap();
    rig.ledger.removed(gone, start_ms()).wait().unwrap();
    assert!(of_id(&rig, gone).purged_ms.is_some());
    // Of somebody who lives nothing changes.
    for _ in 0..2 {
        let names = vec!["alice".to_owned(), "bob".to_owned()];
        rig.ledger.not_removed(names, start_ms()).wait().unwrap();
    }
    let (users, _) = sync(&rig.ledger, &["alice", "bob"], start_ms() + 1000);
    let living: Vec<_> = users.iter().filter(|user| user.tombstoned_ms.is_none()).collect();
    assert_eq!((living.len(), living[0].id, living[0].file_state), (1, stays, FileState::Settled));
    let again: Vec<_> = users.iter().filter(|user| &*user.name == "alice").collect();
    assert_eq!((again.len(), again[0].file_state), (1, FileState::Removing), "it is taken out once more");
    rig.ledger.removed(again[0].id, start_ms() + 2000).wait().unwrap();
    assert!(of_id(&rig, again[0].id).purged_ms.is_some(), "and is nobody again");
}

fn of_id(rig: &Rig, id: UserId) -> UserRecord {
    let users = rig.ledger.users().wait().unwrap();
    users.into_iter().find(|user| user.id == id).expect("the row stays")
}

#[test]
fn a_purge_leaves_bytes_and_no_name() {
    let rig = Rig::new("UTC", &["hushedname", "bob"]);
    let gone = user(&rig, 0);
    rig.commit(start_ms(), &[(Some(0), 100)]);
    let personal = SettingsChange {
        email: Some(Some("hushed@example.org".to_owned())),
        note: Some(Some("hushednote".to_owned())),
        ..SettingsChange::default()
    };
    rig.ledger.change_user(gone, personal, None, nothing(), asked()).wait().unwrap();
    let entry =
        ParkedEntry { inbound: Arc::from("in"), nth: 0, entry: r#"{"password":"hushedword"}"#.to_owned() };
    rig.ledger.park(vec![(gone, entry)], vec![], start_ms()).wait().unwrap();
    let package = NewEntry { note: Some("hushednote".to_owned()), ..package(GIB) };
    rig.ledger.add_entry(gone, package, nothing(), asked()).wait().unwrap();
    let purge = || rig.ledger.purge_deleted("hushedname".to_owned(), asked()).wait().unwrap();
    assert!(purge().is_empty(), "not deleted yet");
    rig.ledger.delete_user(gone, None, asked()).wait().unwrap();
    assert_eq!(purge(), [false], "still in the file");
    assert_eq!(&*of_id(&rig, gone).name, "hushedname");
    let sums = rig.reader().audit().unwrap();
    rig.ledger.removed(gone, start_ms()).wait().unwrap();
    assert!(of_id(&rig, gone).purged_ms.is_some(), "as soon as the entry is gone");
    assert!(purge().is_empty(), "nobody has the name any more");
    assert_eq!(rig.reader().audit().unwrap(), sums);
    assert_eq!(rig.reader().wallet(gone).unwrap()[0].bytes, GIB as i64, "money is a fact");
    assert_eq!(kinds(&rig, gone).last().unwrap(), "user_purged");
    rig.ledger.close();
    for suffix in ["", "-wal"] {
        let file = std::fs::read(crate::ledger::open::beside(&rig.path(), suffix)).unwrap_or_default();
        let found = file.windows(6).position(|part| part == b"hushed");
        let around =
            found.map(|at| String::from_utf8_lossy(&file[at.saturating_sub(40)..at + 40]).into_owned());
        assert_eq!(around, None, "the file{suffix} still has personal data");
    }
}

fn package(bytes: u64) -> NewEntry {
    NewEntry {
        kind: EntryKind::Package,
        bytes: bytes as i64,
        expires_ms: None,
        package: None,
        account: None,
        note: None,
    }
}

#[test]
fn policies_are_made_renamed_and_deleted_when_nobody_has_them() {
    let rig = Rig::new("UTC", &["alice"]);
    let names = |rig: &Rig| {
        rig.reader().policies().unwrap().iter().map(|policy| policy.name.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(names(&rig), ["free", "basic", "premium", "unlimited"]);
    assert_eq!(policy(&rig, "unlimited").users, 1);
    let terms = Terms { quota_bytes: Some(7 * GIB), ..Terms::default() };
    let gold = rig.ledger.create_policy("gold".to_owned(), terms.clone(), asked()).wait().unwrap();
    let taken = refusal(rig.ledger.create_policy("gold".to_owned(), terms.clone(), asked()));
    assert_eq!(taken, Refusal::NameTaken("policy", "gold".to_owned()));
    let move_over = SettingsChange { policy: Some(gold.id), ..SettingsChange::default() };
    rig.ledger.change_user(user(&rig, 0), move_over, None, nothing(), asked()).wait().unwrap();
    let rename = rig.ledger.change_policy(
        gold.id,
        Some("silver".to_owned()),
        None,
        Some(gold.rev),
        nothing(),
        asked(),
    );
    let silver = rename.wait().unwrap();
    assert_eq!((silver.id, silver.users, &silver.terms), (gold.id, 1, &terms));
    assert_eq!(rig.ledger.users().wait().unwrap()[0].policy, "silver");
    let late = refusal(rig.ledger.change_policy(
        gold.id,
        None,
        Some(Terms::default()),
        Some(gold.rev),
        nothing(),
        asked(),
    ));
    assert_eq!(late, Refusal::PolicyChanged { now: Box::new(silver.clone()) });
    let used = refusal(rig.ledger.delete_policy(gold.id, None, asked()));
    assert_eq!(used, Refusal::PolicyInUse { name: "silver".to_owned(), users: 1 });
    rig.ledger.delete_user(user(&rig, 0), None, asked()).wait().unwrap();
    rig.ledger.delete_policy(gold.id, None, asked()).wait().unwrap();
    assert_eq!(names(&rig), ["free", "basic", "premium", "unlimited"]);
    assert!(matches!(refusal(rig.ledger.delete_policy(gold.id, None, asked())), Refusal::NoSuchPolicy(_)));
}

#[test]
fn built_in_policies_are_edited_and_keep_their_names() {
    let rig = Rig::new("UTC", &[]);
    let free = policy(&rig, "free");
    let more = Terms { quota_bytes: Some(20 * GIB), ..free.terms.clone() };
    let edited =
        rig.ledger.change_policy(free.id, None, Some(more.clone()), None, nothing(), asked()).wait().unwrap();
    assert_eq!(edited.terms, more);
    let rename = rig.ledger.change_policy(free.id, Some("gratis".to_owned()), None, None, nothing(), asked());
    assert!(matches!(refusal(rename), Refusal::BuiltIn(..)));
    assert!(matches!(refusal(rig.ledger.delete_policy(free.id, None, asked())), Refusal::BuiltIn(..)));
    let unlimited = policy(&rig, "unlimited").id;
    let cut = rig.ledger.change_policy(unlimited, None, Some(more.clone()), None, nothing(), asked());
    assert!(matches!(refusal(cut), Refusal::BuiltIn(..)), "updating cuts nobody");
    // Another start does not put the first terms back.
    rig.ledger.close();
    let ledger = Ledger::open(&rig.path(), options("UTC")).unwrap();
    assert_eq!(ledger.policies().wait().unwrap()[0].terms, more);
}

/// A validity that is new for everybody begins with the next use: nobody is over at once.
#[test]
fn a_validity_that_a_policy_gets_begins_anew() {
    let rig = Rig::new("UTC", &["alice", "bob"]);
    let plan = rig.ledger.create_policy("plan".to_owned(), Terms::default(), asked()).wait().unwrap();
    let own = Overrides { valid_days: Some(Some(7)), ..Overrides::default() };
    for (index, overrides) in [(0, None), (1, Some(own))] {
        let change = SettingsChange { policy: Some(plan.id), overrides, ..SettingsChange::default() };
        rig.ledger.change_user(user(&rig, index), change, None, nothing(), asked()).wait().unwrap();
    }
    rig.ledger.mark_first_use(vec![(user(&rig, 0), 1), (user(&rig, 1), 2)]).wait().unwrap();
    let first_uses = || [0, 1].map(|index| of_id(&rig, user(&rig, index)).first_use_ms);
    let set = |terms: Terms| {
        rig.ledger.change_policy(plan.id, None, Some(terms), None, nothing(), asked()).wait().unwrap();
    };
    set(Terms { max_flows: Some(3), ..Terms::default() });
    assert_eq!(first_uses(), [Some(1), Some(2)], "another term is no new validity");
    set(Terms { valid_days: Some(30), ..Terms::default() });
    assert_eq!(first_uses(), [None, Some(2)], "bob has his own");
}

/// Who was switched off meanwhile stays what an admin made of it.
#[test]
fn a_suspension_that_comes_late_changes_nothing() {
    let rig = Rig::new("UTC", &["alice"]);
    let suspend = || {
        let change = AdminChange { if_enabled: true, ..AdminChange::to(AdminState::Suspended) };
        rig.ledger.set_admin_state(user(&rig, 0), change, None, asked()).wait().unwrap().admin.state
    };
    let disabled = AdminChange::to(AdminState::Disabled);
    rig.ledger.set_admin_state(user(&rig, 0), disabled, None, asked()).wait().unwrap();
    assert_eq!(suspend(), AdminState::Disabled);
    let enabled = AdminChange::to(AdminState::Enabled);
    rig.ledger.set_admin_state(user(&rig, 0), enabled, None, asked()).wait().unwrap();
    assert_eq!(suspend(), AdminState::Suspended);
}

#[test]
fn a_default_policy_that_nobody_made_is_told_once_and_cuts_nobody() {
    let rig = Rig::new("UTC", &[]);
    let users =
        rig.ledger.sync_users(found(&["a", "b"]), vec![], "gone".to_owned(), start_ms()).wait().unwrap();
    assert!(users.iter().all(|user| user.policy == "unlimited"));
    let events = rig.reader().events(None, None, None, 100).unwrap();
    assert_eq!(events.iter().filter(|event| event.kind == "policy_unknown").count(), 1);
}

#[test]
fn a_key_makes_a_change_once() {
    let rig = Rig::new("UTC", &["alice"]);
    let alice = user(&rig, 0);
    let once = with_key("k1");
    rig.ledger.add_entry(alice, package(GIB), nothing(), once.clone()).wait().unwrap();
    // Before the answer was kept: the agent died after the commit.
    let again = refusal(rig.ledger.add_entry(alice, package(GIB), nothing(), once.clone()));
    assert_eq!(again, Refusal::DoneBefore(StoredAnswer { at_ms: start_ms(), answer: None }));
    let key = once.key.clone().unwrap();
    let actor = || "root".to_owned();
    rig.ledger.store_answer(actor(), key.clone(), 201, "{}".to_owned()).wait().unwrap();
    let kept = StoredAnswer { at_ms: start_ms(), answer: Some((201, "{}".to_owned())) };
    assert_eq!(
        refusal(rig.ledger.add_entry(alice, package(GIB), nothing(), once.clone())),
        Refusal::DoneBefore(kept.clone())
    );
    assert_eq!(rig.ledger.stored_answer(actor(), key.clone()).wait().unwrap(), Some(kept));
    assert_eq!(rig.reader().wallet(alice).unwrap().len(), 1);
    let other = IdempotencyKey { request: [9; 32], ..key.clone() };
    let asked_otherwise = Asked { key: Some(other), ..asked() };
    assert_eq!(
        refusal(rig.ledger.add_entry(alice, package(GIB), nothing(), asked_otherwise)),
        Refusal::KeyReused
    );
    let somebody_else = Asked { actor: "panel".to_owned(), ..once.clone() };
    rig.ledger.add_entry(alice, package(GIB), nothing(), somebody_else).wait().unwrap();
    // A change that was refused did not use its key up.
    let fresh = with_key("k2");
    assert!(matches!(
        refusal(rig.ledger.create_user(new_user(&rig, "[x]"), fresh.clone())),
        Refusal::Invalid(_)
    ));
    rig.ledger.create_user(new_user(&rig, "x"), fresh).wait().unwrap();
    // After a day it is forgotten.
    let later = Asked { at_ms: start_ms() + 25 * 3_600_000, ..with_key("k3") };
    rig.ledger.add_entry(alice, package(GIB), nothing(), later).wait().unwrap();
    assert_eq!(rig.ledger.stored_answer(actor(), key).wait().unwrap(), None);
}

#[test]
fn warnings_and_first_use_are_once() {
    let rig = Rig::new("UTC", &["alice"]);
    let alice = user(&rig, 0);
    let account = standing(&rig, alice).account;
    let warn = |account, percent| {
        let data = serde_json::json!({ "used": 8 });
        let warning = Warning { user: alice, account, percent, data, at_ms: start_ms() };
        rig.ledger.mark_warned(vec![warning.clone(), warning]).wait().unwrap() == [true, false]
    };
    assert!(warn(account, 95));
    assert!(!warn(account, 95));
    assert!(warn(account, 80));
    assert_eq!(standing(&rig, alice).warned, [80, 95]);
    let next = AccountPeriod { start_ms: start_ms() + 1000, generation: 0 };
    begin_account(&rig, alice, next);
    assert!(!warn(account, 100), "of an account that is over");
    assert!(warn(next, 80), "once per period");
    assert_eq!(rig.ledger.mark_first_use(vec![(alice, 5), (alice, 6)]).wait().unwrap(), [true, false]);
    assert_eq!(standing(&rig, alice).first_use_ms, Some(5));
    let forget = SettingsChange { forget_first_use: true, ..SettingsChange::default() };
    rig.ledger.change_user(alice, forget, None, nothing(), asked()).wait().unwrap();
    assert_eq!(rig.ledger.mark_first_use(vec![(alice, 7)]).wait().unwrap(), [true]);
    let limited = StateChange {
        user: alice,
        state: "limited".to_owned(),
        cause: "period_quota".to_owned(),
        since_ms: start_ms() + 9,
        data: serde_json::json!({ "reason": "quota" }),
    };
    rig.ledger.set_states(vec![limited.clone(), limited]).wait().unwrap();
    let now = standing(&rig, alice);
    let limited = ("limited", "period_quota", start_ms() + 9);
    assert_eq!((now.state.state.as_str(), now.state.cause.as_str(), now.state.since_ms), limited);
    let told = kinds(&rig, alice);
    assert_eq!(
        told[1..],
        [
            "quota_warning",
            "quota_warning",
            "period_turned",
            "quota_warning",
            "first_use",
            "user_changed",
            "first_use",
            "state_changed"
        ]
    );
}
