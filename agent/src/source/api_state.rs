//! Turns the connection events of sing-box's API into source events: once per connection, closed at
//! most once, repaired by replays. Pure: no IO, no clock.
//!
//! Two subscriptions overlap at each renewal, so the same event comes twice; the API also repeats and
//! drops events by itself under load.

use std::{
    collections::{HashMap, VecDeque},
    net::SocketAddr,
    sync::Arc,
};

use crate::core::event::{Network, Sighting, SourceEvent, SourceKind};

use super::daemon::{Connection, ConnectionEvent, ConnectionEventType, ConnectionEvents};

/// Connections that are open at a time. sing-box itself needs tens of KiB for each.
pub const OPEN_MAX: usize = 262_144;

/// Closed connections that are remembered, against repeated events. A replay was seen to repeat
/// 132 of them; a burst of 1,500 per second closes 45,000 between two renewals.
pub const CLOSED_MAX: usize = 65_536;

/// Shown when the address that sing-box reports is no address and port.
pub const SOURCE_UNPARSABLE: &str = "source_unparsable";
/// A connection of a user without a name, or of an inbound without users: nobody's.
pub const USER_UNNAMED: &str = "user_unnamed";
/// More connections open than `OPEN_MAX`.
pub const OPEN_FULL: &str = "api_open_full";
/// A connection ended without its own event: the replay showed it.
pub const CLOSED_BY_REPLAY: &str = "api_closed_by_replay";
/// A connection was first seen in a renewal's replay: its event was dropped by sing-box.
pub const NEW_BY_REPLAY: &str = "api_new_by_replay";

#[derive(Debug, Default)]
pub struct ApiState {
    /// With the number of the subscription during which it was first seen.
    open: HashMap<Arc<str>, u64>,
    /// Whether their totals were told.
    closed: HashMap<Arc<str>, bool>,
    closed_order: VecDeque<Arc<str>>,
    subscription: u64,
    /// A replay was read since the connection was made, so the next one is a renewal's.
    replayed: bool,
}

impl ApiState {
    /// A subscription is about to be asked for. What is known before must be in its replay, or has
    /// ended.
    pub fn subscribing(&mut self) {
        self.subscription += 1;
    }

    /// The connection to sing-box is gone: all its connections are, or their state is unknown. The
    /// next replay tells which are open.
    pub fn disconnected(&mut self) {
        self.open.clear();
        self.replayed = false;
    }

    pub fn open_len(&self) -> usize {
        self.open.len()
    }

    /// `latest`: the message is of the subscription asked for last, not of the one it replaces.
    pub fn on(&mut self, message: ConnectionEvents, latest: bool, out: &mut Vec<SourceEvent>) {
        let replay = message.reset && latest;
        let renewal = replay && self.replayed;
        self.replayed |= replay;
        let mut replayed = HashMap::new();
        for event in message.events {
            if replay && event.r#type() == ConnectionEventType::ConnectionEventNew {
                replayed.insert(Arc::<str>::from(event.id.as_str()), ());
            }
            self.event(event, replay, renewal, out);
        }
        if replay {
            self.end_missing(&replayed, out);
        }
    }

    fn end_missing(&mut self, replayed: &HashMap<Arc<str>, ()>, out: &mut Vec<SourceEvent>) {
        let now = self.subscription;
        let missing: Vec<_> = self
            .open
            .iter()
            .filter(|&(id, &since)| since < now && !replayed.contains_key(id))
            .map(|(id, _)| id.clone())
            .collect();
        let count = missing.len() as u64;
        for connection in missing {
            self.remember_closed(connection.clone(), false);
            out.push(SourceEvent::Ended { source: SourceKind::Api, connection, totals: None });
        }
        if count > 0 {
            out.push(SourceEvent::Lost { counter: CLOSED_BY_REPLAY, count });
        }
    }

    fn event(&mut self, event: ConnectionEvent, replay: bool, renewal: bool, out: &mut Vec<SourceEvent>) {
        match event.r#type() {
            ConnectionEventType::ConnectionEventUpdate => {}
            ConnectionEventType::ConnectionEventNew => {
                let Some(connection) = event.connection else {
                    return;
                };
                let closed = event.closed_at != 0 || connection.closed_at != 0;
                self.seen(&event.id, &connection, closed, replay, renewal, out);
            }
            ConnectionEventType::ConnectionEventClosed => {
                let id: Arc<str> = event.id.as_str().into();
                let totals = event.connection.as_ref().map(totals);
                if self.open.contains_key(&id) {
                    self.remember_closed(id.clone(), totals.is_some());
                    out.push(SourceEvent::Ended { source: SourceKind::Api, connection: id, totals });
                } else if self.closed.contains_key(&id) {
                    self.late_totals(id, totals, out);
                } else {
                    // Its NEW was dropped: this is all that is known, and the address may still be
                    // waiting for its owner.
                    match event.connection {
                        Some(connection) => self.seen(&event.id, &connection, true, false, false, out),
                        None => self.remember_closed(id, false),
                    }
                }
            }
        }
    }

    fn seen(
        &mut self,
        id: &str,
        connection: &Connection,
        closed: bool,
        replay: bool,
        renewal: bool,
        out: &mut Vec<SourceEvent>,
    ) {
        let id: Arc<str> = id.into();
        if self.closed.contains_key(&id) {
            if closed {
                self.late_totals(id, Some(totals(connection)), out);
            }
            return;
        }
        let known = self.open.contains_key(&id);
        // The replay repeats what is open, which repairs a consumer that has dropped it.
        if known && !replay && !closed {
            return;
        }
        if !known {
            if renewal {
                out.push(SourceEvent::Lost { counter: NEW_BY_REPLAY, count: 1 });
            }
            if !closed {
                if self.open.len() >= OPEN_MAX {
                    out.push(SourceEvent::Lost { counter: OPEN_FULL, count: 1 });
                    return;
                }
                self.open.insert(id.clone(), self.subscription);
            }
        }
        if closed {
            self.remember_closed(id.clone(), true);
        }
        match sighting(id.clone(), connection, closed) {
            Ok(sighting) => out.push(SourceEvent::Sighting(sighting)),
            Err(counter) if !known => out.push(SourceEvent::Lost { counter, count: 1 }),
            Err(_) => {}
        }
        if closed && known {
            let totals = Some(totals(connection));
            out.push(SourceEvent::Ended { source: SourceKind::Api, connection: id, totals });
        }
    }

    /// An end is sometimes told without its totals at first, and again with them.
    fn late_totals(&mut self, connection: Arc<str>, totals: Option<[u64; 2]>, out: &mut Vec<SourceEvent>) {
        if totals.is_some()
            && let Some(told) = self.closed.get_mut(&connection)
            && !std::mem::replace(told, true)
        {
            out.push(SourceEvent::Ended { source: SourceKind::Api, connection, totals });
        }
    }

    fn remember_closed(&mut self, id: Arc<str>, totals_told: bool) {
        self.open.remove(&id);
        if self.closed.insert(id.clone(), totals_told).is_none() {
            self.closed_order.push_back(id);
        }
        if self.closed_order.len() > CLOSED_MAX
            && let Some(oldest) = self.closed_order.pop_front()
        {
            self.closed.remove(&oldest);
        }
    }
}

fn totals(connection: &Connection) -> [u64; 2] {
    [connection.uplink_total, connection.downlink_total].map(|bytes| bytes.max(0) as u64)
}

fn sighting(id: Arc<str>, connection: &Connection, closed: bool) -> Result<Sighting, &'static str> {
    let peer = parse_peer(&connection.source).ok_or(SOURCE_UNPARSABLE)?;
    if connection.user.is_empty() {
        return Err(USER_UNNAMED);
    }
    Ok(Sighting {
        source: SourceKind::Api,
        connection: id,
        inbound: connection.inbound.as_str().into(),
        network: if connection.network == "udp" { Network::Udp } else { Network::Tcp },
        peer,
        user: connection.user.as_str().into(),
        created_ms: (connection.created_at > 0).then_some(connection.created_at),
        or_inbounds: Arc::default(),
        within_ms: 0,
        closed,
        totals: Some(totals(connection)),
    })
}

/// An address and port as sing-box prints it, IPv4 never mapped. Also `::ffff:1.2.3.4:5` without
/// brackets is not accepted: it has two readings.
pub fn parse_peer(text: &str) -> Option<SocketAddr> {
    let addr: SocketAddr = match text.parse() {
        Ok(addr) => addr,
        // Link-local addresses carry a zone by name, which Rust does not read.
        Err(_) => {
            let (before, after) = text.split_once('%')?;
            format!("{before}]{}", after.split_once(']')?.1).parse().ok()?
        }
    };
    Some(SocketAddr::new(addr.ip().to_canonical(), addr.port()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: ConnectionEventType, id: &str, closed_at: i64) -> ConnectionEvent {
        let connection = Connection {
            id: id.into(),
            inbound: "in".into(),
            network: "tcp".into(),
            source: "[::ffff:10.0.0.1]:5".into(),
            user: "alice".into(),
            created_at: 7,
            uplink_total: 3,
            downlink_total: 4,
            ..Connection::default()
        };
        ConnectionEvent {
            r#type: kind.into(),
            id: id.into(),
            connection: Some(connection),
            closed_at,
            ..Default::default()
        }
    }

    use ConnectionEventType::{ConnectionEventClosed as Closed, ConnectionEventNew as New};

    fn on(state: &mut ApiState, reset: bool, latest: bool, events: Vec<ConnectionEvent>) -> Vec<String> {
        let mut out = Vec::new();
        state.on(ConnectionEvents { events, reset }, latest, &mut out);
        out.iter()
            .map(|event| match event {
                SourceEvent::Sighting(s) => {
                    assert_eq!(s.peer.to_string(), "10.0.0.1:5", "never mapped");
                    format!("{}{}", s.connection, if s.closed { " closed" } else { "" })
                }
                SourceEvent::Ended { connection, totals, .. } => format!("end {connection} {totals:?}"),
                SourceEvent::Lost { counter, count } => format!("{counter} {count}"),
                other => format!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn events_are_told_once_and_replays_repair() {
        let mut state = ApiState::default();
        state.subscribing();
        assert_eq!(
            on(&mut state, true, true, vec![event(New, "a", 0), event(New, "old", 9)]),
            ["a", "old closed"]
        );
        assert_eq!(on(&mut state, false, true, vec![event(New, "b", 0), event(New, "b", 0)]), ["b"]);
        assert_eq!(
            on(&mut state, false, true, vec![event(Closed, "a", 9), event(Closed, "a", 9)]),
            ["end a Some([3, 4])"]
        );
        // The closing event of a connection that was never told: its address may wait for an owner.
        assert_eq!(on(&mut state, false, true, vec![event(Closed, "c", 9)]), ["c closed"]);
        let bare = ConnectionEvent { connection: None, ..event(Closed, "b", 9) };
        assert_eq!(on(&mut state, false, true, vec![bare]), ["end b None"]);
        let again = vec![event(Closed, "b", 9), event(Closed, "b", 9)];
        assert_eq!(on(&mut state, false, true, again), ["end b Some([3, 4])"], "its totals come late");
        on(&mut state, false, true, vec![event(New, "d", 0)]);
        state.subscribing();
        // While both subscriptions run; the old one's reset is no replay.
        assert_eq!(on(&mut state, false, false, vec![event(New, "e", 0)]), ["e"]);
        // d's end was dropped, f's beginning too; e came after the new subscription was asked for.
        assert_eq!(
            on(&mut state, true, true, vec![event(New, "f", 0), event(New, "a", 9)]),
            ["api_new_by_replay 1", "f", "end d None", "api_closed_by_replay 1"]
        );
        assert_eq!(state.open_len(), 2);
        state.disconnected();
        state.subscribing();
        assert_eq!(
            on(&mut state, true, true, vec![event(New, "g", 0)]),
            ["g"],
            "a first replay shows no loss"
        );
    }

    #[test]
    fn what_has_no_owner_is_counted() {
        let mut state = ApiState::default();
        state.subscribing();
        let mut unnamed = event(New, "a", 0);
        unnamed.connection.as_mut().unwrap().user.clear();
        let mut broken = event(New, "b", 0);
        broken.connection.as_mut().unwrap().source = "@".into();
        assert_eq!(
            on(&mut state, true, true, vec![unnamed.clone(), broken]),
            ["user_unnamed 1", "source_unparsable 1"]
        );
        state.subscribing();
        let out = on(&mut state, true, true, vec![unnamed]);
        assert_eq!(out, ["end b None", "api_closed_by_replay 1"], "not counted again");
    }

    #[test]
    fn closed_connections_are_forgotten_in_order() {
        let mut state = ApiState::default();
        for n in 0..CLOSED_MAX + 10 {
            state.remember_closed(n.to_string().into(), true);
        }
        assert_eq!((state.closed.len(), state.closed_order.len()), (CLOSED_MAX, CLOSED_MAX));
        assert!(!state.closed.contains_key("0"));
    }

    #[test]
    fn peers_are_read_with_zones_and_never_mapped() {
        for (text, wanted) in [
            ("1.2.3.4:5", Some("1.2.3.4:5")),
            ("[::ffff:1.2.3.4]:5", Some("1.2.3.4:5")),
            ("[fe80::1%eth0]:5", Some("[fe80::1]:5")),
            ("1.2.3.4", None),
            ("%", None),
            ("", None),
        ] {
            assert_eq!(parse_peer(text).map(|peer| peer.to_string()).as_deref(), wanted, "{text}");
        }
    }
}
