//! Parts that do not work: told when it has lasted, once, and again when they have worked for a while.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use super::agent::Agent;
use crate::{
    clock,
    core::{notice::Channel, snapshot::Degraded},
    fault,
    notify::{
        alerts::{BACKUP, LEDGER, part_of},
        run::Handle,
    },
};

/// A part that works for so long works again: one that comes and goes is told once.
const WELL_NS: u64 = 60_000_000_000;

/// What is to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    Began { part: String, reason: String, since_ms: i64 },
    Over { part: String },
}

/// What is known of parts. Without anybody to tell it stays empty.
#[derive(Default)]
pub struct Troubles {
    notifier: Option<Handle>,
    /// How long a trouble must last.
    after_ns: u64,
    /// Since when (monotonic) parts do not work, whether or not that was told.
    since_ns: BTreeMap<&'static str, u64>,
    /// Since when parts work of which it was told that they do not.
    well_ns: BTreeMap<String, u64>,
    told: BTreeSet<String>,
}

impl Troubles {
    /// `told`: parts of which people know that they do not work, from another life of the agent.
    pub fn new(notifier: Option<Handle>, after: std::time::Duration, told: Vec<String>) -> Self {
        let after_ns = u64::try_from(after.as_nanos()).unwrap_or(u64::MAX) / fault::hurry();
        Troubles { notifier, after_ns, told: told.into_iter().collect(), ..Troubles::default() }
    }

    /// What is to be told of these parts, each once.
    fn look(&mut self, degraded: &[Degraded], now_ns: u64) -> Vec<Told> {
        let mut news = Vec::new();
        self.since_ns.retain(|part, _| degraded.iter().any(|it| it.part == *part));
        for it in degraded {
            let since_ns = *self.since_ns.entry(it.part).or_insert(now_ns);
            self.well_ns.remove(it.part);
            // A backup is tried for long before it counts as failed.
            let after_ns = if it.part == BACKUP { 0 } else { self.after_ns };
            if now_ns.saturating_sub(since_ns) >= after_ns && self.told.insert(it.part.to_owned()) {
                let (part, reason) = (it.part.to_owned(), it.reason.clone());
                news.push(Told::Began { part, reason, since_ms: it.since_ms });
            }
        }
        for part in self.told.clone() {
            if degraded.iter().any(|it| it.part == part) {
                continue;
            }
            let well_ns = *self.well_ns.entry(part.clone()).or_insert(now_ns);
            if now_ns.saturating_sub(well_ns) >= WELL_NS / fault::hurry() {
                self.well_ns.remove(&part);
                self.told.remove(&part);
                news.push(Told::Over { part });
            }
        }
        news
    }
}

impl Agent {
    /// Channels that do not get through are parts that do not work; and whatever lasts is told.
    pub(super) fn tell_troubles(&mut self, degraded: &[Degraded]) {
        let Some(notifier) = self.troubles.notifier.clone() else { return };
        let now = clock::now();
        for news in self.troubles.look(degraded, now.mono_ns) {
            match news {
                Told::Began { part, reason, since_ms } => {
                    let direct = part == LEDGER;
                    let message = format!("{part} does not work: {reason}");
                    let data = json!({
                        "part": part, "reason": reason, "since_ms": since_ms, "message": message,
                        "severity": "warning", "direct": direct,
                    });
                    if direct {
                        notifier.urgent(json!({
                            "event": "trouble_began", "kind": "trouble", "at_ms": now.wall_ms, "data": data,
                        }));
                    }
                    self.event("trouble_began", None, data);
                }
                Told::Over { part } => {
                    let message = format!("{part} works again");
                    self.event("trouble_over", None, json!({ "part": part, "message": message }));
                }
            }
        }
    }

    /// To be called before a picture is made.
    pub(super) fn channels_as_parts(&mut self) {
        let Some(notifier) = &mut self.troubles.notifier else { return };
        if !notifier.states.has_changed().unwrap_or(false) {
            return;
        }
        let states = notifier.states.borrow_and_update().clone();
        for (channel, state) in Channel::ALL.into_iter().zip(states.iter()) {
            match state.failing() {
                Some((_, reason)) => {
                    self.meter.publisher.degrade(part_of(channel), reason.clone(), clock::now());
                }
                None => self.meter.publisher.restore(part_of(channel)),
            }
        }
    }

    /// Lets messages that are under way come to their end.
    pub(super) async fn end_notify(&self) {
        if let Some(notifier) = self.troubles.notifier.clone() {
            let _ = tokio::task::spawn_blocking(move || notifier.end()).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const S: u64 = 1_000_000_000;

    fn degraded(part: &'static str) -> Degraded {
        Degraded { part, reason: "gone".to_owned(), since_ms: 5 }
    }

    fn began(part: &str) -> Told {
        Told::Began { part: part.to_owned(), reason: "gone".to_owned(), since_ms: 5 }
    }

    #[test]
    fn what_lasts_is_told_once_and_that_it_is_over() {
        let mut troubles = Troubles::new(None, Duration::from_secs(120), Vec::new());
        let source = [degraded("source")];
        assert_eq!(troubles.look(&source, 0), []);
        assert_eq!(troubles.look(&source, 119 * S), []);
        assert_eq!(troubles.look(&source, 120 * S), [began("source")]);
        assert_eq!(troubles.look(&source, 500 * S), []);
        assert_eq!(troubles.look(&[], 501 * S), []);
        assert_eq!(troubles.look(&source, 510 * S), [], "it comes and goes");
        assert_eq!(troubles.look(&[], 511 * S), []);
        assert_eq!(troubles.look(&[], 571 * S), [Told::Over { part: "source".to_owned() }]);
        assert_eq!(troubles.look(&[], 999 * S), []);
    }

    #[test]
    fn what_passes_is_not_told() {
        let mut troubles = Troubles::new(None, Duration::from_secs(120), Vec::new());
        for at in 0..20 {
            assert_eq!(troubles.look(&[degraded("source")], at * 60 * S), []);
            assert_eq!(troubles.look(&[], (at * 60 + 30) * S), []);
        }
    }

    #[test]
    fn what_was_told_by_another_life_is_not_told_again() {
        let mut troubles =
            Troubles::new(None, Duration::ZERO, vec!["source".to_owned(), "kernel".to_owned()]);
        assert_eq!(troubles.look(&[degraded("source")], 0), []);
        assert_eq!(troubles.look(&[degraded("source")], 60 * S), [Told::Over { part: "kernel".to_owned() }]);
    }

    #[test]
    fn a_backup_that_failed_is_told_at_once() {
        let mut troubles = Troubles::new(None, Duration::from_secs(120), Vec::new());
        assert_eq!(troubles.look(&[degraded(BACKUP)], 0), [began(BACKUP)]);
    }
}
