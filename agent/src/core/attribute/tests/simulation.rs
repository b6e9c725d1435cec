//! 16,000 short connections in twelve seconds with ports reused, as sing-box was measured with, and a
//! hundred thousand flows: nothing is wrong, and nothing takes longer with more flows.

use super::*;

const CONNECTIONS: u64 = 16_000;
const PORTS: u64 = 1_000;

/// A small generator with a seed, so that a failure can be seen again.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

#[test]
fn short_connections_with_reused_ports_all_get_their_own_user() {
    for seed in 1..=3 {
        simulate(seed);
    }
}

fn simulate(seed: u64) {
    let mut random = Random(seed);
    let mut world = World::new();
    let users = ["alice", "bob", "carol"];
    let mut free_at = vec![0_u64; PORTS as usize];
    let mut truth = BTreeMap::new();
    let mut steps = Vec::new();
    for number in 1..=CONNECTIONS {
        let start = 10 + number * 12_000 / CONNECTIONS;
        let port = random.below(PORTS) as usize;
        let opened = start.max(free_at[port]);
        let closed = opened + 2 + random.below(20);
        // Reused after five milliseconds at the soonest.
        free_at[port] = closed + 5;
        let name = users[random.below(3) as usize];
        truth.insert(FlowId(number), user(name));
        let peer = format!("203.0.113.7:{}", 30_000 + port);
        let created = opened + random.below(closed - opened);
        steps.push((opened, 0, Ok(flow(number, TROJAN, Network::Tcp, &peer, opened))));
        steps.push((closed, 1, Ok(flow(number, TROJAN, Network::Tcp, &peer, opened))));
        let late = if random.below(20) == 0 { 1_000 + random.below(3_000) } else { random.below(4) };
        steps.push((created + late, 2, Err(sighting(&number.to_string(), TROJAN, &peer, name, created))));
    }
    steps.sort_by_key(|&(ms, order, _)| (ms, order));
    let mut owned = BTreeMap::new();
    let mut last = 0;
    for (ms, order, step) in steps {
        match step {
            Ok(flow) if order == 0 => world.core.flow_seen(flow, None, at(ms)),
            Ok(flow) => world.core.flow_closed(flow.id, at(ms).mono_ns, at(ms)),
            Err(sighting) => world.core.sighting(sighting, at(ms)),
        }
        if ms / 1_000 != last {
            last = ms / 1_000;
            world.core.tick(at(ms));
        }
        for effect in world.effects() {
            if let Effect::Own { flow, user, .. } = effect {
                assert_eq!(owned.insert(flow.id, user), None, "owned twice");
            }
        }
    }
    world.ticks(60_000);
    world.assert_balanced();
    assert_eq!(owned, truth, "seed {seed}");
    assert_eq!((world.core.flow_count(), world.core.waiting()), (0, 0));
    assert_eq!(world.core.next_deadline(), None);
}

#[test]
fn a_flow_takes_no_more_memory_than_planned() {
    let row = size_of::<FlowRef>() + size_of::<Flow>();
    let index = size_of::<FlowId>() + size_of::<Key>();
    assert!(row + index <= 112, "{row} + {index} bytes");
}

#[test]
fn a_hundred_thousand_flows_are_told_and_ended() {
    let mut world = World::new();
    let peer =
        |number: u64| format!("10.0.{}.{}:{}", number >> 8 & 255, number & 255, 1_024 + number / 65_536);
    for number in 0..100_000 {
        world.opens(flow(number, TROJAN, Network::Tcp, &peer(number), 10), 10);
        world.sights(sighting(&number.to_string(), TROJAN, &peer(number), "alice", 11), 11);
    }
    assert_eq!(world.core.live(user("alice")).flows, 100_000);
    assert_eq!(world.core.live(user("alice")).addresses, 65_536);
    assert_eq!(world.core.unowned_live().count(), 0);
    world.core.reconcile_walk(&BTreeSet::new(), at(20).mono_ns, at(20));
    world.ticks(10_021);
    assert_eq!(world.core.flow_count(), 0);
    assert_eq!(world.core.live(user("alice")), Live::default());
}
