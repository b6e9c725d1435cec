//! How long it takes from the moment at which sing-box made a connection until the kernel knows its owner, as
//! counters by class: what stays without an owner for long can be cut late. The whole way is in it: sing-box's
//! own report, the source, the core and the kernel's command.

use crate::core::event::SourceEvent;

/// Classes: at most so many milliseconds, and the counter's name.
const CLASSES: [(i64, &str); 7] = [
    (1, "owners_told_within_1_ms"),
    (2, "owners_told_within_2_ms"),
    (5, "owners_told_within_5_ms"),
    (10, "owners_told_within_10_ms"),
    (20, "owners_told_within_20_ms"),
    (50, "owners_told_within_50_ms"),
    (i64::MAX, "owners_told_later"),
];

/// See the module.
#[derive(Default)]
pub struct Delays {
    counts: [u64; CLASSES.len()],
    /// Creation times of the connections of this turn, Unix milliseconds.
    turn: Vec<i64>,
}

impl Delays {
    /// Notes a sighting that the core is about to get. What is replayed after a gap tells nothing.
    pub fn heard(&mut self, event: &SourceEvent) {
        if let SourceEvent::Sighting(sighting) = event
            && let Some(created_ms) = sighting.created_ms
            && !sighting.closed
        {
            self.turn.push(created_ms);
        }
    }

    /// The kernel has been told of all that was heard. The clock that sing-box used is this machine's.
    pub fn told(&mut self, wall_ms: i64) {
        for created_ms in self.turn.drain(..) {
            let late = wall_ms - created_ms;
            if let Some(class) = CLASSES.iter().position(|&(most, _)| late <= most) {
                self.counts[class] += 1;
            }
        }
    }

    /// Names and counts; each connection is in one class.
    pub fn counters(&self) -> impl Iterator<Item = (&'static str, u64)> + use<> {
        let counts = self.counts;
        CLASSES.into_iter().zip(counts).map(|((_, name), count)| (name, count))
    }
}
