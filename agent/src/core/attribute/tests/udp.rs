//! UDP peers: sharing, hand-over, coming back; and connections metered by their reported totals.

use super::*;
use Network::{Tcp, Udp};

const PEER: &str = "203.0.113.7:51000";

fn peer(id: u64, opened_ms: u64) -> FlowSeen {
    flow(id | 1 << 63, HYSTERIA, Udp, PEER, opened_ms)
}

fn seen(id: &str, name: &str, created_ms: u64) -> Sighting {
    sighting(id, HYSTERIA, PEER, name, created_ms)
}

#[test]
fn streams_of_one_user_repeat() {
    let mut world = World::new();
    world.opens(peer(1, 100), 100);
    assert_eq!(world.sights(seen("a", "alice", 101), 102), own(peer(1, 100), "alice", OwnerBy::Api));
    assert_eq!(world.sights(seen("b", "alice", 900), 901), []);
    assert_eq!(world.core.udp_connection_count(), 2);
    world.assert_balanced();
}

#[test]
fn two_users_at_the_same_time_share() {
    let mut world = World::new();
    world.opens(peer(1, 100), 100);
    world.sights(seen("a", "alice", 101), 102);
    let shared = Effect::Shared { flow: peer(1, 0).id, user: user("bob") };
    assert_eq!(world.sights(seen("b", "bob", 200), 201), [shared]);
}

#[test]
fn the_next_user_at_an_address_takes_over_when_the_first_has_gone() {
    let mut world = World::new();
    world.opens(peer(1, 100), 100);
    world.sights(seen("a", "alice", 101), 102);
    world.ends("a", 150);
    let handover = Effect::Handover { flow: peer(1, 0).id };
    assert_eq!(world.sights(seen("b", "bob", 200), 201), [handover]);
    assert_eq!(world.sights(seen("c", "bob", 202), 203), []);
    world.closes(peer(1, 0).id.0, 210);
    assert_eq!(world.opens(peer(2, 215), 216), own(peer(2, 215), "bob", OwnerBy::Api));
    assert_eq!(world.core.counters().sightings_handed_over, 2);
    assert_eq!(world.core.counters().flows_handed_over, 1);
    world.assert_balanced();
}

#[test]
fn a_peer_that_comes_back_is_whose_connections_are_open() {
    let mut world = World::new();
    world.opens(peer(1, 100), 100);
    world.sights(seen("a", "alice", 101), 102);
    world.closes(peer(1, 0).id.0, 60_000);
    assert_eq!(world.opens(peer(2, 90_000), 90_000), own(peer(2, 90_000), "alice", OwnerBy::Api));
    world.ends("a", 91_000);
    world.closes(peer(2, 0).id.0, 95_000);
    assert_eq!(world.opens(peer(3, 99_000), 99_000), [], "its connection has ended");
}

#[test]
fn a_peer_that_comes_back_too_late_is_nobodys() {
    let mut world = World::new();
    world.opens(peer(1, 100), 100);
    world.sights(seen("a", "alice", 101), 102);
    world.closes(peer(1, 0).id.0, 1_000);
    assert_eq!(world.opens(peer(2, 302_000), 302_000), []);
}

#[test]
fn a_replay_forgets_connections_whose_end_was_lost() {
    let mut world = World::new();
    world.opens(peer(1, 100), 100);
    world.sights(seen("a", "alice", 101), 102);
    world.sights(seen("b", "alice", 103), 104);
    world.core.replay_begins(SourceKind::Api, at(1_000));
    world.sights(seen("b", "alice", 103), 1_010);
    world.ticks(6_000);
    assert_eq!(world.core.udp_connection_count(), 1);
    world.ends("b", 6_100);
    let handover = Effect::Handover { flow: peer(1, 0).id };
    assert_eq!(world.sights(seen("c", "bob", 6_200), 6_201), [handover]);
}

#[test]
fn a_sighting_of_an_ended_udp_flow_is_late() {
    let mut world = World::new();
    world.opens(peer(1, 100), 100);
    world.closes(peer(1, 0).id.0, 200);
    assert_eq!(world.sights(seen("a", "alice", 150), 300), []);
    assert_eq!(world.core.counters().sightings_late, 1);
    assert_eq!(world.ticks(20_000), [], "the daemon settles ended peers itself");
    assert_eq!(world.core.flow_count(), 0);
}

#[test]
fn an_end_that_comes_while_the_sighting_waits_is_not_forgotten() {
    let mut world = World::new();
    world.sights(seen("a", "alice", 101), 102);
    world.ends("a", 103);
    world.opens(peer(1, 100), 110);
    assert_eq!(world.core.udp_connection_count(), 0);
}

#[test]
fn reported_totals_count_each_byte_once() {
    let mut world = World::new();
    let totals = |id: &str, created_ms, up, down, closed| Sighting {
        network: Udp,
        totals: Some([up, down]),
        closed,
        ..sighting(id, MIXED, PEER, "alice", created_ms)
    };
    let told = |id: &str, bytes, totals, ended| {
        let (user, connection) = (user("alice"), id.into());
        vec![Effect::Reported(ReportedBytes { user, inbound: MIXED, bytes, connection, totals, ended })]
    };
    assert_eq!(world.sights(totals("a", 10, 100, 5, false), 20), told("a", [100, 5], [100, 5], false));
    assert_eq!(world.sights(totals("a", 10, 100, 5, false), 30), []);
    assert_eq!(
        world.sights(totals("a", 10, 90, 7, false), 40),
        told("a", [0, 2], [100, 7], false),
        "never back"
    );
    world.core.ended(SourceKind::Api, "a", Some([150, 7]), at(50));
    let last = told("a", [50, 0], [150, 7], false);
    assert_eq!(world.effects(), [last, told("a", [0, 0], [150, 7], true)].concat());
    world.core.ended(SourceKind::Api, "a", Some([150, 7]), at(51));
    assert_eq!(world.effects(), [], "sing-box tells some ends twice");
    assert_eq!(world.sights(totals("a", 10, 150, 7, true), 60), [], "and ended connections again");
    let old = Sighting { created_ms: Some(START_MS - 9_000), ..totals("b", 0, 1_000, 0, false) };
    assert_eq!(world.sights(old, 70), [], "an earlier agent may have counted these");
    world.core.ended(SourceKind::Api, "b", Some([1_200, 0]), at(80));
    let last = told("b", [200, 0], [1_200, 0], false);
    assert_eq!(world.effects(), [last, told("b", [0, 0], [1_200, 0], true)].concat());
    world.assert_balanced();
}

fn reported_bytes(effects: &[Effect]) -> [u64; 2] {
    effects.iter().fold([0; 2], |sum, effect| match effect {
        Effect::Reported(told) => [sum[0] + told.bytes[0], sum[1] + told.bytes[1]],
        other => panic!("{other:?}"),
    })
}

/// A client that forges the address on http or mixed takes the port with it: its flow stays nobody's, and
/// the totals that sing-box reports are the user's. Somebody else's flow is never taken for it.
#[test]
fn an_address_without_a_port_is_counted_by_its_totals() {
    let mut world = World::new();
    world.opens(flow(1, MIXED, Tcp, "10.0.0.1:1000", 100), 100);
    let forged =
        |totals| Sighting { totals: Some(totals), ..sighting("a", MIXED, "9.9.9.9:0", "alice", 101) };
    assert_eq!(reported_bytes(&world.sights(forged([0, 0]), 102)), [0, 0]);
    assert_eq!(reported_bytes(&world.sights(forged([70, 900]), 30_000)), [70, 900], "a renewal tells totals");
    assert_eq!(world.core.unowned_live().count(), 1);
    world.core.ended(SourceKind::Api, "a", Some([80, 1_000]), at(30_001));
    assert_eq!(reported_bytes(&world.effects()), [10, 100]);
    let elsewhere = Sighting { totals: Some([5, 5]), ..sighting("b", TROJAN, "9.9.9.9:0", "alice", 101) };
    assert_eq!(world.sights(elsewhere, 30_002), [], "no other inbound loses ports");
    assert_eq!(world.core.counters().sightings_without_port, 1);
    let log = Sighting { source: SourceKind::ClashLogs, totals: None, ..forged([0, 0]) };
    assert_eq!(world.sights(log, 30_003), []);
    assert_eq!(world.core.counters().sightings_without_totals, 1);
    world.assert_balanced();
}

/// UDP over TCP on an inbound whose own UDP is not watched: the kernel sees the bytes of the TCP flow.
#[test]
fn udp_over_a_tcp_flow_is_not_counted_by_its_totals() {
    let mut world = World::new();
    let carrier = flow(1, MIXED, Tcp, "10.0.0.1:1000", 100);
    world.opens(carrier, 100);
    let over = Sighting {
        network: Udp,
        totals: Some([500, 500]),
        ..sighting("a", MIXED, "10.0.0.1:1000", "alice", 101)
    };
    assert_eq!(world.sights(over.clone(), 102), own(carrier, "alice", OwnerBy::Api));
    assert_eq!(world.sights(over, 103), []);
    let beside = Sighting {
        network: Udp,
        totals: Some([7, 8]),
        ..sighting("b", MIXED, "10.0.0.1:1001", "alice", 101)
    };
    assert_eq!(reported_bytes(&world.sights(beside, 104)), [7, 8]);
}

/// Killed and started again, the agent counts on from where the ledger says it was, and what ended while
/// nobody listened does not take up room for ever.
#[test]
fn reported_totals_go_on_over_a_restart_and_end_with_a_replay() {
    let mut world = World::new();
    world.core.reported_before(HashMap::from([("a".into(), [100, 10])]));
    let open = |id: &str, totals| Sighting {
        created_ms: Some(START_MS - 60_000),
        network: Udp,
        totals: Some(totals),
        ..sighting(id, MIXED, PEER, "alice", 0)
    };
    world.core.replay_begins(SourceKind::Api, at(0));
    assert_eq!(reported_bytes(&world.sights(open("a", [130, 15]), 1)), [30, 5]);
    assert_eq!(reported_bytes(&world.sights(open("b", [9, 9]), 2)), [0, 0], "who knows who counted it");
    assert_eq!(world.ticks(10_000), []);
    world.core.replay_begins(SourceKind::Api, at(11_000));
    assert_eq!(reported_bytes(&world.sights(open("b", [10, 9]), 11_001)), [1, 0]);
    let ended = world.ticks(17_000);
    let [Effect::Reported(told)] = &ended[..] else { panic!("{ended:?}") };
    assert_eq!((&*told.connection, told.ended, told.totals), ("a", true, [130, 15]));
}
