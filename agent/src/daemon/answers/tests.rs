//! What the overview and its stream say is one thing, whoever is in which state.

use std::sync::Arc;

use boxmeter_common::user::METER_PAYLOAD;
use uuid::Uuid;

use super::*;
use crate::{
    core::{
        account::Activity,
        event::PolicyId,
        snapshot::Publisher,
        terms::{Overrides, Terms},
    },
    daemon::gate::{Bases, of_meter as billed_of},
    ledger::{AccountPeriod, AdminRecord, AdminState, FileState, Settings, StateRecord, Used as Ledger},
};

const NOW_MS: i64 = 1_772_366_400_000;

fn counters(upload: u64, download: u64) -> Counters {
    Counters { payload: [upload, download], wire: [upload + 40, download + 40] }
}

fn record(number: u128, state: State) -> UserRecord {
    UserRecord {
        id: UserId(Uuid::from_u128(number)),
        name: format!("user-{number}").into(),
        created_ms: 0,
        tombstoned_ms: (state == State::Expired).then_some(1),
        purged_ms: None,
        file_state: FileState::Settled,
        policy: "basic".to_owned(),
        settings: Settings {
            policy: PolicyId(Uuid::nil()),
            overrides: Overrides::default(),
            expires_ms: None,
            email: None,
            note: None,
        },
        admin: AdminRecord {
            state: AdminState::Enabled,
            since_ms: 0,
            actor: "agent".to_owned(),
            why: None,
            until_ms: None,
            evidence: None,
        },
        account: AccountPeriod { start_ms: 0, generation: 0 },
        kept: None,
        warned: Vec::new(),
        first_use_ms: None,
        state: StateRecord { state: "active".to_owned(), cause: "none".to_owned(), since_ms: 0 },
        inbounds: Vec::new(),
        settings_rev: 1,
        rev: 1,
    }
}

/// Half a gigabyte was imported, which no kernel has counted.
const IMPORTED: u64 = 500_000_000;

fn row(state: State) -> GateRow {
    let elsewhere = Ledger { counted: counters(0, 0), reported: [0, IMPORTED] };
    GateRow {
        state,
        reason: None,
        policy: Some("basic".to_owned()),
        terms: Terms::default(),
        overrides: Overrides::default(),
        zone: TimeZone::UTC,
        period_end_ms: None,
        bases: Bases::new(&elsewhere, &elsewhere, &counters(0, 0), billed_of(METER_PAYLOAD)),
        packages_left: 0,
        rates: [0; 2],
        cut: false,
        taken_out: false,
    }
}

/// A user of every state; each has moved as many bytes as its number says, and the last is deleted.
fn picture() -> Picture {
    let states = [
        State::Active,
        State::Active,
        State::Throttled,
        State::Pending,
        State::Limited,
        State::Disabled,
        State::Suspended,
        State::Expired,
    ];
    let mut picture = Picture::default();
    let (mut users, mut rows, mut totals) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    let mut publisher = Publisher::default();
    for (number, state) in (1_u64..).zip(states) {
        let record = record(u128::from(number), state);
        let counted = counters(number * 1_000, number * 10_000);
        let activity =
            Activity { totals: counted, last_seen_ms: Some(NOW_MS - 5_000), ..Activity::default() };
        publisher.set_activity(record.id, activity);
        rows.insert(record.id, Arc::new(row(state)));
        totals.insert(record.id, counted);
        users.insert(record.id, Arc::new(record));
    }
    picture.snapshot = publisher.publish(
        &mut crate::core::attribute::Attributor::default(),
        &crate::core::account::Accounts::default(),
        Now { mono_ns: 1, wall_ms: NOW_MS },
    );
    picture.directory.users = Arc::new(users);
    picture.directory.gate = Arc::new(rows);
    picture.totals = Arc::new(totals);
    picture.unattributed = counters(700, 300);
    picture.before_month = counters(90_000, 0);
    picture.before_today = counters(150_000, 0);
    picture
}

#[test]
fn the_overview_and_its_stream_say_the_same() {
    let picture = picture();
    for meter in [Meter::Payload, Meter::Wire] {
        let live = live(&picture, meter, &TimeZone::UTC);
        let stats = stats(&picture, meter, &TimeZone::UTC);
        let totals = live.totals;
        assert_eq!(
            [stats.total_users, stats.active_users, stats.online_users, stats.limited_users],
            [totals.total_users, totals.active_users, totals.online_users, totals.limited_users]
        );
        assert_eq!([stats.today_bytes, stats.month_bytes], [totals.today_bytes, totals.month_bytes]);
        assert_eq!(stats.unattributed_bytes, totals.unattributed_bytes);
        assert_eq!(stats.total_traffic_bytes + stats.unattributed_bytes, totals.total_bytes);
        assert!(totals.today_bytes < totals.month_bytes && totals.month_bytes < totals.total_bytes);
    }
}

#[test]
fn active_is_who_is_active_and_of_nobody_is_in_every_sum() {
    let stats = stats(&picture(), Meter::Payload, &TimeZone::UTC);
    assert_eq!(
        (stats.total_users, stats.active_users, stats.limited_users),
        (7, 2, 1),
        "who is deleted is not"
    );
    let all: u64 = (1..=8).map(|number| number * 11_000).sum::<u64>() + 1_000;
    assert_eq!(stats.total_traffic_bytes, all - 1_000);
    assert_eq!(stats.unattributed_bytes, 1_000);
    assert_eq!((stats.month_bytes, stats.today_bytes), (all - 90_000, all - 150_000));
    // What services report themselves is nobody's in none of it, by either meter.
    for meter in [Meter::Payload, Meter::Wire] {
        let figures = |reported| {
            let head = super::stats(&Picture { reported, ..picture() }, meter, &TimeZone::UTC);
            [head.total_traffic_bytes, head.month_bytes, head.today_bytes, head.unattributed_bytes]
        };
        let [total, month, today, nobodys] = figures([0; 2]);
        assert_eq!(figures([20, 22]), [total + 42, month + 42, today + 42, nobodys], "{meter:?}");
    }
}

#[test]
fn a_users_figures_are_the_same_in_the_stream_and_on_its_page() {
    let picture = picture();
    let live = live(&picture, Meter::Payload, &TimeZone::UTC);
    for line in &live.users {
        let record = picture.directory.users.values().find(|it| *it.name == line.name).unwrap();
        let counted = traffic(picture.totals[&record.id]);
        let shown = user(record, &picture, Some(&counted), Meter::Payload, &TimeZone::UTC);
        assert_eq!(line.total_bytes, shown.total.used_bytes, "{}", line.name);
        assert_eq!(line.period_bytes, shown.period.used_bytes, "{}", line.name);
        assert!(line.total_bytes > IMPORTED, "what was imported is in it");
        assert_eq!(line.last_seen_at, shown.last_seen_at);
        assert_eq!(line.last_seen_at, Some(Time::from_ms(NOW_MS - 5_000, &TimeZone::UTC)));
    }
}
