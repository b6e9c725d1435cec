//! Limits and sharing: cases that people know, and properties against simple oracles.

use std::collections::BTreeSet;

use proptest::prelude::*;
use uuid::Uuid;

use super::*;

const ALICE: UserId = UserId(Uuid::from_u128(1));
const SECOND: u64 = 1_000_000_000;
const NOBODY: [u64; 0] = [];

fn limits(max_flows: Option<u32>, max_addresses: Option<u32>, wins: Wins) -> Limits {
    Limits { max_flows, max_addresses, wins, ..Limits::NONE }
}

/// A crowd, its clock, and which flows its effects block.
struct World {
    crowd: Crowd,
    now_ns: u64,
    open: BTreeMap<u64, Opened>,
    blocked: BTreeSet<u64>,
    told: Vec<Effect>,
}

impl World {
    fn new(limits: Limits) -> World {
        let mut world = World {
            crowd: Crowd::default(),
            now_ns: 1000 * SECOND,
            open: BTreeMap::new(),
            blocked: BTreeSet::new(),
            told: Vec::new(),
        };
        world.limit(limits);
        world
    }

    fn limit(&mut self, limits: Limits) {
        let mut out = Vec::new();
        self.crowd.set_limits(ALICE, limits, self.now_ns, &mut out);
        self.take(out);
    }

    fn take(&mut self, out: Vec<Effect>) {
        for effect in out {
            match effect {
                Effect::Block { flow, user, .. } => {
                    assert_eq!(user, ALICE);
                    assert!(self.open.contains_key(&flow.0), "only open flows are blocked: {flow:?}");
                    assert!(self.blocked.insert(flow.0), "blocked twice: {flow:?}");
                }
                Effect::Unblock { flow, .. } => {
                    assert!(self.blocked.remove(&flow.0), "was not blocked: {flow:?}")
                }
                ref told => self.told.push(told.clone()),
            }
        }
        for &flow in self.open.keys() {
            assert_eq!(self.crowd.is_blocked(FlowId(flow)), self.blocked.contains(&flow), "flow {flow}");
        }
    }

    fn open_as(&mut self, flow: u64, peer: &str, address_known: bool) {
        let peer = peer.parse().expect("an address");
        let opened = Opened { flow: FlowId(flow), user: ALICE, peer, address_known };
        let mut out = Vec::new();
        self.open.insert(flow, opened);
        self.crowd.opened(opened, self.now_ns, &mut out);
        self.take(out);
    }

    fn open(&mut self, flow: u64, peer: &str) {
        self.open_as(flow, peer, true);
    }

    fn end(&mut self, flow: u64) {
        let mut out = Vec::new();
        self.open.remove(&flow);
        self.blocked.remove(&flow);
        self.crowd.ended(FlowId(flow), self.now_ns, &mut out);
        self.take(out);
    }

    /// A second with traffic of these flows.
    fn second(&mut self, flows: &[u64]) {
        self.now_ns += SECOND;
        for &flow in flows.iter().filter(|flow| !self.blocked.contains(flow)) {
            let active = Active { flow: FlowId(flow), upload: 2000, download: 100_000 };
            self.crowd.active(active, self.now_ns);
        }
        let mut out = Vec::new();
        self.crowd.tick(self.now_ns, &mut out);
        self.take(out);
    }

    fn seconds(&mut self, count: u64, flows: &[u64]) {
        (0..count).for_each(|_| self.second(flows));
    }

    fn blocked(&self) -> Vec<u64> {
        self.blocked.iter().copied().collect()
    }
}

#[test]
fn too_many_flows_are_blocked_by_who_wins_and_come_back() {
    let mut newest = World::new(limits(Some(2), None, Wins::Newest));
    let mut oldest = World::new(limits(Some(2), None, Wins::Oldest));
    for flow in 1..=4 {
        newest.open(flow, "203.0.113.1");
        oldest.open(flow, "203.0.113.1");
    }
    assert_eq!((newest.blocked(), oldest.blocked()), (vec![1, 2], vec![3, 4]));
    newest.end(4);
    oldest.end(1);
    assert_eq!((newest.blocked(), oldest.blocked()), (vec![1], vec![4]));
    newest.limit(limits(None, None, Wins::Newest));
    oldest.limit(limits(Some(1), None, Wins::Oldest));
    assert_eq!((newest.blocked(), oldest.blocked()), (vec![], vec![3, 4]));
    assert_eq!(newest.crowd.counters().blocked_flows, 2);
}

#[test]
fn a_phone_that_moves_is_never_refused() {
    for wins in [Wins::Newest, Wins::Oldest] {
        let mut world = World::new(limits(None, Some(1), wins));
        world.open(1, "203.0.113.1");
        world.seconds(100, &[1]);
        // The old connection stays open without a sign of life; some seconds both were in use.
        world.open(2, "198.51.100.7");
        world.seconds(20, &[1, 2]);
        world.seconds(300, &[2]);
        world.open(3, "203.0.113.1");
        world.seconds(300, &[3]);
        assert_eq!(world.blocked(), NOBODY);
    }
}

#[test]
fn bytes_to_a_client_that_has_left_prove_nothing() {
    let mut world = World::new(limits(None, Some(1), Wins::Newest));
    world.open(1, "203.0.113.1");
    world.seconds(100, &[1]);
    world.open(2, "198.51.100.7");
    for _ in 0..200 {
        let late = Active { flow: FlowId(1), upload: 0, download: 1_000_000 };
        world.crowd.active(late, world.now_ns);
        world.second(&[2]);
    }
    assert_eq!(world.blocked(), NOBODY);
}

#[test]
fn two_clients_at_once_are_one_too_many() {
    let mut world = World::new(limits(None, Some(1), Wins::Newest));
    world.open(1, "203.0.113.1");
    world.seconds(100, &[1]);
    world.open(2, "198.51.100.7");
    world.seconds(59, &[1, 2]);
    assert_eq!(world.blocked(), NOBODY, "within the grace");
    world.second(&[1, 2]);
    assert_eq!(world.blocked(), [1], "the newest wins");
    world.open(3, "203.0.113.1");
    assert_eq!(world.blocked(), [1, 3], "what the refused address opens is blocked at once");
    world.seconds(29, &[]);
    assert_eq!(world.blocked(), [1, 3]);
    world.second(&[]);
    assert_eq!(world.blocked(), NOBODY, "the other one is silent: there is room");
    assert_eq!(world.crowd.counters().blocked_addresses, 2);

    let mut world = World::new(limits(None, Some(1), Wins::Oldest));
    world.open(1, "203.0.113.1");
    world.open(2, "198.51.100.7");
    world.seconds(60, &[1, 2]);
    assert_eq!(world.blocked().len(), 1);
    world.limit(limits(None, Some(2), Wins::Oldest));
    assert_eq!(world.blocked(), NOBODY, "raising the limit lets them in");
}

#[test]
fn ipv6_counts_by_64_and_mapped_ipv4_as_ipv4() {
    let mut world = World::new(limits(None, Some(1), Wins::Newest));
    for (flow, peer) in (1..).zip(["2001:db8::1", "2001:db8::2", "2001:db8::ffff:1:2:3"]) {
        world.open(flow, peer);
    }
    world.seconds(100, &[1, 2, 3]);
    assert_eq!(world.blocked(), NOBODY);
    world.open(4, "2001:db8:0:1::1");
    world.seconds(100, &[1, 2, 3, 4]);
    assert_eq!(world.blocked(), [1, 2, 3]);
    assert_eq!(address("::ffff:192.0.2.1".parse().unwrap()), "192.0.2.1".parse::<IpAddr>().unwrap());
}

#[test]
fn unknown_addresses_count_as_flows_only() {
    let sharing = Sharing { networks: 1, window_s: 60, action: SharingAction::Note };
    let mut world = World::new(Limits { sharing, ..limits(Some(4), Some(1), Wins::Oldest) });
    for flow in 1..=5 {
        world.open_as(flow, &format!("203.0.{flow}.1"), false);
    }
    world.seconds(100, &[1, 2, 3, 4]);
    assert_eq!((world.blocked(), world.told.len()), (vec![5], 0));
}

#[test]
fn a_client_that_moved_makes_room_for_its_own_flows() {
    let mut world = World::new(limits(Some(2), None, Wins::Oldest));
    world.open(1, "203.0.113.1");
    world.open(2, "203.0.113.1");
    world.seconds(10, &[1, 2]);
    world.open(3, "198.51.100.7");
    assert_eq!(world.blocked(), [3]);
    // It tries again and again, as clients do.
    world.seconds(13, &[]);
    world.open(4, "198.51.100.7");
    world.seconds(2, &[]);
    assert_eq!(world.blocked(), [1, 2]);
}

/// Looks come every [`LOOKS_WITHIN_NS`]: a busy client has not moved in between.
#[test]
fn a_busy_client_between_two_looks_has_not_moved() {
    let mut world = World::new(limits(Some(2), None, Wins::Oldest));
    world.open(1, "203.0.113.1");
    world.open(2, "203.0.113.1");
    for _ in 0..3 {
        world.seconds(LOOKS_WITHIN_NS / SECOND - 1, &[]);
        world.second(&[1, 2]);
    }
    world.seconds(LOOKS_WITHIN_NS / SECOND - 1, &[]);
    world.open(3, "198.51.100.7");
    assert_eq!(world.blocked(), [3]);
}

/// Traffic is found where the caller looks as often as it is told to.
#[test]
fn looks_are_as_often_as_a_window_needs() {
    for (window_s, every_s) in [(10, 1), (300, 5), (1200, 10)] {
        let mut world = sharing_world(1, window_s);
        world.open(1, "203.0.113.1");
        world.second(&[1]);
        assert_eq!(world.crowd.looks_within_ns(), LOOKS_WITHIN_NS, "one client is no reason");
        world.open(2, "198.51.100.7");
        world.second(&[1, 2]);
        assert_eq!(world.crowd.looks_within_ns(), every_s * SECOND, "{window_s}");
        for _ in 0..4 {
            world.seconds(every_s - 1, &[]);
            world.second(&[1, 2]);
        }
        assert!(matches!(world.told[..], [Effect::SharingSuspected { .. }]), "{window_s}: {:?}", world.told);
    }
}

fn sharing_world(networks: u32, window_s: u32) -> World {
    let sharing = Sharing { networks, window_s, action: SharingAction::Warn };
    World::new(Limits { sharing, ..Limits::NONE })
}

#[test]
fn many_at_once_are_suspected_once_per_window_with_evidence() {
    let mut world = sharing_world(3, 300);
    for flow in 1..=5 {
        world.open(flow, &format!("203.0.{flow}.9"));
    }
    world.seconds(9, &[1, 2, 3, 4, 5]);
    assert_eq!(world.told, [], "two slots are no sharing");
    world.seconds(20, &[1, 2, 3, 4, 5]);
    let [Effect::SharingSuspected { user: ALICE, evidence, action: SharingAction::Warn }] = &world.told[..]
    else {
        panic!("{:?}", world.told)
    };
    assert_eq!((evidence.peak, evidence.allowed, evidence.networks, evidence.overlap_s), (5, 3, 5, 15));
    assert_eq!(evidence.score, 40 + 10 + 1 + 10);
    assert_eq!(evidence.addresses.len(), 5);
    assert!(
        evidence.addresses.iter().all(|seen| seen.bytes >= 900_000 && seen.active_s == 15),
        "{evidence:?}"
    );
    world.seconds(250, &[1, 2, 3, 4, 5]);
    assert_eq!(world.told.len(), 1);
    world.seconds(32, &[1, 2, 3, 4, 5]);
    assert_eq!(world.told.len(), 2);
    world.seconds(320, &[1]);
    assert_eq!(world.told.last(), Some(&Effect::SharingOver { user: ALICE }));
    world.seconds(320, &[1]);
    assert_eq!(world.told.len(), 3);
    assert_eq!(world.crowd.counters().suspicions, 2);
}

#[test]
fn one_after_the_other_or_without_traffic_is_no_sharing() {
    let mut world = sharing_world(3, 300);
    for flow in 1..=20 {
        world.open(flow, &format!("203.0.{flow}.9"));
        world.seconds(12, &[flow]);
    }
    assert_eq!(world.told, [], "one client with many addresses");
    let mut world = sharing_world(3, 300);
    for flow in 1..=5 {
        world.open(flow, &format!("203.0.{flow}.9"));
    }
    world.seconds(100, &[1, 2, 3]);
    world.second(&[1, 2, 3, 4]);
    world.seconds(100, &[1, 2, 4]);
    assert_eq!(world.told, [], "three clients, of which one has moved");
    let mut world = sharing_world(3, 300);
    for flow in 1..=6 {
        world.open(flow, &format!("203.0.{flow}.9"));
    }
    for _ in 0..300 {
        for flow in 1..=6 {
            let keepalive = Active { flow: FlowId(flow), upload: 100, download: 100 };
            world.crowd.active(keepalive, world.now_ns);
        }
        world.second(&[1, 2, 3]);
    }
    assert_eq!(world.told, [], "keepalives are no traffic");
}

#[test]
fn tables_are_bounded_and_say_so() {
    let mut world = World::new(limits(None, Some(1), Wins::Newest));
    for flow in 0..=ADDRESSES_MAX as u64 + 2 {
        world.open(flow, &format!("10.{}.{}.1", flow / 200, flow % 200));
    }
    assert_eq!(world.crowd.counters().addresses_full, 3);
    for flow in 0..=ADDRESSES_MAX as u64 + 2 {
        world.end(flow);
    }
    world.seconds(400, &[]);
    assert!(world.crowd.watched.is_empty() && world.crowd.flows.is_empty());
    assert!(world.crowd.people[&ALICE].is_idle());
}

#[test]
fn another_owner_takes_the_flow_over() {
    let mut world = World::new(limits(Some(1), None, Wins::Oldest));
    world.open(1, "203.0.113.1");
    world.open(2, "203.0.113.1");
    assert_eq!(world.blocked(), [2]);
    let bob = UserId(Uuid::from_u128(2));
    let peer = "203.0.113.1".parse().unwrap();
    let mut out = Vec::new();
    world.crowd.opened(
        Opened { flow: FlowId(1), user: bob, peer, address_known: true },
        world.now_ns,
        &mut out,
    );
    assert_eq!(out, [Effect::Unblock { flow: FlowId(2), user: ALICE }]);
    world.crowd.ended(FlowId(1), world.now_ns, &mut out);
    assert!(!world.crowd.people.contains_key(&bob), "a user without flows and limits leaves nothing");
}

#[derive(Clone, Debug)]
enum Step {
    Open {
        address: u8,
        known: bool,
    },
    End(prop::sample::Index),
    /// Which of the first 8 addresses send, by bit; how many seconds.
    Run {
        sending: u8,
        seconds: u8,
    },
    Limit(Limits),
}

fn any_limits() -> impl Strategy<Value = Limits> {
    let max = || proptest::option::of(0_u32..5);
    let sharing = (0_u32..3, 0_u32..90).prop_map(|(networks, window_s)| Sharing {
        networks,
        window_s,
        action: SharingAction::Note,
    });
    (max(), max(), prop_oneof![Just(Wins::Newest), Just(Wins::Oldest)], sharing).prop_map(
        |(max_flows, max_addresses, wins, sharing)| Limits { max_flows, max_addresses, wins, sharing },
    )
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0_u8..6, any::<bool>()).prop_map(|(address, known)| Step::Open { address, known }),
        3 => any::<prop::sample::Index>().prop_map(Step::End),
        4 => (any::<u8>(), 1_u8..80).prop_map(|(sending, seconds)| Step::Run { sending, seconds }),
        1 => any_limits().prop_map(Step::Limit),
    ];
    proptest::collection::vec(step, 1..50)
}

/// Plays steps; `known` overrides whether addresses are known.
fn play(world: &mut World, step: &Step, number: u64, all_unknown: bool) {
    let last = |peer: &IpAddr| match peer {
        IpAddr::V4(v4) => v4.octets()[3],
        IpAddr::V6(_) => 0,
    };
    match step {
        Step::Open { address, known } => {
            world.open_as(number, &format!("192.0.2.{address}"), *known && !all_unknown);
        }
        Step::End(index) => {
            let flows: Vec<u64> = world.open.keys().copied().collect();
            if !flows.is_empty() {
                world.end(*index.get(&flows));
            }
        }
        Step::Run { sending, seconds } => {
            let sends = |opened: &&Opened| sending >> last(&opened.peer) & 1 == 1;
            let flows: Vec<u64> = world.open.values().filter(sends).map(|opened| opened.flow.0).collect();
            world.seconds(u64::from(*seconds), &flows);
        }
        Step::Limit(limits) => world.limit(*limits),
    }
}

fn cases() -> u32 {
    if std::env::var_os("BOXMETER_LONG").is_some() { 5_000 } else { 200 }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(cases()) })]

    /// Without addresses the flows that pass are exactly the newest, or the oldest, of those that are open.
    #[test]
    fn flow_limits_are_as_the_oracle_says(first in any_limits(), steps in steps()) {
        let mut world = World::new(first);
        let mut now = first;
        for (number, step) in (0..).zip(steps) {
            let step = match step {
                // Changing who wins in between has no single right answer.
                Step::Limit(limits) => Step::Limit(Limits { wins: first.wins, ..limits }),
                step => step,
            };
            play(&mut world, &step, number, true);
            if let Step::Limit(limits) = step {
                now = limits;
            }
            let open: Vec<u64> = world.open.keys().copied().collect();
            let room = now.max_flows.map_or(open.len(), |max| (max as usize).min(open.len()));
            let blocked = match now.wins {
                Wins::Newest => open[..open.len() - room].to_vec(),
                Wins::Oldest => open[room..].to_vec(),
            };
            prop_assert_eq!(world.blocked(), blocked);
        }
    }

    /// After each step: limits hold, nobody is blocked without one, and what was told adds up
    /// (checked by [`World::take`]).
    #[test]
    fn limits_hold_and_block_nobody_without_need(first in any_limits(), steps in steps()) {
        let mut world = World::new(first);
        let mut now = first;
        for (number, step) in (0..).zip(&steps) {
            play(&mut world, step, number, false);
            if let Step::Limit(limits) = step {
                now = *limits;
            }
            let passing = world.open.len() - world.blocked.len();
            prop_assert!(now.max_flows.is_none_or(|max| passing <= max as usize));
            if now.max_flows.is_none_or(|max| world.open.len() <= max as usize) && now.max_addresses.is_none() {
                prop_assert_eq!(world.blocked(), NOBODY);
            }
            let person = world.crowd.people.get(&ALICE);
            if let (Some(person), Some(max), Step::Run { .. }) = (person, now.max_addresses, step) {
                let counting = person.counting(&Timing::default(), world.now_ns);
                prop_assert!(counting <= max as usize, "{} addresses count", counting);
            }
        }
    }
}
