//! Users, inbounds and billing accounts over time.

use super::*;

/// The rule stays with its account, and with that alone.
#[test]
fn accounts_keep_the_rule_that_they_go_by() {
    let rig = Rig::new("UTC", &["alice"]);
    let alice = user(&rig, 0);
    let kept =
        |day| Kept::of(Rule { kind: PeriodKind::Month, reset_day: day, created_ms: 0 }, &TimeZone::UTC);
    let account = standing(&rig, alice).account;
    let keep = |account, day| {
        rig.ledger.keep_rules(vec![Keep { user: alice, account, kept: kept(day) }]).wait().unwrap();
        standing(&rig, alice).kept
    };
    assert_eq!(standing(&rig, alice).kept, None);
    assert_eq!(keep(account, 15), Some(kept(15)));
    let next = AccountPeriod { start_ms: start_ms() + 3_600_000, generation: 0 };
    let turn = Turn { kept: kept(9), ..turn_of(alice, account, next) };
    assert_eq!(rig.ledger.turn_accounts(vec![turn], nothing(), start_ms()).wait().unwrap(), [true]);
    assert_eq!(standing(&rig, alice).kept, Some(kept(9)));
    assert_eq!(keep(account, 15), Some(kept(9)), "that account is over");
    rig.ledger.reset_account(alice, nothing(), asked()).wait().unwrap();
    assert_eq!(standing(&rig, alice).kept, Some(kept(9)), "the period goes on");
}

#[test]
fn a_name_that_comes_back_is_another_user() {
    let rig = Rig::new("UTC", &["alice", "bob"]);
    rig.commit(start_ms(), &[(Some(0), 100)]);
    let (gone, _) = sync(&rig.ledger, &["bob"], start_ms() + 1000);
    assert_eq!(gone[0].tombstoned_ms, Some(start_ms() + 1000));
    assert!(gone[0].inbounds.is_empty());
    // Bytes that were counted before the user vanished are still his.
    assert_eq!(rig.commit(start_ms() + 2000, &[(Some(0), 101)]).anomalies, []);
    let (back, _) = sync(&rig.ledger, &["alice", "bob", "alice"], start_ms() + 3000);
    assert_eq!(back.iter().filter(|user| &*user.name == "alice").count(), 2);
    let alice = back.iter().find(|user| &*user.name == "alice" && user.tombstoned_ms.is_none()).unwrap();
    assert_ne!(alice.id, user(&rig, 0));
    assert_eq!(rig.reader().user_by_name("alice").unwrap().id, alice.id);

    let one = UsageQuery { user: Some("alice".to_owned()), ..ask(By::Range, "UTC", start_ms() + 3000) };
    assert_eq!(shown(&rig.reader().usage(&one).unwrap()), ["alice 11-24T10:00 11-24T10:00 0"]);
    let all = rig.reader().usage(&ask(By::Range, "UTC", start_ms() + 3000)).unwrap();
    assert_eq!(all.rows.iter().map(|row| row.usage.payload[0]).collect::<Vec<_>>(), [101, 0, 0]);
    assert_eq!(all.rows.iter().map(|row| row.tombstoned).collect::<Vec<_>>(), [true, false, false]);
    let kinds: Vec<_> = rig.reader().events(Some(user(&rig, 0)), None, None, 10).unwrap();
    assert_eq!(
        kinds.iter().map(|event| event.kind.as_str()).collect::<Vec<_>>(),
        ["user_adopted", "user_vanished"]
    );
}

#[test]
fn a_sync_that_changes_nothing_uses_no_revision() {
    let rig = Rig::new("UTC", &["alice", "bob"]);
    let before = rig.ledger.info().wait().unwrap();
    sync(&rig.ledger, &["bob", "alice"], start_ms() + 5000);
    assert_eq!(rig.ledger.info().wait().unwrap(), before);
}

#[test]
fn an_inbound_that_comes_back_is_the_same() {
    let rig = Rig::new("UTC", &["alice"]);
    let gone = rig.ledger.sync_inbounds(vec![], start_ms()).wait().unwrap();
    assert_eq!(gone[0].tombstoned_ms, Some(start_ms()));
    let found = FoundInbound { tag: Arc::from("in"), kind: "vless".to_owned(), port: 8443 };
    let back = rig.ledger.sync_inbounds(vec![found], start_ms() + 1).wait().unwrap();
    assert_eq!((back[0].no, back[0].tombstoned_ms, back[0].port), (rig.inbound, None, 8443));
}

#[test]
fn usage_belongs_to_the_account_in_force() {
    let rig = Rig::new("UTC", &["alice"]);
    rig.commit(start_ms(), &[(Some(0), 100)]);
    let turn = start_ms() + 90_000;
    let alice = user(&rig, 0);
    begin_account(&rig, alice, AccountPeriod { start_ms: turn, generation: 0 });
    rig.commit(turn + 1000, &[(Some(0), 130)]);
    begin_account(&rig, alice, AccountPeriod { start_ms: turn, generation: 1 });
    rig.commit(turn + 2000, &[(Some(0), 131)]);
    let old = AccountPeriod { start_ms: turn, generation: 0 };
    let back = turn_of(alice, standing(&rig, alice).account, old);
    let turned = rig.ledger.turn_accounts(vec![back], Box::new(|_| vec![]), turn).wait().unwrap();
    assert_eq!(turned, [false], "no account comes back");
    let answer = rig.reader().usage(&ask(By::Period, "UTC", turn + 60_000)).unwrap();
    assert_eq!(
        shown(&answer),
        [
            "alice 11-24T10:00 11-24T10:01 100",
            "alice 11-24T10:01 11-24T10:01 30",
            "alice 11-24T10:01 11-24T10:02 1"
        ]
    );
    assert_eq!(rig.checked_sum(), 131);
    assert_eq!(rig.reader().last_traffic().unwrap()[&alice], turn + 2000);
}

#[test]
fn answers_come_in_pages_of_users() {
    let names: Vec<String> = (0..25).map(|n| format!("user{n:02}")).collect();
    let rig = Rig::new("UTC", &names.iter().map(String::as_str).collect::<Vec<_>>());
    let rows: Vec<_> = (0..25).map(|n| (Some(n), n as u64 + 1)).collect();
    rig.commit(start_ms(), &rows);
    for by in [By::Range, By::Hour] {
        let mut query = UsageQuery { users_max: 10, ..ask(by, "UTC", start_ms()) };
        let mut seen = vec![];
        loop {
            let page = rig.reader().usage(&query).unwrap();
            seen.extend(page.rows.iter().map(|row| row.name.to_string()));
            query.after = page.next;
            if page.next.is_none() {
                break;
            }
            assert_eq!(page.rows.len(), 10);
        }
        assert_eq!(seen, names);
    }
}

/// However many users are asked for, an answer has room for a long range: fewer users a page, none left out.
#[test]
fn a_long_range_has_fewer_users_a_page() {
    const HOUR_MS: i64 = 3_600_000;
    let names: Vec<String> = (0..25).map(|n| format!("user{n:02}")).collect();
    let rig = Rig::new("UTC", &names.iter().map(String::as_str).collect::<Vec<_>>());
    let later = start_ms() + 40 * HOUR_MS;
    for (at, base) in [(start_ms(), 1), (later, 100)] {
        let rows: Vec<_> = (0..25).map(|n| (Some(n), n as u64 + base)).collect();
        rig.commit(at, &rows);
    }
    // 40 hours by minute: no more than eight users have room.
    let mut query = UsageQuery { users_max: 1_000, ..ask(By::Minute, "UTC", later) };
    let (mut seen, mut pages) = (vec![], 0);
    loop {
        let page = rig.reader().usage(&query).unwrap();
        pages += 1;
        seen.extend(page.rows.iter().map(|row| row.name.to_string()));
        query.after = page.next;
        if page.next.is_none() {
            break;
        }
        assert!((2..=16).contains(&page.rows.len()), "{} rows", page.rows.len());
    }
    let twice: Vec<&String> = names.iter().flat_map(|name| [name, name]).collect();
    assert_eq!(seen.iter().collect::<Vec<_>>(), twice);
    assert!(pages >= 4, "{pages}");
}

#[test]
fn events_are_kept_in_order_and_read_in_pages() {
    let rig = Rig::new("UTC", &["alice"]);
    let event = |n: i64, user| NewEvent {
        at_ms: start_ms() + n,
        kind: format!("kind{n}"),
        user,
        actor: "root".to_owned(),
        data: serde_json::json!({ "n": n }),
    };
    let mut batch = rig.batch(start_ms(), &[(Some(0), 1)]);
    // An event about a user unknown to the ledger is kept, without him.
    batch.events = vec![event(1, Some(user(&rig, 0))), event(2, Some(UserId(uuid::Uuid::now_v7())))];
    assert_eq!(rig.ledger.commit(batch).wait().unwrap().rows_grown, 1);
    rig.ledger.record_events(vec![event(3, None)]).wait().unwrap();
    let reader = rig.reader();
    let first = reader.events(None, Some(start_ms() + 1), None, 2).unwrap();
    assert_eq!(first.iter().map(|event| event.kind.as_str()).collect::<Vec<_>>(), ["kind1", "kind2"]);
    assert_eq!((first[0].user_name.as_deref(), first[1].user), (Some("alice"), None));
    let second = reader.events(None, Some(start_ms() + 1), Some(first[1].no), 2).unwrap();
    assert_eq!(second.iter().map(|event| event.kind.as_str()).collect::<Vec<_>>(), ["kind3"]);
}

/// On the account of a service that counts itself, by its name.
fn counted_by(services: &[&str], users: &[(&str, &[&str])], rig: &Rig, now_ms: i64) -> Vec<UserRecord> {
    let tag = |name: &str| Arc::<str>::from(format!("{name}/(reported)"));
    let file = FoundInbound { tag: Arc::from("in"), kind: "trojan".to_owned(), port: 443 };
    let own = services.iter().map(|name| FoundInbound { tag: tag(name), kind: "nginx".to_owned(), port: 0 });
    rig.ledger.sync_inbounds(std::iter::once(file).chain(own).collect(), now_ms).wait().unwrap();
    let tags =
        |on: &[&str]| on.iter().map(|&name| if name == "in" { name.into() } else { tag(name) }).collect();
    let found = users.iter().map(|(name, on)| FoundUser { name: Arc::from(*name), inbounds: tags(on) });
    let found = found.collect();
    let users = rig.ledger.sync_users(found, vec![], "unlimited".to_owned(), now_ms).wait().unwrap();
    users.into_iter().filter(|user| user.tombstoned_ms.is_none()).collect()
}

/// An nginx is called otherwise, or commented out: its users, with their limits, are there when it comes back.
#[test]
fn who_is_only_counted_stays_while_the_service_is_not_configured() {
    let rig = Rig::new("UTC", &["alice"]);
    let both: &[(&str, &[&str])] = &[("alice", &["in"]), ("bob", &["nginx"]), ("carol", &["in", "nginx"])];
    let before = counted_by(&["nginx"], both, &rig, start_ms());
    let of = |users: &[UserRecord], name: &str| {
        users.iter().find(|user| &*user.name == name).map(|user| (user.id, user.inbounds.len()))
    };
    let (bob, carol) = (of(&before, "bob").unwrap().0, of(&before, "carol").unwrap().0);
    // By a new name, of which nothing was read yet; and somebody took one of them out of the file.
    let renamed = counted_by(&["web"], &[("alice", &["in"])], &rig, start_ms() + 1);
    assert_eq!(of(&renamed, "bob"), Some((bob, 1)));
    assert_eq!(of(&renamed, "carol"), Some((carol, 1)), "the file does not have her any more");
    let told = rig.reader().events(None, None, None, 100).unwrap();
    let told: Vec<_> = told.iter().filter(|event| event.kind == "service_users_kept").collect();
    assert_eq!((told.len(), &told[0].data["users"]), (1, &serde_json::json!(2)));
    let read = counted_by(&["web"], &[("alice", &["in"]), ("bob", &["web"])], &rig, start_ms() + 2);
    assert_eq!(of(&read, "bob"), Some((bob, 1)));
    // Of one that is configured, whoever is not its user any more goes, as from a file.
    let left = counted_by(&["web"], &[("alice", &["in"])], &rig, start_ms() + 3);
    assert_eq!(of(&left, "bob"), None);
    let gone = counted_by(&[], &[], &rig, start_ms() + 4);
    assert_eq!((of(&gone, "alice"), of(&gone, "carol")), (None, Some((carol, 1))));
}
