//! UDP peers: sharing, hand-over, coming back; and connections metered by their reported totals.

use super::*;
use Network::Udp;

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
    let reported =
        |up, down| vec![Effect::Reported { user: user("alice"), inbound: MIXED, bytes: [up, down] }];
    assert_eq!(world.sights(totals("a", 10, 100, 5, false), 20), reported(100, 5));
    assert_eq!(world.sights(totals("a", 10, 100, 5, false), 30), []);
    assert_eq!(world.sights(totals("a", 10, 90, 7, false), 40), reported(0, 2), "never back");
    world.core.ended(SourceKind::Api, "a", Some([150, 7]), at(50));
    assert_eq!(world.effects(), reported(50, 0));
    world.core.ended(SourceKind::Api, "a", Some([150, 7]), at(51));
    assert_eq!(world.effects(), [], "sing-box tells some ends twice");
    assert_eq!(world.sights(totals("a", 10, 150, 7, true), 60), [], "and ended connections again");
    let old = Sighting { created_ms: Some(START_MS - 9_000), ..totals("b", 0, 1_000, 0, false) };
    assert_eq!(world.sights(old, 70), [], "an earlier agent may have counted these");
    world.core.ended(SourceKind::Api, "b", Some([1_200, 0]), at(80));
    assert_eq!(world.effects(), reported(200, 0));
    world.assert_balanced();
}
