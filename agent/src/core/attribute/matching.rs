//! Which flow a sighting is of: by address, port and time, or by port and time.
//!
//! Pure functions over candidate flows. The rule above all others: a flow is given to a user only if
//! no other flow known can be meant. What that leaves open is unattributed and counted, not guessed.
//!
//! # Time
//!
//! sing-box creates a connection after the kernel has opened the socket (or seen the peer's first
//! packet), and before it closes it. So the instant of creation lies within the flow's life, give or
//! take the error of the clocks' conversion, and there is no other allowance to either side: with one,
//! a sighting whose own flow is not known yet would be given to the next or previous flow of the same
//! address and port. When two flows of one address and port follow each other within that error, both
//! can be meant, and neither is chosen.
//!
//! # Forwarded addresses
//!
//! On inbounds that believe `X-Forwarded-For` the client chooses the address that is reported, while
//! the port is the true one. So *every* flow with that port that fits in time can be meant, and:
//!
//! - only one fits: it is that one, whatever its address;
//! - the reported address has a flow that the same user owns, or any other flow that fits is this
//!   user's: a repetition;
//! - the reported address has a flow of somebody else, and one other flow is without owner: the
//!   reporter came by that one and forged the address; unless the owner of the first is *weak*, known
//!   only by one of these rules, because then that owner may have forged the address, and the reporter
//!   be the honest one;
//! - the reported address has a flow without owner, and so has another address: either an honest
//!   client, and the other is a stranger who never logs in; or the client of the other forged the
//!   address of the first. Who waits a moment mostly knows: the other gets its own sighting, or the
//!   first does. With one claim on the first flow after that, it is its owner's (who forges at that
//!   point pays for somebody else's flow, and nobody pays for his); with claims of two users, nobody's.

use crate::core::{clock_map::CLOCK_ERROR_NS, event::Network};

use super::{
    flows::{Flow, FlowRef, octets},
    limits::SAME_PORT_MAX,
    users::UserNo,
    waiters::Waiting,
};

/// When sing-box created the connection, in monotonic time.
#[derive(Clone, Debug)]
pub(super) enum When {
    /// At one of these instants.
    At(Vec<u64>),
    /// Before the agent watched the clocks, and it was still open when told, after that: its flow is
    /// the one that was open at the start.
    OpenAtStart(u64),
    /// Before the start, ended since or before.
    EndedAfter(Option<u64>),
    /// The source does not say: some time between these.
    Between(u64, u64),
}

impl When {
    /// Whether the flow was open then, as far as the clocks can tell.
    pub fn fits(&self, flow: &Flow) -> bool {
        match self {
            Self::At(instants) => instants.iter().any(|&at| open_at(flow, at)),
            Self::OpenAtStart(start) => open_at(flow, *start),
            // A flow opened at 0 is older than the kernel programs: nothing tells when it began.
            Self::EndedAfter(at) => flow.opened_ns > 0 && at.is_some_and(|at| open_at(flow, at)),
            Self::Between(from, to) => flow.opened_ns <= *to && flow.closed_ns >= *from,
        }
    }
}

fn open_at(flow: &Flow, at: u64) -> bool {
    flow.opened_ns <= at.saturating_add(CLOCK_ERROR_NS) && at <= flow.closed_ns.saturating_add(CLOCK_ERROR_NS)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Judgement {
    /// No flow fits; it may still come.
    NoFlow,
    /// The flow is this user's. `weak`: another flow could have been meant, had its client forged the
    /// address; what rests on it must not be used against somebody else.
    Own { flow: FlowRef, by_port: bool, weak: bool },
    /// Known already.
    Repeat(FlowRef),
    /// The flow is somebody else's.
    Second(FlowRef),
    /// Sound only if no other flow shows up for a moment.
    Later,
    /// Sound only if nobody else's sighting comes for as long as one may wait.
    AtLast,
    /// More than one flow can be meant.
    Ambiguous,
}

pub(super) type Candidate = (FlowRef, Flow);

fn one(candidate: &Candidate, user: UserNo) -> Judgement {
    let &(at, flow) = candidate;
    match flow.owner {
        Some(owner) if owner == user => Judgement::Repeat(at),
        Some(_) => Judgement::Second(at),
        None if flow.owned_elsewhere => Judgement::Repeat(at),
        None => Judgement::Own { flow: at, by_port: false, weak: false },
    }
}

/// The reported address is true.
pub(super) fn judge_true_address(candidates: &[Candidate], sighting: &Waiting, user: UserNo) -> Judgement {
    match candidates {
        [] => Judgement::NoFlow,
        [candidate] => one(candidate, user),
        [first, ..] if candidates.iter().all(|(_, flow)| flow.owner == Some(user)) => {
            Judgement::Repeat(first.0)
        }
        _ if matches!(sighting.when, When::Between(..)) => judge_log(candidates, sighting, user),
        _ => Judgement::Ambiguous,
    }
}

/// A log does not say when, but it names the same connection in the same way, and a TCP flow has one
/// connection: of several flows, an owned one is out unless by its own connection.
///
/// Where every line has a name of its own, one more stream on a flow that the user has looks like the first
/// line of another flow. If somebody else has that other flow, his own line tells: it comes when he has signed in,
/// which proxies give him seconds for. After that the flow is this user's: a client that dials two inbounds from one
/// port is not rare, and somebody else behind the same address, with the same port, who stays silent, is. If he speaks
/// after all, the flow is of both.
fn judge_log(candidates: &[Candidate], sighting: &Waiting, user: UserNo) -> Judgement {
    let connection = short(sighting.connection);
    if let Some(same) = candidates.iter().find(|(_, flow)| flow.is_owned() && flow.connection == connection) {
        return one(same, user);
    }
    let tcp = candidates.iter().all(|(at, _)| at.0.network == Network::Tcp);
    let mut unowned = candidates.iter().filter(|(_, flow)| !flow.is_owned());
    let mine = candidates.iter().find(|(_, flow)| flow.owner == Some(user));
    let at_last = |judgement| if sighting.aged { judgement } else { Judgement::AtLast };
    let mut weak = candidates.iter().filter(|(_, flow)| flow.weak);
    match (unowned.next(), unowned.next(), mine) {
        (Some(only), None, None) if tcp => one(only, user),
        (Some(&(flow, _)), None, Some(_)) if tcp => {
            at_last(Judgement::Own { flow, by_port: false, weak: true })
        }
        (None, _, Some(&(flow, _))) => Judgement::Repeat(flow),
        (Some(_), _, Some(&(flow, _))) => at_last(Judgement::Repeat(flow)),
        (None, _, None) => match (weak.next(), weak.next()) {
            (Some(&(flow, _)), None) => Judgement::Second(flow),
            _ => Judgement::Ambiguous,
        },
        _ => Judgement::Ambiguous,
    }
}

/// The reported address may be forged; its port is true.
pub(super) fn judge_forwarded(candidates: &[Candidate], sighting: &Waiting, user: UserNo) -> Judgement {
    if candidates.len() > SAME_PORT_MAX {
        return Judgement::Ambiguous;
    }
    let address = octets(sighting.peer.ip());
    let (exact, other): (Vec<Candidate>, Vec<Candidate>) =
        candidates.iter().partition(|(at, _)| at.0.ip == address);
    let own_elsewhere = other.iter().find(|(_, flow)| flow.owner == Some(user));
    let unowned: Vec<&Candidate> = other.iter().filter(|(_, flow)| !flow.is_owned()).collect();
    let now_or_later = |judgement| if sighting.final_decision { judgement } else { Judgement::Later };
    let weak = exact.iter().any(|(_, flow)| flow.weak);
    if !exact.is_empty() {
        return match (judge_true_address(&exact, sighting, user), own_elsewhere, &unowned[..]) {
            (own @ Judgement::Own { .. }, None, []) => own,
            (Judgement::Own { flow, .. }, _, _) => {
                now_or_later(Judgement::Own { flow, by_port: false, weak: true })
            }
            (Judgement::Second(_), Some((at, _)), _) => Judgement::Repeat(*at),
            (second @ Judgement::Second(_), None, []) => now_or_later(second),
            (Judgement::Second(_), None, [only]) if !weak => {
                now_or_later(Judgement::Own { flow: only.0, by_port: true, weak: true })
            }
            (second @ Judgement::Second(_), None, [_]) => now_or_later(second),
            (Judgement::Second(_), None, _) => now_or_later(Judgement::Ambiguous),
            (judgement, _, _) => judgement,
        };
    }
    match (own_elsewhere, &unowned[..]) {
        (Some((at, _)), _) => Judgement::Repeat(*at),
        (None, []) => Judgement::NoFlow,
        (None, [only]) => now_or_later(Judgement::Own { flow: only.0, by_port: true, weak: true }),
        (None, _) => now_or_later(Judgement::Ambiguous),
    }
}

/// Enough of a connection's hash to tell two connections of one address and port apart.
pub(super) fn short(connection: u64) -> u32 {
    (connection >> 32) as u32 ^ connection as u32
}
