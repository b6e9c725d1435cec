//! Ranges, calendars and what remains exact when fine buckets are gone.

use proptest::prelude::*;

use super::*;

/// A tick of 1 byte every `every_ms` from the start on, and where each byte went.
fn steady(rig: &Rig, every_ms: i64, ticks: u64) -> Vec<i64> {
    let mut instants = vec![];
    for tick in 0..ticks {
        let wall = start_ms() + every_ms * tick as i64;
        rig.commit(wall, &[(Some(0), tick + 1), (None, 2 * (tick + 1))]);
        instants.push(wall);
    }
    instants
}

#[test]
fn both_ends_are_rounded_down_to_minutes() {
    let rig = Rig::new("UTC", &["alice"]);
    steady(&rig, 10_000, 60);
    let now = start_ms() + 600_000;
    let between = |from: i64, to: i64| UsageQuery {
        from_ms: Some(start_ms() + from),
        to_ms: Some(start_ms() + to),
        ..ask(By::Range, "UTC", now)
    };
    let reader = rig.reader();
    let sum = |query: &UsageQuery| reader.usage(query).unwrap().rows[0].usage.payload[0];
    assert_eq!(sum(&between(60_000, 120_000)), 6);
    assert_eq!(sum(&between(79_000, 139_999)), 6);
    // Adjoining ranges neither overlap nor leave a gap, wherever they meet.
    for middle in [1, 59_999, 60_000, 61_000, 333_333] {
        assert_eq!(sum(&between(0, middle)) + sum(&between(middle, 600_000)), 60);
    }
    let answer = reader.usage(&between(60_000, 120_000)).unwrap();
    assert_eq!(answer.unattributed.payload[0], 12);
    assert_eq!(shown(&answer), ["alice 11-24T10:01 11-24T10:02 6"]);
    let wrong = reader.usage(&between(2, 1));
    assert!(matches!(wrong, Err(QueryError::EmptyRange)));
    let nobody = UsageQuery { user: Some("nobody".to_owned()), ..ask(By::Range, "UTC", now) };
    assert!(matches!(reader.usage(&nobody), Err(QueryError::NoSuchUser(_))));
}

#[test]
fn hours_of_zones_with_broken_offsets() {
    let rig = Rig::new("UTC", &["alice"]);
    steady(&rig, 600_000, 12);
    let now = start_ms() + 7_200_000;
    let kolkata = rig.reader().usage(&ask(By::Hour, "Asia/Kolkata", now)).unwrap();
    assert_eq!(
        shown(&kolkata),
        [
            "alice 11-24T09:30 11-24T10:30 3",
            "alice 11-24T10:30 11-24T11:30 6",
            "alice 11-24T11:30 11-24T12:30 3"
        ]
    );
    let kathmandu = rig.reader().usage(&ask(By::Hour, "Asia/Kathmandu", now)).unwrap();
    let sums: Vec<_> = kathmandu.rows.iter().map(|row| row.usage.payload[0]).collect();
    assert_eq!(sums, [2, 6, 4]);
}

#[test]
fn days_and_months_of_the_ledgers_zone_stay_exact() {
    let rig = Rig::new("Asia/Kathmandu", &["alice"]);
    // 75 days, a tick every five hours: minutes and the first hours are gone.
    let instants = steady(&rig, 5 * 3_600_000, 75 * 24 / 5);
    let now = *instants.last().unwrap();
    assert!(rig.reader().info().unwrap().hours_from_ms > start_ms());
    for (by, length) in [(By::Month, "%Y-%m"), (By::Day, "%Y-%m-%d")] {
        let answer = rig.reader().usage(&ask(by, "Asia/Kathmandu", now)).unwrap();
        let zone = TimeZone::get("Asia/Kathmandu").unwrap();
        let label = |ms: i64| {
            Timestamp::from_millisecond(ms).unwrap().to_zoned(zone.clone()).strftime(length).to_string()
        };
        let mut truth = std::collections::BTreeMap::new();
        for instant in &instants {
            *truth.entry(label(*instant)).or_insert(0_u64) += 1;
        }
        let rows: Vec<_> =
            answer.rows.iter().map(|row| (label(row.start_ms), row.usage.payload[0])).collect();
        assert_eq!(rows, truth.into_iter().collect::<Vec<_>>());
        assert!(answer.rows.iter().all(|row| row.exact));
    }
    // Another zone's days cannot be told any more: said so, and no byte is missing.
    let other = rig.reader().usage(&ask(By::Day, "America/New_York", now)).unwrap();
    assert!(!other.rows[0].exact);
    assert!(other.rows.last().unwrap().exact);
    assert_eq!(other.rows.iter().map(|row| row.usage.payload[0]).sum::<u64>(), instants.len() as u64);
}

#[test]
fn daylight_saving_days_have_23_and_25_hours() {
    let rig = Rig::new("Europe/Berlin", &["alice"]);
    let begin = ms("2026-10-24T00:00:00+02:00");
    for hour in 0..3 * 24 + 1 {
        rig.commit(begin + hour * 3_600_000, &[(Some(0), hour as u64 + 1)]);
    }
    let answer = rig.reader().usage(&ask(By::Day, "Europe/Berlin", begin + 73 * 3_600_000)).unwrap();
    let sums: Vec<_> = answer.rows.iter().map(|row| row.usage.payload[0]).collect();
    assert_eq!(sums, [24, 25, 24]);
}

#[test]
fn a_change_of_the_time_zone_loses_nothing() {
    let rig = Rig::new("UTC", &["alice"]);
    let instants = steady(&rig, 3_600_000, 40);
    let path = rig.path();
    rig.ledger.close();
    let change = *instants.last().unwrap();
    let options = Options { now_ms: change, ..options("Asia/Shanghai") };
    let ledger = Ledger::open(&path, options).unwrap();
    for hour in 1..60_u64 {
        let batch = rig.batch(change + hour as i64 * 3_600_000, &[(Some(0), 40 + hour)]);
        ledger.commit(batch).wait().unwrap();
    }
    let now = change + 60 * 3_600_000;
    for by in [By::Minute, By::Hour, By::Day, By::Month, By::Range] {
        for zone in ["UTC", "Asia/Shanghai", "Asia/Kolkata"] {
            let query = UsageQuery { from_ms: Some(start_ms() - 86_400_000), ..ask(by, zone, now) };
            let answer = rig.reader().usage(&query).unwrap();
            assert_eq!(answer.rows.iter().map(|row| row.usage.payload[0]).sum::<u64>(), 99, "{by:?} {zone}");
        }
    }
    let days = rig.reader().usage(&ask(By::Day, "Asia/Shanghai", now)).unwrap();
    assert!(days.rows.last().unwrap().exact);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]
    /// Any range in any zone gives what adding up the ticks gives, by look-up and by scan alike.
    #[test]
    fn any_recent_range_is_exact(
        gaps in prop::collection::vec(1_000_i64..4_000_000, 1..40),
        from in -20_000_000_i64..120_000_000,
        length in 0_i64..200_000_000,
        by in prop::sample::select(vec![By::Range, By::Minute, By::Hour, By::Day, By::Month]),
        zone in prop::sample::select(vec!["UTC", "Asia/Kathmandu", "America/New_York"]),
        ledger in prop::sample::select(vec!["UTC", "Asia/Kolkata", "Asia/Shanghai"]),
    ) {
        let names: Vec<String> = (0..20).map(|n| format!("user{n}")).collect();
        let rig = Rig::new(ledger, &names.iter().map(String::as_str).collect::<Vec<_>>());
        let mut wall = start_ms();
        let mut ticks = vec![];
        for (tick, gap) in gaps.iter().enumerate() {
            wall += gap;
            let rows: Vec<_> = (0..20).map(|user| (Some(user), tick as u64 + 1)).collect();
            rig.commit(wall, &rows);
            ticks.push(wall);
        }
        let (from, to) = (start_ms() + from, start_ms() + from + length);
        let query = UsageQuery { from_ms: Some(from), to_ms: Some(to), ..ask(by, zone, wall + 1) };
        let end = if to > wall { i64::MAX } else { to - to.rem_euclid(60_000) };
        let begin = from - from.rem_euclid(60_000);
        let truth = ticks.iter().filter(|tick| (begin..end).contains(*tick)).count() as u64;
        let all = rig.reader().usage(&query).unwrap();
        let one = rig.reader().usage(&UsageQuery { user: Some("user3".to_owned()), ..query }).unwrap();
        prop_assert!(all.rows.iter().all(|row| row.exact));
        let mine = all.rows.iter().filter(|row| &*row.name == "user3").cloned().collect::<Vec<_>>();
        prop_assert_eq!(&mine, &one.rows);
        prop_assert_eq!(mine.iter().map(|row| row.usage.payload[0]).sum::<u64>(), truth);
        for row in &mine {
            if by != By::Range {
                let within = ticks.iter().filter(|tick| (row.start_ms..row.end_ms).contains(*tick)).count();
                prop_assert_eq!(row.usage.payload[0], within as u64);
            }
        }
    }
}
