//! Decisions: cases that people know, and the byte-exactness against deciding at every byte.

use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::core::{
    period::tests::{ms, zone},
    terms::{GIB, MIB, PeriodKind, Step, Then},
    wallet::{Entry, EntryId, What},
};

/// A user of a plan, on 25 November 2026 in Shanghai.
struct Case {
    terms: Terms,
    wallet: Wallet,
    admin: Admin,
    used: Used,
    first_use_ms: Option<i64>,
    expires_ms: Option<i64>,
    sharing: Option<SharingNow>,
    before: Option<Before>,
    notices: Notices,
    policy_known: bool,
    account: AccountPeriod,
    now_ms: i64,
    zone: TimeZone,
}

fn case(terms: Terms) -> Case {
    let zone = zone("Asia/Shanghai");
    let account = AccountPeriod { start_ms: ms("2026-11-01T00:00[Asia/Shanghai]"), generation: 0 };
    Case {
        terms,
        wallet: Wallet::default(),
        admin: Admin::Enabled,
        used: Used::default(),
        first_use_ms: Some(account.start_ms),
        expires_ms: None,
        sharing: None,
        before: None,
        notices: Notices::default(),
        policy_known: true,
        account,
        now_ms: ms("2026-11-25T14:03:07[Asia/Shanghai]"),
        zone,
    }
}

fn quota(bytes: u64, over_quota: &[(u16, Then)]) -> Terms {
    let step = |&(percent, then)| Step { percent, then };
    Terms { quota_bytes: Some(bytes), over_quota: over_quota.iter().map(step).collect(), ..Terms::default() }
}

impl Case {
    fn standing(&self) -> Standing<'_> {
        Standing {
            terms: &self.terms,
            policy_known: self.policy_known,
            admin: &self.admin,
            created_ms: self.account.start_ms,
            first_use_ms: self.first_use_ms,
            expires_ms: self.expires_ms,
            account: self.account,
            kept: None,
            used: self.used,
            wallet: &self.wallet,
            sharing: self.sharing,
            before: self.before,
            notices: &self.notices,
            now_ms: self.now_ms,
            zone: &self.zone,
        }
    }

    fn decide(&self) -> Decision {
        decide(&self.standing())
    }

    fn at(&mut self, used: u64) -> Decision {
        self.used = Used { period: used, total: used };
        self.decide()
    }

    fn buy(&mut self, bytes: u64, expires_ms: Option<i64>) {
        let number = self.wallet.lots().len() as u128 + 1;
        self.add(number, What::Package { bytes, expires_ms });
    }

    fn add(&mut self, number: u128, what: What) {
        let id = EntryId(Uuid::from_u128(number));
        self.wallet.add(&Entry { id, at_ms: self.now_ms, what, actor: "admin".into(), note: None });
    }
}

fn assert_states(case: &mut Case, table: &[(u64, State, Option<u64>)]) {
    for &(used, state, rate) in table {
        let decision = case.at(used);
        assert_eq!((decision.state, decision.rates), (state, [rate; 2]), "at {used}: {decision:?}");
    }
}

#[test]
fn the_quota_is_cut_at_the_byte_and_comes_back_at_the_turn() {
    let mut case = case(quota(100 * GIB, &[]));
    let decision = case.at(100 * GIB - 1);
    assert_eq!((decision.state, decision.allowance, decision.cut_in), (State::Active, Some(1), Some(1)));
    assert!(decision.cut_when_used_up);
    let turn = ms("2026-12-01T00:00[Asia/Shanghai]");
    assert_eq!((decision.look_again_ms, decision.period_end_ms), (Some(turn), Some(turn)));
    let decision = case.at(100 * GIB);
    assert_eq!((decision.state, decision.allowance), (State::Limited, Some(0)));
    let reason = Reason::PeriodQuota {
        since_ms: case.now_ms,
        used: 100 * GIB,
        quota: 100 * GIB,
        paid: 0,
        percent: 100,
        back_ms: Some(turn),
    };
    assert_eq!(decision.reason, reason);
    // Later the same user is still limited since then; at the turn the account is due.
    (case.before, case.now_ms) = (Some(decision.before), turn);
    let decision = case.decide();
    assert_eq!(decision.before.since_ms, ms("2026-11-25T14:03:07[Asia/Shanghai]"));
    assert_eq!(decision.look_again_ms, Some(turn), "the account has to be turned first");
    case.account = AccountPeriod { start_ms: turn, generation: 0 };
    case.used = Used { period: 0, total: 100 * GIB };
    assert_eq!(case.decide().state, State::Active);
}

#[test]
fn what_people_decided_comes_first_and_no_turn_lifts_it() {
    let mut case = case(quota(100, &[]));
    case.used = Used { period: 100, total: 100 };
    case.admin = Admin::Disabled { since_ms: 7, who: "root".into() };
    let decision = case.decide();
    assert_eq!(
        (decision.state, decision.reason),
        (State::Disabled, Reason::Disabled { since_ms: 7, who: "root".into() })
    );
    assert_eq!((decision.allowance, decision.cut_in), (Some(0), Some(0)));
    case.account.start_ms = ms("2026-12-01T00:00[Asia/Shanghai]");
    case.now_ms = case.account.start_ms;
    case.used.period = 0;
    assert_eq!(case.decide().state, State::Disabled);
    let until = case.now_ms + 1000;
    case.admin = Admin::Suspended { since_ms: 9, until_ms: Some(until), addresses: 5, window_s: 300 };
    let decision = case.decide();
    let reason = Reason::Suspended { since_ms: 9, addresses: 5, window_s: 300, until_ms: Some(until) };
    assert_eq!((decision.state, decision.reason), (State::Suspended, reason));
    assert_eq!(decision.look_again_ms, Some(until));
    case.now_ms = until;
    assert_eq!(case.decide().state, State::Active);
    case.admin = Admin::Suspended { since_ms: 9, until_ms: None, addresses: 5, window_s: 300 };
    assert_eq!(case.decide().state, State::Suspended);
}

#[test]
fn the_ladder_and_packages_are_as_the_table_says() {
    let ladder = [(80, Then::Throttle(MIB)), (100, Then::Throttle(1000)), (120, Then::Cut)];
    let mut case = case(quota(100, &ladder));
    case.buy(30, None);
    let slow = Some(MIB);
    assert_states(
        &mut case,
        &[
            (0, State::Active, None),
            (79, State::Active, None),
            (80, State::Throttled, slow),
            (99, State::Throttled, slow),
            (100, State::Active, None),
            (129, State::Active, None),
            (130, State::Throttled, Some(1000)),
            (149, State::Throttled, Some(1000)),
            (150, State::Limited, None),
        ],
    );
    let decision = case.at(0);
    assert_eq!((decision.allowance, decision.cut_in), (Some(80), Some(150)));
    assert!(!decision.cut_when_used_up);
    let decision = case.at(130);
    assert_eq!((decision.allowance, decision.cut_when_used_up), (Some(20), true));
    let Reason::PeriodThrottle { used: 100, paid: 30, percent: 100, rate: 1000, .. } = decision.reason else {
        panic!("{:?}", decision.reason)
    };
}

#[test]
fn odd_ladders_have_a_meaning() {
    // No cut: never cut. A late first step: bytes of grace. A cut stays, whatever comes after it.
    assert_eq!(case(quota(100, &[(100, Then::Throttle(9))])).at(u64::MAX).state, State::Throttled);
    let mut late = case(quota(100, &[(110, Then::Cut)]));
    assert_states(&mut late, &[(109, State::Active, None), (110, State::Limited, None)]);
    let mut twice = case(quota(100, &[(120, Then::Throttle(9)), (100, Then::Cut)]));
    assert_eq!(twice.at(130).state, State::Limited);
    // A cut within the quota is not moved by packages.
    let mut early = case(quota(100, &[(50, Then::Cut)]));
    early.buy(1000, None);
    assert_states(
        &mut early,
        &[(49, State::Active, None), (50, State::Limited, None), (500, State::Limited, None)],
    );
    // A plan of packages only.
    let mut prepaid = case(quota(0, &[]));
    assert_eq!(prepaid.at(0).state, State::Limited);
    prepaid.buy(10, None);
    let decision = prepaid.at(4);
    assert_eq!((decision.state, decision.allowance), (State::Active, Some(6)));
    assert_eq!((decision.crossed, decision.warn_in), (vec![], None));
    // The step that is slower than the plan holds, and the plan where it is slower.
    let mut plan = case(quota(100, &[(100, Then::Throttle(MIB))]));
    (plan.terms.speed_up, plan.terms.speed_down) = (Some(10), Some(5 * MIB));
    assert_eq!(plan.at(100).rates, [Some(10), Some(MIB)]);
}

#[test]
fn a_package_bought_while_cut_brings_the_user_back() {
    let mut case = case(quota(100, &[]));
    assert_eq!(case.at(103).state, State::Limited);
    let usage = Usage { account: case.account, used: 103, quota: Some(100) };
    for (number, what) in (50..).zip(case.wallet.settle(usage, case.now_ms)) {
        case.add(number, what);
    }
    let expires = case.now_ms + 5000;
    case.buy(10, Some(expires));
    let decision = case.decide();
    assert_eq!((decision.state, decision.allowance), (State::Active, Some(10)));
    assert_eq!(decision.look_again_ms, Some(expires));
    assert_eq!(case.at(113).state, State::Limited);
    case.used.period = 108;
    case.now_ms = expires;
    assert_eq!(case.decide().state, State::Limited, "the package expired with bytes left");
}

#[test]
fn the_total_quota_cuts_and_does_not_come_back() {
    let mut case = case(quota(100, &[(100, Then::Throttle(9))]));
    case.terms.total_quota_bytes = Some(150);
    case.buy(1000, None);
    let decision = case.at(90);
    assert_eq!((decision.allowance, decision.cut_in, decision.cut_when_used_up), (Some(60), Some(60), true));
    let decision = case.at(150);
    assert_eq!(decision.state, State::Limited);
    assert_eq!(decision.reason, Reason::TotalQuota { since_ms: case.now_ms, used: 150, quota: 150 });
}

#[test]
fn warnings_are_of_the_quota() {
    let mut case = case(quota(1000, &[]));
    case.buy(500, None);
    case.terms.warn_percents = vec![100, 80, 120, 80];
    let decision = case.at(799);
    assert_eq!((decision.warn_in, decision.crossed), (Some(1), vec![]));
    let decision = case.at(800);
    assert_eq!((decision.warn_in, decision.crossed), (Some(200), vec![80]));
    let decision = case.at(1100);
    assert_eq!((decision.warn_in, decision.crossed), (Some(600), vec![80, 100]));
    let decision = case.at(1700);
    assert_eq!((decision.warn_in, decision.crossed), (None, vec![80, 100, 120]));
    case.terms.quota_bytes = None;
    assert_eq!((case.decide().warn_in, case.decide().crossed), (None, vec![]));
}

#[test]
fn a_user_waits_for_the_first_use_and_expires_after_it() {
    let mut case = case(Terms { valid_days: Some(30), ..quota(100, &[]) });
    case.first_use_ms = None;
    let decision = case.at(0);
    assert_eq!((decision.state, decision.reason), (State::Pending, Reason::FirstUse { valid_days: 30 }));
    assert!(decision.state.connects() && decision.allowance == Some(100));
    case.first_use_ms = Some(case.now_ms);
    case.terms.period = PeriodKind::Never;
    let until = ms("2026-12-25T14:03:07[Asia/Shanghai]");
    assert_eq!((case.decide().state, case.decide().look_again_ms), (State::Active, Some(until)));
    let first_use_ms = case.now_ms;
    case.now_ms = until;
    let reason = Reason::ExpiredAfterUse { at_ms: until, first_use_ms, valid_days: 30 };
    assert_eq!((case.decide().state, case.decide().reason), (State::Expired, reason));
    case.expires_ms = Some(until - 5);
    assert_eq!(case.decide().reason, Reason::Expired { at_ms: until - 5 }, "the earlier one counts");
    case.terms.valid_days = None;
    case.now_ms = until - 6;
    assert_eq!((case.decide().state, case.decide().look_again_ms), (State::Active, Some(until - 5)));
}

#[test]
fn sharing_slows_only_where_it_is_asked_to() {
    let mut case = case(Terms::default());
    case.sharing = Some(SharingNow { since_ms: 3, addresses: 5 });
    assert_eq!(case.decide().state, State::Active);
    case.terms.sharing.action = SharingAction::Throttle(7);
    let decision = case.decide();
    assert_eq!((decision.state, decision.rates), (State::Throttled, [Some(7); 2]));
    assert_eq!(
        decision.reason,
        Reason::SharingThrottle { since_ms: 3, addresses: 5, window_s: 300, rate: 7 }
    );
    assert_eq!(decision.allowance, None);
}

#[test]
fn without_a_policy_nobody_is_cut() {
    let [(_, free), ..] = crate::core::terms::built_in();
    let own = Overrides { max_flows: Some(Some(3)), ..Overrides::default() };
    let terms = in_force(None, &own);
    assert_eq!((terms.quota_bytes, terms.speed_down, terms.max_flows), (None, None, Some(3)));
    assert_eq!(in_force(Some(&free), &own).quota_bytes, Some(10 * GIB));
    let mut case = case(terms);
    case.policy_known = false;
    let decision = case.at(u64::MAX);
    assert_eq!((decision.state, decision.reason), (State::Active, Reason::NoPolicy));
    assert_eq!((decision.allowance, decision.cut_in), (None, None));
}

#[test]
fn clocks_that_jump_do_not_change_the_account() {
    let mut case = case(quota(100, &[]));
    case.now_ms = ms("2026-03-01T00:00[Asia/Shanghai]");
    let decision = case.at(100);
    assert_eq!(decision.state, State::Limited);
    assert_eq!(decision.look_again_ms, Some(ms("2026-12-01T00:00[Asia/Shanghai]")));
}

fn terms() -> impl Strategy<Value = Terms> {
    let then = prop_oneof![Just(Then::Cut), (1_u64..50).prop_map(Then::Throttle)];
    let steps = proptest::collection::vec((0_u16..200, then), 0..4);
    let total = proptest::option::of(0_u64..400);
    let warns = proptest::collection::vec(0_u16..150, 0..3);
    (proptest::option::weighted(0.9, 0_u64..150), steps, total, warns).prop_map(
        |(bytes, steps, total, warns)| {
            let terms = quota(0, &steps);
            Terms { quota_bytes: bytes, total_quota_bytes: total, warn_percents: warns, ..terms }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(if std::env::var_os("BOXMETER_LONG").is_some() { 5_000 } else { 150 })
    })]

    /// Deciding at every byte is the oracle: the figures of one decision say what all later ones do.
    #[test]
    fn figures_are_exact_to_the_byte(
        terms in terms(), packages in proptest::collection::vec(0_u64..60, 0..3), settled in 0_u64..200,
        from in 0_u64..200,
    ) {
        let mut case = case(Terms { period: PeriodKind::Never, ..terms });
        case.zone = TimeZone::UTC;
        let settled = settled.min(from);
        if settled % 2 == 1 {
            case.add(99, What::Settled { base: settled, account: case.account });
        }
        for bytes in packages {
            case.buy(bytes, None);
        }
        let first = case.at(from);
        let same = |other: &Decision| other.state == first.state && other.rates == first.rates;
        for used in from..from + 500 {
            let now = case.at(used);
            let cut = now.state == State::Limited;
            let distance = used - from;
            prop_assert_eq!(cut, first.cut_in.is_some_and(|cut_in| cut_in <= distance), "cut at {}", used);
            if first.allowance.is_none_or(|allowance| distance < allowance) {
                prop_assert!(same(&now), "changed early, at {}: {:?} {:?}", used, first, now);
            } else if first.allowance == Some(distance) && distance > 0 {
                prop_assert!(!same(&now) || matches!(now.reason, Reason::PeriodThrottle { .. }), "at {}", used);
            }
            let told = now.crossed != first.crossed;
            prop_assert_eq!(told, first.warn_in.is_some_and(|warn_in| warn_in <= distance), "warned at {}", used);
        }
    }

    #[test]
    fn there_is_always_an_answer(
        bytes in any::<Option<u64>>(), total in any::<Option<u64>>(), used in any::<(u64, u64)>(),
        package in any::<(u64, Option<i64>)>(), percents in any::<(u16, u16)>(), now_ms in any::<i64>(),
        start_ms in any::<i64>(), first_use_ms in any::<Option<i64>>(), valid_days in any::<Option<u32>>(),
    ) {
        let mut case = case(quota(0, &[(percents.0, Then::Throttle(1)), (percents.1, Then::Cut)]));
        case.terms = Terms { quota_bytes: bytes, total_quota_bytes: total, valid_days, ..case.terms };
        case.buy(package.0, package.1);
        (case.now_ms, case.account.start_ms, case.first_use_ms) = (now_ms, start_ms, first_use_ms);
        case.used = Used { period: used.0, total: used.1 };
        let decision = case.decide();
        prop_assert_eq!(decision.state.connects(), decision.cut_in != Some(0));
        prop_assert!(decision.look_again_ms.is_none_or(|at| at >= now_ms));
        prop_assert!(decision.cut_in.is_none_or(|cut| decision.allowance.is_some_and(|change| change <= cut)));
    }
}

#[test]
fn a_quota_over_all_time_is_told_at_each_percentage() {
    let mut case = case(Terms { total_quota_bytes: Some(1000), ..Terms::default() });
    case.notices.percents = vec![80, 95, 100];
    let decision = case.at(799);
    assert_eq!((decision.crossed_total, decision.warn_in), (vec![], Some(1)));
    let decision = case.at(800);
    assert_eq!((decision.crossed_total, decision.warn_in), (vec![80], Some(150)));
    let decision = case.at(1000);
    assert_eq!((decision.crossed_total, decision.warn_in), (vec![80, 95, 100], None));
    assert_eq!(decision.state, State::Limited);
    case.terms.total_quota_bytes = Some(0);
    assert!(case.at(1000).crossed_total.is_empty(), "a quota of nothing is reached from the start");
}

#[test]
fn percentages_that_are_asked_for_come_to_those_of_the_terms() {
    let mut case = case(Terms { warn_percents: vec![90], ..quota(1000, &[]) });
    case.notices.percents = vec![50, 90];
    let decision = case.at(499);
    assert_eq!((decision.crossed, decision.warn_in), (vec![], Some(1)));
    assert_eq!(case.at(900).crossed, [50, 90]);
}

#[test]
fn an_expiry_is_near_when_the_time_before_it_begins() {
    const DAY: i64 = 86_400_000;
    let mut case = case(Terms::default());
    case.notices.expiry_before_ms = vec![7 * DAY, DAY];
    let expires_ms = case.now_ms + 8 * DAY;
    case.expires_ms = Some(expires_ms);
    let decision = case.decide();
    assert_eq!((decision.expiry_near, decision.look_again_ms), (None, Some(expires_ms - 7 * DAY)));
    case.now_ms = expires_ms - 7 * DAY;
    let decision = case.decide();
    assert_eq!(decision.expiry_near, Some(Near { expires_ms, before_ms: 7 * DAY }));
    case.now_ms = expires_ms - DAY;
    assert_eq!(case.decide().expiry_near, Some(Near { expires_ms, before_ms: DAY }), "the nearer one");
    case.admin = Admin::Disabled { since_ms: 0, who: String::new() };
    assert_eq!(case.decide().expiry_near, None);
    case.admin = Admin::Enabled;
    case.now_ms = expires_ms;
    assert_eq!(case.decide().expiry_near, None, "it is over");
}
