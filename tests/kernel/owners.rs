//! Owners that come early, late, twice or never.

use boxmeter::{core::event::Network, kernel::Namespace};
use boxmeter_common::{
    command::{Command, OP_EXPIRE, OP_OWN, RESULT_ENDED, RESULT_NOT_FOUND, RESULT_NOTED, RESULT_TAKEN},
    flow::FLOW_OLD,
};

use crate::{
    net::{connect, exchange, in_new_namespace, listen, port_of},
    rig::{Rig, until},
};

#[test]
fn a_flow_that_ended_before_its_owner_was_known_keeps_its_bytes() {
    let mut rig = Rig::new();
    let (listener, port) = listen("127.0.0.1");
    let inbound = rig.watch(Network::Tcp, port);
    let slot = rig.account(inbound);
    let (client, server) = connect(&listener);
    exchange(&client, &server, 1_000, 200_000);
    drop((client, server));
    until("the flow waits", || rig.kernel.closed().unwrap().len() == 1);
    let flow = rig.kernel.closed().unwrap()[0];
    assert_eq!(flow.pending.payload, [1_000, 200_000]);
    assert_eq!(rig.kernel.pending(inbound), flow.pending);
    rig.conserved();
    assert_eq!(rig.own(&flow, slot), RESULT_ENDED);
    assert_eq!(rig.kernel.counters(slot), flow.pending);
    assert_eq!(rig.kernel.pending(inbound).payload, [0, 0]);
    assert_eq!(rig.kernel.closed().unwrap(), []);
    assert!(rig.kernel.noted_owners().unwrap().is_empty());
    rig.conserved();
}

#[test]
fn an_ended_flow_expires_into_unattributed_once() {
    let mut rig = Rig::new();
    let (listener, port) = listen("127.0.0.1");
    let inbound = rig.watch(Network::Tcp, port);
    let (client, server) = connect(&listener);
    exchange(&client, &server, 1_000, 2_000);
    drop((client, server));
    until("the flow waits", || rig.kernel.closed().unwrap().len() == 1);
    let flow = rig.kernel.closed().unwrap()[0];
    let expire = Command { op: OP_EXPIRE, id: flow.id, ..Command::default() };
    let mut commands = [expire, expire];
    rig.kernel.run(&mut commands).unwrap();
    assert_eq!(commands.map(|c| c.result), [RESULT_ENDED, RESULT_NOT_FOUND]);
    assert_eq!(commands[0].settled, flow.pending);
    assert_eq!(rig.unattributed(inbound).payload, [1_000, 2_000]);
    assert_eq!(rig.stat("flows_ended_unowned"), 1);
    rig.conserved();
}

#[test]
fn a_late_owner_of_a_live_flow_gets_what_was_pending_with_the_next_packet() {
    let mut rig = Rig::new();
    let (listener, port) = listen("127.0.0.1");
    let inbound = rig.watch(Network::Tcp, port);
    let (first, second) = (rig.account(inbound), rig.account(inbound));
    let (client, server) = connect(&listener);
    exchange(&client, &server, 1_000, 2_000);
    let flow = rig.socket(port_of(&client)).unwrap();
    assert_eq!(rig.own(&flow, first), RESULT_NOTED);
    assert_eq!(rig.own(&flow, second), RESULT_TAKEN, "the first owner stays");
    exchange(&client, &server, 10, 20);
    assert_eq!(rig.kernel.counters(first).payload, [1_010, 2_020]);
    assert_eq!(rig.kernel.pending(inbound).payload, [0, 0]);
    assert_eq!(rig.kernel.user(rig.kernel.users().next().unwrap().slot).billed, 3_030);
    rig.conserved();
}

#[test]
fn a_silent_socket_gets_its_owner_on_a_walk_and_at_its_close() {
    let mut rig = Rig::new();
    let (listener, port) = listen("127.0.0.1");
    let inbound = rig.watch(Network::Tcp, port);
    let slot = rig.account(inbound);
    let (client, server) = connect(&listener);
    exchange(&client, &server, 1_000, 2_000);
    let flow = rig.socket(port_of(&client)).unwrap();
    rig.own(&flow, slot);
    assert_eq!(rig.kernel.counters(slot).payload, [0, 0]);
    assert_eq!(rig.socket(port_of(&client)).unwrap().owner, slot.0);
    assert_eq!(rig.kernel.counters(slot).payload, [1_000, 2_000]);
    let (client2, server2) = connect(&listener);
    exchange(&client2, &server2, 3_000, 4_000);
    let flow = rig.socket(port_of(&client2)).unwrap();
    rig.own(&flow, slot);
    drop((client2, server2));
    until("the close settled it", || rig.kernel.counters(slot).payload == [4_000, 6_000]);
    assert_eq!(rig.kernel.closed().unwrap(), []);
    assert!(rig.kernel.noted_owners().unwrap().is_empty());
    rig.conserved();
}

#[test]
fn a_socket_older_than_the_watch_begins_at_its_own_numbers() {
    let mut rig = Rig::new();
    let (listener, port) = listen("127.0.0.1");
    let (client, server) = connect(&listener);
    exchange(&client, &server, 100_000, 100_000);
    let inbound = rig.watch(Network::Tcp, port);
    let slot = rig.account(inbound);
    exchange(&client, &server, 1_000, 2_000);
    let flow = rig.socket(port_of(&client)).unwrap();
    assert_eq!(flow.flags & FLOW_OLD, FLOW_OLD);
    assert_eq!(rig.unattributed(inbound).payload, [1_000, 2_000], "nobody may ever settle it");
    assert_eq!(rig.own(&flow, slot), RESULT_NOTED);
    exchange(&client, &server, 30, 40);
    assert_eq!(rig.kernel.counters(slot).payload, [30, 40]);
    rig.conserved();
}

#[test]
fn more_ended_flows_than_there_is_room_for_are_unattributed_and_counted() {
    let mut rig = Rig::with(|config| config.closed_max = Some(4));
    let (listener, port) = listen("127.0.0.1");
    let inbound = rig.watch(Network::Tcp, port);
    for _ in 0..20 {
        let (client, server) = connect(&listener);
        exchange(&client, &server, 100, 1_000);
        drop((client, server));
    }
    until("all ended", || rig.kernel.walk_sockets().unwrap().is_empty());
    let kept = rig.kernel.closed().unwrap().len() as u64;
    assert!(kept <= 20 && rig.stat("closed_flows_full") == 20 - kept && kept < 20);
    assert_eq!(rig.kernel.pending(inbound).payload, [100 * kept, 1_000 * kept]);
    assert_eq!(rig.unattributed(inbound).payload, [100 * (20 - kept), 1_000 * (20 - kept)]);
    rig.conserved();
}

#[test]
fn an_owner_must_be_an_account_of_the_map() {
    let mut rig = Rig::new();
    let (listener, port) = listen("127.0.0.1");
    rig.watch(Network::Tcp, port);
    let (client, _server) = connect(&listener);
    let flow = rig.socket(port_of(&client)).unwrap();
    for slot in [0, u32::MAX] {
        let mut commands = [Command { op: OP_OWN, slot, id: flow.id, key: flow.key, ..Command::default() }];
        rig.kernel.run(&mut commands).unwrap();
        assert_eq!(commands[0].result, RESULT_NOT_FOUND);
    }
}

#[test]
fn sockets_of_another_namespace_are_walked_when_it_is_named() {
    let mut rig = Rig::new();
    let (port, namespace, sockets) = in_new_namespace(|| {
        let (listener, port) = listen("127.0.0.1");
        (port, Namespace::own().unwrap(), (connect(&listener), listener))
    });
    let own = Namespace::own().unwrap();
    assert_ne!(own.cookie(), namespace.cookie());
    rig.watch_in(namespace.cookie(), Network::Tcp, port);
    let ((client, server), _listener) = sockets;
    exchange(&client, &server, 100, 200);
    assert!(rig.kernel.walk_sockets().unwrap().is_empty());
    rig.kernel.set_namespaces(vec![own, namespace]);
    assert_eq!(rig.kernel.walk_sockets().unwrap().len(), 1);
}

/// A socket that is older than the programs ends without telling, so that a note about it would stay.
#[test]
fn notes_about_sockets_that_are_gone_are_swept() {
    let mut rig = Rig::new();
    let (listener, port) = listen("127.0.0.1");
    let inbound = rig.watch(Network::Tcp, port);
    let slot = rig.account(inbound);
    let (client, server) = connect(&listener);
    exchange(&client, &server, 1_000, 2_000);
    let flow = rig.socket(port_of(&client)).unwrap();
    let gone = boxmeter_common::flow::Flow { id: flow.id + 1_000_000, ..flow };
    assert_eq!(rig.own(&gone, slot), RESULT_NOTED);
    assert_eq!(rig.own(&flow, slot), RESULT_NOTED);
    let both = std::collections::BTreeSet::from([flow.id, gone.id]);
    assert_eq!(rig.kernel.noted_owners().unwrap(), both);
    let found = rig.kernel.walk_sockets_and_sweep().unwrap();
    assert!(
        found.iter().any(|found| found.id == flow.id && found.owner == slot.0),
        "the walk gave it its owner"
    );
    assert!(rig.kernel.noted_owners().unwrap().is_empty());
    exchange(&client, &server, 10, 20);
    assert_eq!(rig.kernel.counters(slot).payload, [1_010, 2_020]);
    rig.conserved();
}
