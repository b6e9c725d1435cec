//! Bytes that the kernel does not see, imported ones among them; and audits of ranges.

use super::*;

const AGENT: [u8; 16] = [1; 16];
const NEXT_AGENT: [u8; 16] = [2; 16];

fn told(rig: &Rig, wall_ms: i64, reporter: [u8; 16], total: u64, connection: (&str, u64, bool)) -> Batch {
    let row = ReportedRow { user: user(rig, 0), inbound: rig.inbound, total: [total, 2 * total] };
    let (id, so_far, ended) = connection;
    let connection = ReportedConnection { id: Arc::from(id), total: [so_far, 2 * so_far], ended };
    let reported = Reported { reporter, rows: vec![row], connections: vec![connection] };
    Batch { reported: Some(reported), ..rig.batch(wall_ms, &[(Some(0), 5)]) }
}

fn reported(rig: &Rig, by: By) -> [u64; 2] {
    let answer = rig.reader().usage(&ask(by, "UTC", start_ms() + 3_600_000)).unwrap();
    answer.rows.iter().fold([0; 2], |sum, row| [sum[0] + row.reported[0], sum[1] + row.reported[1]])
}

#[test]
fn reported_bytes_have_their_own_columns_and_no_audit_counts_them() {
    let rig = Rig::new("UTC", &["alice"]);
    for _ in 0..2 {
        rig.ledger.commit(told(&rig, start_ms(), AGENT, 10, ("a", 10, false))).wait().unwrap();
    }
    rig.ledger.commit(told(&rig, start_ms() + 60_000, AGENT, 25, ("a", 25, false))).wait().unwrap();
    for by in [By::Range, By::Minute, By::Hour, By::Day, By::Month, By::Period] {
        assert_eq!(reported(&rig, by), [25, 50], "{by:?}");
    }
    assert_eq!(rig.reader().audit().unwrap().users, counters(5));
    let now = standing(&rig, user(&rig, 0));
    assert_eq!((now.used.reported, now.used.counted), ([25, 50], counters(5)));
    let fell = rig.ledger.commit(told(&rig, start_ms(), AGENT, 24, ("a", 24, false))).wait().unwrap();
    assert_eq!(fell.anomalies[0].kind, AnomalyKind::Reported);
    assert_eq!(reported(&rig, By::Range), [25, 50]);
}

#[test]
fn a_killed_agents_successor_counts_each_connection_on() {
    let rig = Rig::new("UTC", &["alice"]);
    rig.ledger.commit(told(&rig, start_ms(), AGENT, 10, ("a", 10, false))).wait().unwrap();
    // Killed here. The proxy tells the connection again, by now with 17 bytes up.
    let known = rig.ledger.reported_connections().wait().unwrap();
    let fresh = 17 - known["a"][0];
    let batch = told(&rig, start_ms() + 5000, NEXT_AGENT, fresh, ("a", 17, true));
    for _ in 0..2 {
        rig.ledger.commit(batch.clone()).wait().unwrap();
    }
    assert_eq!(reported(&rig, By::Range), [17, 34]);
    // Told again after its end, it is still known; an hour later it is forgotten.
    assert_eq!(rig.ledger.reported_connections().wait().unwrap()["a"], [17, 34]);
    let late = told(&rig, start_ms() + 3_700_000, NEXT_AGENT, fresh, ("b", 0, false));
    rig.ledger.commit(late).wait().unwrap();
    let known = rig.ledger.reported_connections().wait().unwrap();
    assert_eq!(known.keys().map(|id| &**id).collect::<Vec<_>>(), ["b"]);
}

#[test]
fn imported_usage_counts_once_and_where_it_belongs() {
    let rig = Rig::new("UTC", &["alice"]);
    let alice = user(&rig, 0);
    let now = standing(&rig, alice).account;
    let september = ms("2026-09-01T00:00:00Z");
    let usage = vec![
        ImportedBytes {
            at_ms: september,
            account: AccountPeriod { start_ms: september, generation: 0 },
            bytes: [100, 200],
        },
        ImportedBytes { at_ms: start_ms(), account: now, bytes: [1, 2] },
    ];
    let import = |file, usage: &[ImportedBytes], bytes: i64| {
        let what = |bytes| crate::core::wallet::What::Package { bytes, expires_ms: None };
        let package = u64::try_from(bytes).ok().filter(|&b| b > 0).map(|b| NewEntry::of(what(b), None));
        let nothing: Settle = Box::new(|_| Vec::new());
        let one = UsedElsewhere { user: alice, reporter: file, usage: usage.to_vec(), package };
        rig.ledger.import_usage(vec![one], nothing, asked()).wait().unwrap().remove(0)
    };
    assert!(import([7; 16], &usage, 50).unwrap());
    assert!(!import([7; 16], &usage, 50).unwrap(), "the same file again");
    assert!(import([8; 16], &[], 70).unwrap(), "a package alone");
    // Usage and package are one: nothing of it is there if the ledger does not take one of them.
    import([9; 16], &usage, i64::MAX).unwrap_err();
    let wallet = |rig: &Rig| {
        let wallet = rig.reader().wallet(alice).unwrap();
        wallet.iter().map(|entry| entry.bytes).collect::<Vec<_>>()
    };
    assert_eq!(wallet(&rig), [50, 70]);
    assert!(!import([8; 16], &[], 70).unwrap());
    rig.commit(start_ms(), &[(Some(0), 5)]);
    let standing = standing(&rig, alice);
    assert_eq!((standing.used.reported, standing.total.reported), ([1, 2], [101, 202]));
    let by_month = rig.reader().usage(&ask(By::Month, "UTC", start_ms() + 1000)).unwrap();
    let months: Vec<_> = by_month.rows.iter().map(|row| (row.start_ms, row.reported)).collect();
    assert_eq!(months, [(september, [100, 200]), (ms("2026-11-01T00:00:00Z"), [1, 2])]);
    assert_eq!(rig.reader().audit().unwrap().users, counters(5));
    sync(&rig.ledger, &["alice"], start_ms() + 1000);
    assert_eq!(
        kinds(&rig, alice),
        ["user_adopted", "package_added", "usage_imported", "package_added", "usage_imported"]
    );
}

/// The key of an import is claimed before its first change, and its own repetition goes on.
#[test]
fn an_import_s_key_is_its_own() {
    let rig = Rig::new("UTC", &["alice"]);
    let with = |request: u8| Asked {
        key: Some(IdempotencyKey { key: "k".to_owned(), request: [request; 32] }),
        ..asked()
    };
    rig.ledger.begin_import(with(1)).wait().unwrap();
    rig.ledger.begin_import(with(1)).wait().unwrap();
    let error = rig.ledger.begin_import(with(2)).wait().unwrap_err();
    assert!(matches!(error.refusal(), Some(Refusal::KeyReused)), "{error}");
    let create = rig.ledger.create_policy("p".to_owned(), Terms::default(), with(3)).wait();
    assert!(matches!(create.unwrap_err().refusal(), Some(Refusal::KeyReused)));
    let key = with(1).key.unwrap();
    rig.ledger.store_answer("root".to_owned(), key.clone(), 200, "{}".to_owned()).wait().unwrap();
    let stored = rig.ledger.stored_answer("root".to_owned(), key).wait().unwrap().unwrap();
    assert_eq!(stored.answer, Some((200, "{}".to_owned())));
}

#[test]
fn an_audit_of_a_range_is_exact_where_traffic_rests() {
    let rig = Rig::new("Asia/Kolkata", &["alice"]);
    let tick = |minute: i64, total: u64, unattributed: u64| {
        let mut batch = rig.batch(start_ms() + minute * 60_000, &[(Some(0), total), (None, unattributed)]);
        batch.watched = vec![(rig.inbound, counters(total + unattributed))];
        rig.ledger.commit(batch).wait().unwrap();
    };
    // Four days: of the first two only hours are left, so that a range within an hour is not exact.
    let mut total = 0;
    for quarter in 0..4 * 96 {
        total += 3;
        tick(quarter * 15, total, total / 3);
    }
    let audit = |from: i64, to: i64| {
        let range = rig.reader().audit_range(Some(start_ms() + from), Some(start_ms() + to)).unwrap();
        let sums = range.sums;
        let both = sums.users.payload[0] + sums.unattributed.payload[0];
        assert_eq!(both, sums.watched.payload[0], "{from}..{to}");
        assert_eq!(sums.users.wire[1] + sums.unattributed.wire[1], sums.watched.wire[1]);
        (sums.watched.payload[0], range.exact)
    };
    let day = 86_400_000;
    assert_eq!(audit(-day, 8 * day), (u64::try_from(4 * 96 * 4).unwrap(), true));
    assert_eq!(audit(3 * day, 3 * day + 3_600_000), (16, true));
    assert_eq!(audit(3 * day + 60_000, 3 * day + 16 * 60_000).0, 4);
    // The half of an hour of which only the whole is left, and which began before the range.
    assert_eq!(audit(0, 30 * 60_000), (0, false));
    assert_eq!(audit(9 * day, 10 * day).0, 0);
    let whole = rig.reader().audit_range(None, None).unwrap();
    assert_eq!(whole.sums, rig.reader().audit().unwrap());
    assert!(matches!(rig.reader().audit_range(Some(2), Some(1)), Err(QueryError::EmptyRange)));
}
