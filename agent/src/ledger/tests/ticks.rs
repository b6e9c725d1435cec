//! What a tick adds, and what it must not.

use proptest::prelude::*;

use super::*;

#[test]
fn a_batch_adds_what_the_counters_grew() {
    let rig = Rig::new("UTC", &["alice", "bob"]);
    let first = rig.commit(start_ms(), &[(Some(0), 100), (Some(1), 5), (None, 7)]);
    assert_eq!((first.rows_grown, first.added.payload[0]), (3, 112));
    let second = rig.commit(start_ms() + 1000, &[(Some(0), 150), (Some(1), 5)]);
    assert_eq!((second.rows_grown, second.added), (1, counters(50)));
    assert!(second.rev > first.rev);

    let answer = rig.reader().usage(&ask(By::Range, "UTC", start_ms() + 1000)).unwrap();
    assert_eq!(answer.rows.iter().map(|row| row.usage).collect::<Vec<_>>(), [counters(150), counters(5)]);
    assert_eq!(answer.unattributed, counters(7));
    assert_eq!(answer.as_of_ms, Some(start_ms() + 1000));
    assert_eq!(rig.checked_sum(), 162);
}

#[test]
fn a_repeated_batch_changes_nothing() {
    let rig = Rig::new("UTC", &["alice"]);
    let batch = rig.batch(start_ms(), &[(Some(0), 100), (Some(0), 130), (None, 7)]);
    let first = rig.ledger.commit(batch.clone()).wait().unwrap();
    assert_eq!(first.added.payload[0], 137, "a slot that comes twice counts on");
    let again =
        rig.ledger.commit(rig.batch(start_ms() + 60_000, &[(Some(0), 130), (None, 7)])).wait().unwrap();
    assert_eq!((again.rows_grown, again.added, again.anomalies.len()), (0, Counters::default(), 0));
    assert_eq!(rig.checked_sum(), 137);
}

#[test]
fn a_falling_counter_is_refused_and_reported_once() {
    let rig = Rig::new("UTC", &["alice", "bob"]);
    rig.commit(start_ms(), &[(Some(0), 100), (Some(1), 10)]);
    for second in 1..4 {
        let committed =
            rig.commit(start_ms() + second * 1000, &[(Some(0), 99), (Some(1), 10 + second as u64)]);
        assert_eq!(committed.anomalies, [Anomaly { kind: AnomalyKind::Fell, slot: 256, generation: 1 }]);
        assert_eq!(committed.added, counters(1), "the other rows are committed");
    }
    rig.commit(start_ms() + 9000, &[(Some(0), 101)]);
    assert_eq!(rig.checked_sum(), 101 + 13);
    let events = rig.reader().events(None, None, None, 100).unwrap();
    let refused: Vec<_> = events.iter().filter(|event| event.kind == "reading_refused").collect();
    assert_eq!(refused.len(), 1);
    assert_eq!(refused[0].data["anomaly"], "counter_fell");
}

#[test]
fn readings_that_cannot_be_right_are_refused_alone() {
    let rig = Rig::new("UTC", &["alice", "bob"]);
    rig.commit(start_ms(), &[(Some(0), 1)]);
    let mut batch = rig.batch(start_ms(), &[(Some(1), 4)]);
    let mut too_big = rig.row(Some(0), 2);
    too_big.total.wire[1] = (1 << 58) + 1;
    let stranger = Row { slot: 300, user: Some(UserId(uuid::Uuid::now_v7())), ..rig.row(None, 3) };
    let nowhere = Row { slot: 301, inbound: InboundNo(99), ..rig.row(None, 3) };
    let stolen = Row { slot: 256, ..rig.row(Some(1), 50) };
    batch.rows.extend([too_big, stranger, nowhere, stolen]);
    batch.watched =
        vec![(rig.inbound, counters(9)), (InboundNo(99), counters(1)), (rig.inbound, counters(8))];
    let committed = rig.ledger.commit(batch).wait().unwrap();
    let kinds: Vec<_> = committed.anomalies.iter().map(|anomaly| anomaly.kind).collect();
    use AnomalyKind::*;
    assert_eq!(kinds, [TooBig, UnknownUser, UnknownInbound, OwnerChanged, UnknownInbound, Watched]);
    // The stranger's three bytes are nobody's, now and when more come.
    assert_eq!(rig.checked_sum(), 8);
    assert_eq!(rig.reader().audit().unwrap().watched, counters(9));
    let mut batch = rig.batch(start_ms() + 1000, &[]);
    batch.rows.push(Row { slot: 300, user: Some(UserId(uuid::Uuid::now_v7())), ..rig.row(None, 10) });
    let committed = rig.ledger.commit(batch).wait().unwrap();
    assert_eq!(committed.added, counters(7));
    assert_eq!(rig.reader().audit().unwrap().unattributed, counters(10));
    let events = rig.reader().events(None, None, None, 100).unwrap();
    assert_eq!(events.iter().filter(|event| event.kind == "stranger_counted").count(), 1);
}

#[test]
fn epochs_and_generations_count_from_zero_and_add_up() {
    let rig = Rig::new("UTC", &["alice"]);
    rig.commit(start_ms(), &[(Some(0), 100)]);
    let mut other = rig.batch(start_ms() + 1000, &[(Some(0), 40)]);
    other.epoch = [8; 16];
    other.watched = vec![(rig.inbound, counters(40))];
    rig.ledger.commit(other.clone()).wait().unwrap();
    let mut third = other.clone();
    third.epoch = [9; 16];
    rig.ledger.commit(third.clone()).wait().unwrap();
    // An epoch that was thrown out of memory meanwhile still counts on from what it had.
    rig.commit(start_ms() + 2000, &[(Some(0), 101)]);
    third.rows[0].generation = 2;
    third.rows[0].total = counters(3);
    rig.ledger.commit(third).wait().unwrap();
    rig.ledger.commit(other).wait().unwrap();
    assert_eq!(rig.checked_sum(), 101 + 40 + 40 + 3);
    assert_eq!(rig.reader().audit().unwrap().watched, counters(80));
}

#[test]
fn a_clock_that_jumps_moves_bytes_and_loses_none() {
    let rig = Rig::new("Asia/Shanghai", &["alice"]);
    let day = 86_400_000;
    let mut total = 0;
    for (step, jump) in [0, 400 * day, -400 * day, 1, -2 * day, 3 * day].into_iter().enumerate() {
        total += 1000 + step as u64;
        rig.commit(start_ms() + jump, &[(Some(0), total)]);
    }
    let now = start_ms();
    for by in [By::Range, By::Month, By::Day, By::Hour, By::Minute, By::Period] {
        for zone in ["Asia/Shanghai", "Asia/Kathmandu", "America/New_York"] {
            let from = UsageQuery { from_ms: Some(start_ms() - 800 * day), ..ask(by, zone, now) };
            for query in [ask(by, zone, now), from] {
                let answer = match rig.reader().usage(&query) {
                    Err(QueryError::TooLong(_)) if matches!(by, By::Minute | By::Hour) => continue,
                    answer => answer.unwrap(),
                };
                let sum: u64 = answer.rows.iter().map(|row| row.usage.payload[0]).sum();
                assert_eq!(sum, total, "{by:?} {zone}: {:?}", shown(&answer));
            }
        }
    }
}

#[test]
fn old_minutes_go_and_no_byte_with_them() {
    let rig = Rig::new("UTC", &["alice"]);
    let mut total = 0;
    // Four days with a tick every 20 minutes: minutes of the first two days go.
    for tick in 0..4 * 72 {
        total += 1;
        rig.commit(start_ms() + tick * 20 * 60_000, &[(Some(0), total)]);
    }
    let reader = rig.reader();
    let info = reader.info().unwrap();
    let now = start_ms() + (4 * 72 - 1) * 20 * 60_000;
    let cutoff = now - 2 * 86_400_000;
    assert!((cutoff - 20 * 60_000..=cutoff).contains(&info.minutes_from_ms));
    let sums: std::collections::HashMap<_, _> = level_sums(reader.connection()).into_iter().collect();
    assert_eq!(sums["usage_minutes"][0], 2 * 72 + 1);
    assert_eq!((sums["usage_hours"][0], sums["usage_days"][0]), (4 * 72, 4 * 72));
    let answer = reader.usage(&ask(By::Minute, "UTC", now)).unwrap();
    assert_eq!(answer.rows.iter().map(|row| row.usage.payload[0]).sum::<u64>(), total);
    assert!(answer.rows.iter().all(|row| row.exact));
    assert_eq!(answer.rows[0].end_ms - answer.rows[0].start_ms, 3_600_000, "old minutes are shown as hours");
    assert_eq!(answer.rows.last().unwrap().end_ms - answer.rows.last().unwrap().start_ms, 60_000);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    /// Batches of one truth that come late, repeated and out of order leave exactly the highest
    /// readings, at every level, and usage never falls.
    #[test]
    fn any_order_of_batches_ends_at_the_highest_readings(
        steps in prop::collection::vec((0_usize..3, 0_u64..1000, 0_i64..200_000), 1..20),
        order in prop::collection::vec(any::<prop::sample::Index>(), 0..30),
    ) {
        let rig = Rig::new("Asia/Kolkata", &["a", "b"]);
        let mut totals = [0_u64; 3];
        let mut wall = start_ms();
        let mut batches = vec![];
        for (who, more, later) in steps {
            totals[who] += more;
            wall += later;
            batches.push(rig.batch(wall, &[(Some(0), totals[0]), (Some(1), totals[1]), (None, totals[2])]));
        }
        let mut sum = 0;
        for index in &order {
            rig.ledger.commit(index.get(&batches).clone()).wait().unwrap();
            let now = rig.checked_sum();
            prop_assert!(now >= sum);
            sum = now;
        }
        rig.ledger.commit(batches.last().unwrap().clone()).wait().unwrap();
        prop_assert_eq!(rig.checked_sum(), totals.iter().sum::<u64>() as i64);
    }
}
