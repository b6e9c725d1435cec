//! Addresses that clients forge: traffic is neither free nor billed to somebody else.

use super::*;
use Network::Tcp;

const ALICE: &str = "198.51.100.1:40000";
const BOB: &str = "203.0.113.7:40000";
const NOBODY: &str = "9.9.9.9:40000";

fn socket(id: u64, peer: &str, opened_ms: u64) -> FlowSeen {
    flow(id, WEBSOCKET, Tcp, peer, opened_ms)
}

fn seen(id: &str, peer: &str, name: &str, created_ms: u64) -> Sighting {
    sighting(id, WEBSOCKET, peer, name, created_ms)
}

fn owners(world: &World) -> Vec<(u64, Option<UserId>)> {
    let mut owners: Vec<_> = world.core.flows().map(|flow| (flow.id.0, flow.user)).collect();
    owners.sort_unstable();
    owners
}

#[test]
fn an_honest_address_needs_no_waiting() {
    let mut world = World::new();
    world.opens(socket(1, ALICE, 100), 100);
    assert_eq!(
        world.sights(seen("a", ALICE, "alice", 101), 102),
        own(socket(1, ALICE, 100), "alice", OwnerBy::Api)
    );
}

#[test]
fn an_address_without_flow_is_known_by_its_port_after_a_moment() {
    let mut world = World::new();
    world.opens(socket(1, ALICE, 100), 100);
    assert_eq!(world.sights(seen("a", NOBODY, "alice", 101), 102), []);
    assert_eq!(world.core.next_deadline(), Some(at(352).mono_ns));
    assert_eq!(world.ticks(351), []);
    assert_eq!(world.ticks(352), own(socket(1, ALICE, 100), "alice", OwnerBy::ByPort));
    assert_eq!(world.core.counters().flows_by_port, 1);
    assert_eq!(world.sights(seen("b", NOBODY, "alice", 400), 401), [], "the next stream repeats");
    world.assert_balanced();
}

#[test]
fn a_flow_that_comes_within_the_moment_makes_it_ambiguous() {
    let mut world = World::new();
    world.opens(socket(1, ALICE, 100), 100);
    world.sights(seen("a", NOBODY, "alice", 105), 106);
    world.opens(socket(2, BOB, 101), 110);
    assert_eq!(world.ticks(400), []);
    assert_eq!(world.core.counters().sightings_ambiguous, 1);
}

#[test]
fn the_forged_address_of_a_known_victim_with_the_same_port_bills_the_forger() {
    let mut world = World::new();
    world.opens(socket(1, BOB, 100), 100);
    world.sights(seen("b", BOB, "bob", 101), 102);
    world.opens(socket(2, ALICE, 200), 200);
    assert_eq!(world.sights(seen("a", BOB, "alice", 201), 202), []);
    assert_eq!(world.ticks(500), own(socket(2, ALICE, 200), "alice", OwnerBy::ByPort));
    assert_eq!(owners(&world), [(1, Some(user("bob"))), (2, Some(user("alice")))]);
    assert_eq!(world.core.counters().flows_shared, 0);
    world.assert_balanced();
}

#[test]
fn the_forged_address_of_a_victim_with_another_port_bills_the_forger() {
    let mut world = World::new();
    world.opens(socket(1, "203.0.113.7:50001", 100), 100);
    world.opens(socket(2, ALICE, 200), 200);
    world.sights(seen("a", BOB, "alice", 201), 202);
    world.sights(seen("b", "203.0.113.7:50001", "bob", 203), 204);
    world.ticks(500);
    assert_eq!(owners(&world), [(1, Some(user("bob"))), (2, Some(user("alice")))]);
}

#[test]
fn two_claims_on_one_address_while_both_flows_are_unknown_are_given_to_nobody() {
    let mut world = World::new();
    world.opens(socket(1, BOB, 100), 100);
    world.opens(socket(2, ALICE, 100), 100);
    world.sights(seen("a", BOB, "alice", 105), 106);
    world.sights(seen("b", BOB, "bob", 105), 107);
    assert_eq!(world.ticks(5_000), []);
    assert_eq!(world.core.counters().sightings_ambiguous, 2);
    world.assert_balanced();
}

#[test]
fn honest_clients_with_the_same_port_each_get_their_own() {
    let mut world = World::new();
    world.opens(socket(1, BOB, 100), 100);
    world.opens(socket(2, ALICE, 100), 100);
    assert_eq!(world.sights(seen("a", ALICE, "alice", 105), 106), []);
    assert_eq!(world.sights(seen("b", BOB, "bob", 105), 107), []);
    assert_eq!(world.ticks(400).len(), 2);
    assert_eq!(owners(&world), [(1, Some(user("bob"))), (2, Some(user("alice")))]);
    world.assert_balanced();
}

#[test]
fn a_stranger_with_the_same_port_delays_but_does_not_stop_an_honest_client() {
    let mut world = World::new();
    world.opens(socket(1, NOBODY, 50), 50);
    world.opens(socket(2, ALICE, 100), 100);
    assert_eq!(world.sights(seen("a", ALICE, "alice", 105), 106), []);
    assert_eq!(world.ticks(400), own(socket(2, ALICE, 100), "alice", OwnerBy::Api));
    assert_eq!(owners(&world), [(1, None), (2, Some(user("alice")))]);
}

#[test]
fn a_user_with_two_addresses_does_not_get_a_strangers_flow() {
    let mut world = World::new();
    world.opens(socket(1, ALICE, 100), 100);
    world.sights(seen("a", ALICE, "alice", 101), 102);
    world.opens(socket(2, BOB, 200), 200);
    assert_eq!(world.sights(seen("b", NOBODY, "alice", 210), 211), []);
    assert_eq!(world.ticks(1_000), []);
    assert_eq!(owners(&world), [(1, Some(user("alice"))), (2, None)]);
}

#[test]
fn behind_a_reverse_proxy_ports_tell_users_apart() {
    let mut world = World::new();
    for (id, port, name) in [(1, 40_001, "alice"), (2, 40_002, "bob")] {
        world.opens(socket(id, &format!("127.0.0.1:{port}"), 100), 100);
        world.sights(seen(name, &format!("203.0.113.{id}:{port}"), name, 101), 102);
    }
    world.ticks(400);
    assert_eq!(owners(&world), [(1, Some(user("alice"))), (2, Some(user("bob")))]);
    assert_eq!(world.core.counters().flows_by_port, 2);
}

#[test]
fn a_forged_address_does_not_reach_inbounds_that_report_the_true_one() {
    let mut world = World::new();
    world.opens(flow(1, TROJAN, Tcp, ALICE, 100), 100);
    world.sights(sighting("a", TROJAN, BOB, "alice", 101), 102);
    assert_eq!(world.ticks(1_000), []);
}

#[test]
fn many_flows_with_one_port_are_ambiguous_and_cheap() {
    let mut world = World::new();
    for id in 0..=SAME_PORT_MAX as u64 {
        world.opens(socket(id, &format!("[2001:db8::{id:x}]:40000"), 100), 100);
    }
    world.sights(seen("a", "[2001:db8::1]:40000", "alice", 105), 106);
    assert_eq!(world.ticks(1_000), []);
    assert_eq!(world.core.counters().sightings_ambiguous, 1);
}
