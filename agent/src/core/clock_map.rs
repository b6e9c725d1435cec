//! Turns instants of the wall clock, as sing-box tells them, into instants of the monotonic clock.
//!
//! Owns the history of the two clocks' difference and nothing else. The monotonic clock is slewed
//! together with the wall clock, so that their difference is constant except for steps (an
//! administrator, NTP at boot, a suspended machine). A step is learnt from the next [`Now`]; an
//! instant that lies before the step is converted with the difference of its own time. Around a step,
//! an instant of the wall clock may have been there twice: then there are several answers, and the
//! caller must not choose between them by guessing.

use super::event::Now;

/// How far a converted instant may be off, to either side: both readings of the wall clock are cut
/// to milliseconds (±1 ms together), and the shell's two clock readings lie apart by the time that the
/// scheduler takes between them.
pub const CLOCK_ERROR_NS: u64 = 2_000_000;

/// A difference of the two clocks counts as new after so many readings that agree on it. One reading
/// alone may come from a shell that was interrupted between its two clock readings.
const STEP_READINGS: u32 = 3;

/// Steps remembered. Machines step their clock at boot and then hardly ever; with more than this, the
/// oldest is forgotten, and instants before it count as unknown.
const STEPS_MAX: usize = 16;

const MS: i128 = 1_000_000;

/// Where in monotonic time an instant of the wall clock may lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Instants {
    /// At these instants (±[`CLOCK_ERROR_NS`]); several only around a step of the wall clock.
    At(Vec<u64>),
    /// At no time since this process watches the clocks: before that, then. If the wall clock was not
    /// stepped between, it was at this instant.
    BeforeStart { if_not_stepped_ns: Option<u64> },
}

/// A time in which the clocks' difference was constant.
#[derive(Clone, Copy, Debug)]
struct Span {
    /// Wall time minus monotonic time.
    difference_ns: i128,
    /// The last reading before it and the first after it, between which it may begin and end.
    from_ns: u64,
    until_ns: u64,
}

/// The history of the difference of the wall clock and the monotonic clock.
#[derive(Clone, Debug, Default)]
pub struct ClockMap {
    spans: Vec<Span>,
    /// A new difference that too few readings agree on.
    candidate: Option<(Span, u32)>,
    last_ns: Option<u64>,
    steps: u64,
}

impl ClockMap {
    /// Learns from a reading of both clocks. Readings that go back in monotonic time are ignored.
    pub fn observe(&mut self, now: Now) {
        if self.last_ns.is_some_and(|last| now.mono_ns <= last) {
            return;
        }
        let from_ns = self.last_ns.unwrap_or(now.mono_ns);
        self.last_ns = Some(now.mono_ns);
        let fresh = Span { difference_ns: difference_ns(now), from_ns, until_ns: u64::MAX };
        let Some(current) = self.spans.last() else {
            self.spans.push(fresh);
            return;
        };
        if close(current.difference_ns, fresh.difference_ns) {
            self.candidate = None;
            return;
        }
        self.candidate = match self.candidate.take() {
            Some((span, readings)) if close(span.difference_ns, fresh.difference_ns) => {
                Some((span, readings + 1))
            }
            _ => Some((fresh, 1)),
        };
        if let Some((span, STEP_READINGS..)) = self.candidate {
            self.step(span, now.mono_ns);
        }
    }

    fn step(&mut self, span: Span, now_ns: u64) {
        self.candidate = None;
        self.steps += 1;
        if let Some(current) = self.spans.last_mut() {
            // The old difference was last seen at `span.from_ns`, and not any more at this reading.
            current.until_ns = now_ns;
        }
        if self.spans.len() == STEPS_MAX {
            self.spans.remove(0);
        }
        self.spans.push(span);
    }

    /// The monotonic instants up to the last reading at which the wall clock may have shown this.
    pub fn instants(&self, wall_ms: i64) -> Instants {
        let latest = self.last_ns.unwrap_or(0).saturating_add(CLOCK_ERROR_NS);
        let spans = self.spans.iter().chain(self.candidate.as_ref().map(|(span, _)| span));
        let mut instants: Vec<u64> =
            spans.filter_map(|span| span.instant(wall_ms)).filter(|&at| at <= latest).collect();
        instants.sort_unstable();
        instants.dedup();
        if instants.is_empty() {
            let first = self.spans.first();
            let if_not_stepped_ns =
                first.and_then(|span| span.convert(wall_ms)).filter(|&at| at < self.start_ns());
            return Instants::BeforeStart { if_not_stepped_ns };
        }
        Instants::At(instants)
    }

    /// When this process began to watch the clocks, or the oldest step that it remembers.
    pub fn start_ns(&self) -> u64 {
        self.spans.first().map_or(0, |span| span.from_ns)
    }

    /// Steps of the wall clock seen.
    pub fn steps(&self) -> u64 {
        self.steps
    }
}

impl Span {
    fn instant(&self, wall_ms: i64) -> Option<u64> {
        let mono_ns = self.convert(wall_ms)?;
        let error = CLOCK_ERROR_NS;
        let inside =
            mono_ns >= self.from_ns.saturating_sub(error) && mono_ns <= self.until_ns.saturating_add(error);
        inside.then_some(mono_ns)
    }

    fn convert(&self, wall_ms: i64) -> Option<u64> {
        u64::try_from(i128::from(wall_ms) * MS - self.difference_ns).ok()
    }
}

fn difference_ns(now: Now) -> i128 {
    i128::from(now.wall_ms) * MS - i128::from(now.mono_ns)
}

fn close(a: i128, b: i128) -> bool {
    (a - b).abs() <= i128::from(CLOCK_ERROR_NS)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;
    const WALL: i64 = 1_800_000_000_000;

    fn at(seconds: u64, wall_step_ms: i64) -> Now {
        Now {
            mono_ns: seconds * SECOND,
            wall_ms: WALL + i64::try_from(seconds).expect("small") * 1_000 + wall_step_ms,
        }
    }

    fn map(readings: impl IntoIterator<Item = Now>) -> ClockMap {
        let mut map = ClockMap::default();
        readings.into_iter().for_each(|now| map.observe(now));
        map
    }

    #[test]
    fn constant_difference_gives_one_instant() {
        let map = map((100..110).map(|s| at(s, 0)));
        assert_eq!(map.instants(WALL + 105_250), Instants::At(vec![105_250_000_000]));
        assert_eq!(map.steps(), 0);
    }

    #[test]
    fn before_the_start_is_unknown() {
        let if_not_stepped_ns = Some(50 * SECOND);
        assert_eq!(map([at(100, 0)]).instants(WALL + 50_000), Instants::BeforeStart { if_not_stepped_ns });
    }

    #[test]
    fn a_clock_that_was_ahead_before_the_start_gives_no_future() {
        let map = map([at(100, 0), at(101, 0)]);
        assert_eq!(map.instants(WALL + 7_200_000), Instants::BeforeStart { if_not_stepped_ns: None });
    }

    #[test]
    fn one_interrupted_reading_is_no_step() {
        let map = map([at(100, 0), at(101, 500), at(102, 0)]);
        assert_eq!(map.steps(), 0);
        assert_eq!(map.instants(WALL + 101_000), Instants::At(vec![101 * SECOND]));
    }

    #[test]
    fn instants_before_and_after_a_step_forward() {
        let hour = 3_600_000;
        let map = map((100..110).map(|s| at(s, 0)).chain((110..120).map(|s| at(s, hour))));
        assert_eq!(map.steps(), 1);
        assert_eq!(map.instants(WALL + 104_000), Instants::At(vec![104 * SECOND]));
        assert_eq!(map.instants(WALL + hour + 115_000), Instants::At(vec![115 * SECOND]));
    }

    #[test]
    fn a_step_back_gives_both_instants() {
        let map = map((100..200).map(|s| at(s, 0)).chain((200..300).map(|s| at(s, -50_000))));
        assert_eq!(map.instants(WALL + 180_000), Instants::At(vec![180 * SECOND, 230 * SECOND]));
    }

    #[test]
    fn a_step_is_known_from_its_first_reading() {
        let map = map([at(100, 0), at(101, 0), at(102, -10_000)]);
        assert_eq!(
            map.instants(WALL + 101_700 - 10_000),
            Instants::At(vec![101_700_000_000]),
            "created between the step and the first reading after it"
        );
    }

    #[test]
    fn absurd_instants_do_not_panic() {
        let map = map([at(100, 0)]);
        for wall in [i64::MIN, -1, 0, i64::MAX] {
            let _ = map.instants(wall);
        }
    }
}
