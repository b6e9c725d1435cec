//! TCP: late and early sightings, reuse of addresses, lost events, clocks, logs, names.

use super::*;
use Network::{Tcp, Udp};

/// See [`SIGHTING_AGE_NS`](super::super::limits::SIGHTING_AGE_NS).
const AGE_MS: u64 = super::super::limits::SIGHTING_AGE_NS / MS;

const PEER: &str = "203.0.113.7:51000";

fn tcp(id: u64, opened_ms: u64) -> FlowSeen {
    flow(id, TROJAN, Tcp, PEER, opened_ms)
}

fn seen(id: &str, name: &str, created_ms: u64) -> Sighting {
    sighting(id, TROJAN, PEER, name, created_ms)
}

fn logged(id: &str, name: &str) -> Sighting {
    Sighting { source: SourceKind::ClashLogs, created_ms: None, ..seen(id, name, 0) }
}

#[test]
fn the_sighting_comes_after_the_flow() {
    let mut world = World::new();
    assert_eq!(world.opens(tcp(1, 100), 100), []);
    assert_eq!(world.core.unowned_live().count(), 1);
    assert_eq!(world.sights(seen("a", "alice", 103), 104), own(tcp(1, 100), "alice", OwnerBy::Api));
    assert_eq!(world.core.unowned_live().count(), 0);
    let view = world.core.flows().next().expect("it is open");
    assert_eq!((view.user, view.by, view.shared_with), (Some(user("alice")), Some(OwnerBy::Api), None));
    assert_eq!(world.core.live(user("alice")), Live { flows: 1, addresses: 1 });
    world.closes(1, 200);
    assert_eq!(world.core.live(user("alice")), Live::default());
    world.assert_balanced();
}

#[test]
fn the_sighting_comes_before_the_flow() {
    let mut world = World::new();
    assert_eq!(world.sights(seen("a", "alice", 103), 104), []);
    assert_eq!(world.core.waiting(), 1);
    assert_eq!(world.opens(tcp(1, 100), 105), own(tcp(1, 100), "alice", OwnerBy::Api));
    world.assert_balanced();
}

#[test]
fn a_flow_that_ended_gets_its_owner_within_the_grace_and_expires_after() {
    let mut world = World::new();
    world.opens(tcp(1, 100), 100);
    world.closes(1, 102);
    let closed = Sighting { closed: true, ..seen("a", "alice", 101) };
    assert_eq!(world.sights(closed, 9_000), own(tcp(1, 100), "alice", OwnerBy::Api));
    world.opens(tcp(2, 9_500), 9_500);
    world.closes(2, 9_502);
    assert_eq!(world.ticks(19_501), []);
    assert_eq!(world.ticks(19_502), [Effect::Expire { flow: FlowId(2) }]);
    assert_eq!(world.core.flow_count(), 0);
    assert_eq!(world.core.counters().flows_expired, 1);
}

#[test]
fn a_late_sighting_is_never_given_to_the_next_flow_of_the_same_port() {
    let mut world = World::new();
    world.opens(tcp(1, 100), 100);
    world.closes(1, 104);
    world.opens(tcp(2, 110), 110);
    assert_eq!(world.sights(seen("a", "alice", 102), 2_000), own(tcp(1, 100), "alice", OwnerBy::Api));
    assert_eq!(world.sights(seen("b", "bob", 114), 2_001), own(tcp(2, 110), "bob", OwnerBy::Api));
    world.assert_balanced();
}

#[test]
fn a_late_sighting_of_a_forgotten_flow_goes_nowhere() {
    let mut world = World::new();
    world.opens(tcp(2, 500), 500);
    assert_eq!(world.sights(seen("a", "alice", 480), 501), []);
    assert_eq!(world.ticks(6_000), []);
    assert_eq!(world.core.counters().sightings_unmatched, 1);
    assert_eq!(world.core.unowned_live().count(), 1);
    world.assert_balanced();
}

#[test]
fn flows_closer_than_the_clocks_are_exact_get_no_owner_by_guessing() {
    let mut world = World::new();
    world.opens(tcp(1, 100), 100);
    world.closes(1, 102);
    world.opens(tcp(2, 103), 103);
    assert_eq!(world.sights(seen("a", "alice", 103), 104), []);
    assert_eq!(world.core.counters().sightings_ambiguous, 1);
    world.assert_balanced();
}

#[test]
fn the_first_owner_stays_and_the_second_is_told_once() {
    let mut world = World::new();
    world.opens(tcp(1, 100), 100);
    world.sights(seen("a", "alice", 101), 101);
    assert_eq!(
        world.sights(seen("b", "bob", 150), 150),
        [Effect::Shared { flow: FlowId(1), user: user("bob") }]
    );
    assert_eq!(world.sights(seen("c", "bob", 160), 160), []);
    assert_eq!(world.sights(seen("d", "alice", 170), 170), []);
    let view = world.core.flows().next().expect("it is open");
    assert_eq!(view.user, Some(user("alice")));
    assert_eq!(view.shared_with, Some(user("bob")));
    assert_eq!(view.by, Some(OwnerBy::Shared));
    assert_eq!(world.core.counters().flows_shared, 1);
    world.assert_balanced();
}

#[test]
fn a_lost_closing_is_known_from_the_next_flow_or_the_walk() {
    let mut world = World::new();
    world.opens(tcp(1, 100), 100);
    world.opens(tcp(2, 300), 300);
    assert_eq!(world.core.counters().flows_close_implied, 1);
    assert_eq!(world.sights(seen("b", "bob", 320), 321), own(tcp(2, 300), "bob", OwnerBy::Api));
    world.core.reconcile_walk(&BTreeSet::new(), at(400).mono_ns, at(401));
    assert_eq!(world.core.counters().flows_close_lost, 1);
    assert_eq!(world.core.flows().count(), 0);
    assert_eq!(world.ticks(20_000), [Effect::Expire { flow: FlowId(1) }]);
}

#[test]
fn an_older_flow_found_later_is_closed_by_the_newer_one() {
    let mut world = World::new();
    world.opens(tcp(2, 300), 300);
    world.opens(tcp(1, 100), 310);
    assert_eq!(world.core.flows().map(|flow| flow.id).collect::<Vec<_>>(), [FlowId(2)]);
    assert_eq!(world.sights(seen("b", "bob", 320), 321), own(tcp(2, 300), "bob", OwnerBy::Api));
}

#[test]
fn walks_repeat_themselves_and_tell_a_missing_owner_again() {
    let mut world = World::new();
    world.opens(tcp(1, 100), 100);
    world.sights(seen("a", "alice", 101), 101);
    assert_eq!(world.opens(tcp(1, 100), 1_000), own(tcp(1, 100), "alice", OwnerBy::Api));
    let owned = FlowSeen { owner: slot(300), ..tcp(1, 100) };
    world.core.flow_seen(owned, Some(user("alice")), at(2_000));
    assert_eq!(world.effects(), []);
    assert_eq!(world.core.flow_count(), 1);
}

#[test]
fn owners_that_the_kernel_has_are_kept_and_confirmed() {
    let mut world = World::new();
    world.core.flow_seen(FlowSeen { owner: slot(300), ..tcp(1, 100) }, Some(user("alice")), at(500));
    assert_eq!(world.effects(), []);
    assert_eq!(world.core.flows().next().map(|flow| (flow.user, flow.by)), Some((Some(user("alice")), None)));
    assert_eq!(world.sights(seen("a", "alice", 101), 501), []);
    assert_eq!(world.core.flows().next().and_then(|flow| flow.by), Some(OwnerBy::Api));
}

#[test]
fn an_owner_that_only_the_kernel_knows_is_not_overwritten() {
    let mut world = World::new();
    world.core.flow_seen(FlowSeen { owner: slot(300), ..tcp(1, 100) }, None, at(500));
    assert_eq!(world.sights(seen("a", "alice", 101), 501), []);
    assert_eq!(world.core.unowned_live().count(), 0);
    world.closes(1, 600);
    assert_eq!(world.ticks(20_000), [], "the kernel settled it, there is nothing to expire");
}

#[test]
fn a_user_that_is_not_configured_yet_is_waited_for() {
    let mut world = World::new();
    world.opens(tcp(1, 100), 100);
    assert_eq!(world.sights(seen("a", "dave", 101), 101), []);
    world.core.set_users(names(&["alice", "dave"]), at(2_000));
    assert_eq!(world.effects(), own(tcp(1, 100), "dave", OwnerBy::Api));
    world.sights(seen("b", "erin", 2_001), 2_001);
    world.ticks(8_000);
    assert_eq!(world.core.counters().sightings_unknown_user, 1);
    world.assert_balanced();
}

#[test]
fn sightings_that_say_too_little_are_counted() {
    let mut world = World::new();
    world.sights(seen("a", "", 1), 2);
    world.sights(sighting("b", TROJAN, "203.0.113.7:0", "alice", 1), 2);
    world.sights(Sighting { inbound: "nowhere".into(), ..seen("c", "alice", 1) }, 2);
    let counters = world.core.counters();
    assert_eq!(counters.sightings_without_user, 1);
    assert_eq!(counters.sightings_without_port, 1);
    assert_eq!(counters.sightings_unknown_inbound, 1);
    world.assert_balanced();
}

#[test]
fn a_full_waiting_room_and_a_full_table_are_counted() {
    let mut world = World::new();
    for number in 0..=SIGHTINGS_WAITING_MAX {
        world.sights(seen(&number.to_string(), "alice", 10), 10);
    }
    assert_eq!(world.core.waiting(), SIGHTINGS_WAITING_MAX);
    assert_eq!(world.core.counters().sightings_waiting_full, 1);
    world.assert_balanced();
    for number in 0..=FLOWS_MAX as u64 {
        let peer = format!("10.{}.{}.1:{}", number >> 24 & 255, number >> 16 & 255, number & 65_535);
        world.opens(flow(number, SHADOWSOCKS, Tcp, &peer, 20), 20);
    }
    assert_eq!(world.core.flow_count(), FLOWS_MAX);
    assert_eq!(world.core.counters().flows_full, 1);
    assert_eq!(world.closes(FLOWS_MAX as u64, 30), [Effect::Expire { flow: FlowId(FLOWS_MAX as u64) }]);
}

#[test]
fn a_mapped_address_is_the_same_address() {
    let mut world = World::new();
    world.opens(tcp(1, 100), 100);
    let mapped = sighting("a", TROJAN, "[::ffff:203.0.113.7]:51000", "alice", 101);
    assert_eq!(world.sights(mapped, 102), own(tcp(1, 100), "alice", OwnerBy::Api));
}

#[test]
fn shadowtls_flows_are_sighted_by_their_detour() {
    let mut world = World::new();
    let outer = flow(1, SHADOWTLS, Tcp, PEER, 100);
    world.opens(outer, 100);
    assert_eq!(
        world.sights(sighting("a", SHADOWSOCKS, PEER, "alice", 101), 102),
        own(outer, "alice", OwnerBy::Api)
    );
}

#[test]
fn udp_over_tcp_is_found_and_the_same_transport_comes_first() {
    let mut world = World::new();
    let stream = flow(1, SHADOWSOCKS, Tcp, PEER, 100);
    let packets = flow(2 | 1 << 63, SHADOWSOCKS, Udp, PEER, 100);
    let udp = |id, name, ms| Sighting { network: Udp, ..sighting(id, SHADOWSOCKS, PEER, name, ms) };
    world.opens(stream, 100);
    assert_eq!(world.sights(udp("a", "alice", 101), 102), own(stream, "alice", OwnerBy::Api));
    world.opens(packets, 100);
    assert_eq!(world.sights(udp("b", "bob", 103), 104), own(packets, "bob", OwnerBy::Api));
}

#[test]
fn log_lines_have_no_time_and_go_to_the_only_flow_they_can_mean() {
    let mut world = World::new();
    world.opens(tcp(1, 100), 100);
    assert_eq!(world.sights(logged("1", "alice"), 110), own(tcp(1, 100), "alice", OwnerBy::ClashLogs));
    world.closes(1, 120);
    world.opens(tcp(2, 130), 130);
    assert_eq!(world.sights(logged("1", "alice"), 131), [], "another line of the first connection");
    assert_eq!(world.sights(logged("2", "bob"), 135), own(tcp(2, 130), "bob", OwnerBy::ClashLogs));
    world.assert_balanced();
}

#[test]
fn a_log_line_that_can_mean_two_flows_is_given_to_none() {
    let mut world = World::new();
    world.opens(tcp(1, 100), 100);
    world.closes(1, 104);
    world.opens(tcp(2, 110), 110);
    assert_eq!(world.sights(logged("2", "bob"), 112), [], "the first one's line may be lost or late");
    assert_eq!(world.core.counters().sightings_ambiguous, 1);
}

#[test]
fn a_log_line_is_not_taken_for_a_flow_that_opens_after_it() {
    let mut world = World::new();
    world.sights(logged("1", "alice"), 100);
    assert_eq!(world.opens(tcp(1, 150), 150), []);
}

#[test]
fn connections_from_before_the_agent_are_those_open_at_its_start() {
    let mut core = Attributor::default();
    let hour_off = 3_600_000;
    for ahead in [0, hour_off, -hour_off] {
        core = World::new().core;
        let old = FlowSeen { opened_ns: START_NS - 60_000 * MS, ..tcp(1, 0) };
        core.flow_seen(old, None, at(10));
        let created_ms = Some(START_MS - 59_999 + ahead);
        core.sighting(Sighting { created_ms, ..seen("a", "alice", 0) }, at(11));
        assert!(
            matches!(core.poll_effect(), Some(Effect::Own { .. })),
            "the wall clock was {ahead} ms ahead when the connection was made"
        );
    }
    assert_eq!(core.waiting(), 0);
}

#[test]
fn an_ended_connection_from_before_is_not_given_to_an_old_socket() {
    let mut world = World::new();
    let older_than_programs = FlowSeen { opened_ns: 0, ..tcp(1, 0) };
    world.opens(older_than_programs, 10);
    let before = Some(START_MS - 5_000);
    let ended = Sighting { created_ms: before, closed: true, ..seen("a", "bob", 0) };
    assert_eq!(world.sights(ended, 11), []);
    let open = Sighting { created_ms: before, ..seen("b", "alice", 0) };
    assert_eq!(world.sights(open, 12), own(older_than_programs, "alice", OwnerBy::Api));
}

#[test]
fn a_step_of_the_wall_clock_between_opening_and_sighting_does_no_harm() {
    for step in [-86_400_000, -700, 700, 86_400_000] {
        let mut world = World::new();
        world.ticks(90);
        world.opens(tcp(1, 100), 100);
        world.closes(1, 104);
        world.opens(tcp(2, 110), 110);
        let stepped = |ms| Now { wall_ms: at(ms).wall_ms + step, ..at(ms) };
        for ms in [120, 121, 122] {
            world.core.tick(stepped(ms));
        }
        world.core.sighting(seen("b", "bob", 114), stepped(130));
        world.core.sighting(seen("a", "alice", 102), stepped(130));
        let owners = world.core.flows().map(|flow| flow.user).collect::<Vec<_>>();
        assert_eq!(owners, [Some(user("bob"))], "step {step}");
        assert_eq!(world.effects().len(), 2, "step {step}");
        world.core.tick(stepped(20_000));
        assert_eq!(world.effects(), [], "ageing goes by the monotonic clock");
    }
}

#[test]
fn nothing_panics_at_the_ends_of_the_clocks() {
    let mut world = World::new();
    for mono_ns in [0, 1, u64::MAX - 1, u64::MAX, 5] {
        for wall_ms in [i64::MIN, 0, i64::MAX] {
            let now = Now { mono_ns, wall_ms };
            let ends = FlowSeen { opened_ns: mono_ns, ..tcp(mono_ns, 0) };
            world.core.flow_seen(ends, None, now);
            world.core.sighting(Sighting { created_ms: Some(wall_ms), ..seen("a", "alice", 0) }, now);
            world.core.flow_closed(FlowId(mono_ns), 0, now);
            world.core.tick(now);
        }
    }
    world.assert_balanced();
}

/// A log that does not name the inbound has a line for each stream of one connection. Another client behind the same
/// address, whose connection to another inbound has the same port, is not billed for them.
#[test]
fn a_line_that_may_be_on_several_inbounds_takes_nobody_elses_flow() {
    let line = |id: &str, name: &str, others: &[InboundIndex]| Sighting {
        or_inbounds: others.iter().map(|&index| Arc::from(tag(index))).collect(),
        ..logged(id, name)
    };
    let mut world = World::new();
    world.opens(tcp(1, 100), 100);
    let told = world.sights(line("a", "alice", &[SHADOWSOCKS]), 101);
    assert_eq!(told, own(tcp(1, 100), "alice", OwnerBy::ClashLogs));
    let other = flow(2, SHADOWSOCKS, Tcp, PEER, 200);
    world.opens(other, 200);
    assert_eq!(world.sights(line("b", "alice", &[SHADOWSOCKS]), 201), [], "one more stream of her own");
    assert_eq!(world.core.unowned_live().count(), 1);
    assert_eq!(world.sights(line("c", "bob", &[SHADOWSOCKS]), 202), own(other, "bob", OwnerBy::ClashLogs));
    // On none of the inbounds that it may be on.
    world.sights(Sighting { inbound: "gone".into(), ..line("d", "alice", &[]) }, 203);
    assert_eq!(world.core.counters().sightings_unknown_inbound, 1);
    world.assert_balanced();
}

/// A client that dials two inbounds from one port has both flows, though the second line could be of the first.
#[test]
fn a_port_used_on_two_inbounds_is_its_users_on_both() {
    let line =
        |id: &str| Sighting { or_inbounds: [Arc::from(tag(SHADOWSOCKS))].into(), ..logged(id, "alice") };
    let mut world = World::new();
    world.opens(tcp(1, 100), 100);
    world.sights(line("a"), 101);
    let second = flow(2, SHADOWSOCKS, Tcp, PEER, 200);
    world.opens(second, 200);
    assert_eq!(world.sights(line("b"), 201), [], "it may be one more stream of the first");
    assert_eq!(world.ticks(199 + AGE_MS), []);
    assert_eq!(world.ticks(201 + AGE_MS), own(second, "alice", OwnerBy::ClashLogs), "nobody else has it");
    // Somebody else was only slow: people see that.
    let late = Sighting { or_inbounds: [Arc::from(tag(SHADOWSOCKS))].into(), ..logged("c", "bob") };
    assert_eq!(world.sights(late, 300 + AGE_MS), [Effect::Shared { flow: FlowId(2), user: user("bob") }]);
    world.assert_balanced();
}

/// A late line of a stream on a flow that has ended does not take the next flow of the same address and port.
#[test]
fn a_late_line_leaves_the_next_flow_to_whose_line_comes() {
    let mut world = World::new();
    world.opens(tcp(1, 100), 100);
    world.sights(logged("a", "alice"), 101);
    world.closes(1, 110);
    world.opens(tcp(2, 120), 120);
    assert_eq!(world.sights(logged("b", "alice"), 121), [], "a stream of the first flow, or the second's");
    assert_eq!(world.sights(logged("c", "bob"), 122), own(tcp(2, 120), "bob", OwnerBy::ClashLogs));
    assert_eq!(world.ticks(122 + AGE_MS), []);
    world.assert_balanced();
}
