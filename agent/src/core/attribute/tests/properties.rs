//! Random connections, orders, losses and forgeries against the truth.

use proptest::prelude::*;

use super::*;

const USERS: [&str; 3] = ["alice", "bob", "carol"];
/// Few addresses and two ports, so that everything meets everything.
const PEERS: [&str; 6] = [
    "203.0.113.1:40000",
    "203.0.113.1:40001",
    "203.0.113.2:40000",
    "203.0.113.2:40001",
    "[2001:db8::1]:40000",
    "[2001:db8::1]:40001",
];

#[derive(Clone, Debug)]
struct Connection {
    peer: usize,
    /// Nobody: a stranger who never logs in.
    user: Option<usize>,
    /// Since the last connection of the same peer.
    gap_ms: u64,
    life_ms: u64,
    created_after_ms: u64,
    sighted_after_ms: u64,
    /// How often its sighting comes: 0 is lost, 2 is twice.
    sightings: u8,
    /// A stream that opens later on the same flow.
    second_stream: bool,
    /// The address that it says it comes from.
    forged: Option<usize>,
    open_lost: bool,
    close_lost: bool,
}

fn connections(forging: bool) -> impl Strategy<Value = Vec<Connection>> {
    let times = (0_u64..40, 1_u64..400, 0_u64..300, prop_oneof![0_u64..5, 0_u64..3_000]);
    let odds = (0..10_u8, any::<bool>(), 0..8_u8, 0..8_u8, 0..3_u8);
    let connection = (0..PEERS.len(), 0..4_usize, times, odds, 0..PEERS.len()).prop_map(
        move |(peer, user, (gap_ms, life_ms, created, sighted_after_ms), odds, forged)| Connection {
            peer,
            user: (user < USERS.len()).then_some(user),
            gap_ms,
            life_ms,
            created_after_ms: created.min(life_ms),
            sighted_after_ms,
            sightings: [0, 2, 2, 1, 1, 1, 1, 1, 1, 1][usize::from(odds.0)],
            second_stream: odds.1,
            // Only alice forges: her port is true, her address is not.
            forged: (forging && user == 0 && odds.4 > 0).then_some(forged / 2 * 2 + peer % 2),
            open_lost: odds.2 == 0,
            close_lost: odds.3 == 0,
        },
    );
    prop::collection::vec(connection, 1..60)
}

#[derive(Clone, Debug)]
struct Truth {
    flow: FlowSeen,
    closed_ms: u64,
    user: Option<usize>,
    open_lost: bool,
    close_lost: bool,
}

#[derive(Clone, Debug)]
enum Step {
    Open(usize),
    Close(usize),
    Sight(Sighting),
    Tick,
}

/// What really happens, and when the agent hears of it.
fn script(inbound: InboundIndex, connections: &[Connection]) -> (Vec<Truth>, Vec<(u64, Step)>) {
    let mut ends = [100_u64; PEERS.len()];
    let mut truths = Vec::new();
    let mut steps: Vec<(u64, Step)> = (0..100).map(|tick| (tick * 250, Step::Tick)).collect();
    for (number, connection) in connections.iter().enumerate() {
        let opened_ms = ends[connection.peer] + connection.gap_ms;
        let closed_ms = opened_ms + connection.life_ms;
        ends[connection.peer] = closed_ms;
        let peer = PEERS[connection.peer];
        truths.push(Truth {
            flow: flow(number as u64 + 1, inbound, Network::Tcp, peer, opened_ms),
            closed_ms,
            user: connection.user,
            open_lost: connection.open_lost,
            close_lost: connection.close_lost,
        });
        steps.push((opened_ms, Step::Open(number)));
        steps.push((closed_ms, Step::Close(number)));
        let Some(user) = connection.user else { continue };
        let reported = PEERS[connection.forged.unwrap_or(connection.peer)];
        let created_ms = opened_ms + connection.created_after_ms;
        let first = sighting(&format!("{number}"), inbound, reported, USERS[user], created_ms);
        for repeat in 0..u64::from(connection.sightings) {
            let arrives = created_ms + connection.sighted_after_ms + repeat * 700;
            steps.push((arrives, Step::Sight(first.clone())));
        }
        if connection.second_stream {
            let stream = sighting(&format!("{number}s"), inbound, reported, USERS[user], closed_ms);
            steps.push((closed_ms + connection.sighted_after_ms, Step::Sight(stream)));
        }
    }
    steps.sort_by_key(|(ms, step)| (*ms, matches!(step, Step::Sight(_))));
    (truths, steps)
}

/// Everything that the kernel would find on a walk.
fn walk(world: &mut World, truths: &[Truth], ms: u64) {
    let began = at(ms).mono_ns;
    let mut open = BTreeSet::new();
    for truth in truths.iter().filter(|truth| truth.flow.opened_ns <= began && truth.closed_ms + 9_000 > ms) {
        world.core.flow_seen(truth.flow, None, at(ms));
        if truth.closed_ms <= ms {
            world.core.flow_closed(truth.flow.id, at(truth.closed_ms).mono_ns, at(ms));
        } else {
            open.insert(truth.flow.id);
        }
    }
    world.core.reconcile_walk(&open, began, at(ms));
}

struct Outcome {
    world: World,
    effects: Vec<Effect>,
    truths: Vec<Truth>,
}

fn play(inbound: InboundIndex, connections: &[Connection]) -> Outcome {
    let (truths, steps) = script(inbound, connections);
    let mut world = World::new();
    let mut effects = Vec::new();
    let mut lost = false;
    for (ms, step) in steps {
        match step {
            Step::Open(number) if truths[number].open_lost => lost = true,
            Step::Open(number) => world.core.flow_seen(truths[number].flow, None, at(ms)),
            Step::Close(number) if truths[number].close_lost => lost = true,
            Step::Close(number) => {
                world.core.flow_seen(truths[number].flow, None, at(ms));
                world.core.flow_closed(truths[number].flow.id, at(ms).mono_ns, at(ms));
            }
            Step::Sight(sighting) => {
                if std::mem::take(&mut lost) {
                    walk(&mut world, &truths, ms);
                }
                world.core.sighting(sighting, at(ms));
            }
            Step::Tick => world.core.tick(at(ms)),
        }
        effects.extend(world.effects());
        world.assert_balanced();
    }
    for ms in [60_000, 120_000] {
        walk(&mut world, &truths, ms);
        world.core.tick(at(ms));
        effects.extend(world.effects());
    }
    world.assert_balanced();
    Outcome { world, effects, truths }
}

impl Outcome {
    /// Every flow ended with an owner or expired once; nothing is left behind.
    fn assert_settled(&self) {
        assert_eq!((self.world.core.waiting(), self.world.core.flow_count()), (0, 0));
        let mut settled = BTreeMap::new();
        for effect in &self.effects {
            match effect {
                Effect::Own { flow, .. } => *settled.entry(flow.id).or_insert(0) |= 1,
                Effect::Expire { flow } => {
                    assert_eq!(settled.insert(*flow, 2), None, "an owned flow expired, or twice: {flow:?}");
                }
                Effect::Shared { .. } | Effect::Handover { .. } | Effect::Reported { .. } => {}
            }
        }
        for truth in self.truths.iter().filter(|truth| !(truth.open_lost && truth.close_lost)) {
            assert!(settled.contains_key(&truth.flow.id), "neither owned nor expired: {truth:?}");
        }
    }

    /// The users that were given a flow that is not theirs.
    fn wrongly_billed(&self) -> BTreeSet<&'static str> {
        let mut wrong = BTreeSet::new();
        for effect in &self.effects {
            if let Effect::Own { flow, user: given, .. } = effect {
                let truth = &self.truths[flow.id.0 as usize - 1];
                if truth.user.map(|number| user(USERS[number])) != Some(*given) {
                    wrong.extend(USERS.iter().filter(|name| user(name) == *given));
                }
            }
        }
        wrong
    }

    fn owned(&self) -> BTreeSet<FlowId> {
        let owned = self.effects.iter().filter_map(|effect| match effect {
            Effect::Own { flow, .. } => Some(flow.id),
            _ => None,
        });
        owned.collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    #[test]
    fn no_flow_is_given_to_anybody_but_its_user(connections in connections(false)) {
        let outcome = play(TROJAN, &connections);
        outcome.assert_settled();
        prop_assert_eq!(outcome.wrongly_billed(), BTreeSet::new());
        prop_assert_eq!(outcome.world.core.counters().flows_shared, 0);
    }

    #[test]
    fn without_losses_and_fast_reuse_every_flow_with_a_user_is_owned(
        connections in connections(false)
    ) {
        let honest: Vec<Connection> = connections
            .into_iter()
            .map(|connection| Connection {
                gap_ms: connection.gap_ms + 5,
                sightings: connection.sightings.max(1),
                open_lost: false,
                close_lost: false,
                ..connection
            })
            .collect();
        let outcome = play(TROJAN, &honest);
        let owned = outcome.owned();
        for truth in &outcome.truths {
            prop_assert_eq!(owned.contains(&truth.flow.id), truth.user.is_some(), "{:?}", truth);
        }
    }

    #[test]
    fn forged_addresses_bill_nobody_but_the_forger(connections in connections(true)) {
        let outcome = play(WEBSOCKET, &connections);
        outcome.assert_settled();
        let mut wrong = outcome.wrongly_billed();
        wrong.remove("alice");
        prop_assert_eq!(wrong, BTreeSet::new());
    }

    #[test]
    fn honest_clients_on_forwarded_inbounds_are_never_wrong(connections in connections(false)) {
        let outcome = play(WEBSOCKET, &connections);
        outcome.assert_settled();
        prop_assert_eq!(outcome.wrongly_billed(), BTreeSet::new());
    }
}
