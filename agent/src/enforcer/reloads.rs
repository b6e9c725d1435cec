//! When a proxy is told to read its files again. A reload drops every connection, so it is rare: what
//! lets somebody in waits a moment for others like it; what takes somebody out is enforced by the kernel
//! already and waits until nobody would notice, or for so long at most. Pure: the time comes in.

use std::{collections::BTreeMap, time::Duration};

use super::users_edit::{Change, What};

/// Let in together if asked for within this time.
pub const BATCH: Duration = Duration::from_secs(2);

/// After a reload that failed, the next is tried after this time, then after twice as long each, up to
/// `[singbox] reload_within`.
pub const RETRY: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub batch: Duration,
    /// `[singbox] reload_within`.
    pub within: Duration,
    /// [`RETRY`].
    pub retry: Duration,
}

/// What goes on around.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scene {
    /// Open flows of users who would lose them.
    pub flows: u64,
    /// Nobody tells owners: a new connection of somebody who is cut would not be known.
    pub source_down: bool,
}

/// Why now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Somebody is to come in.
    Admits,
    /// Nobody would notice.
    Quiet,
    /// It has waited for as long as it may.
    Waited,
    SourceDown,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Nothing waits for a reload.
    None,
    /// Not before this time (ns, monotonic), unless the scene changes: ask again then, and each tick.
    At(u64),
    Now(Why),
}

/// What happened so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub reloads: u64,
    pub failed: u64,
    /// Spared, since sing-box read its files by itself.
    pub by_restart: u64,
    /// Changes that were taken back before a reload.
    pub cancelled: u64,
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    admits: bool,
    /// sing-box still lets in whoever has the old credential of this name.
    stale: bool,
    since_ns: u64,
}

/// What sing-box has not read yet.
#[derive(Debug)]
pub struct Reloads {
    settings: Settings,
    waiting: BTreeMap<(String, String), Waiting>,
    not_before_ns: u64,
    /// In a row.
    failures: u32,
    counts: Counts,
}

fn ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl Reloads {
    pub fn new(settings: Settings) -> Self {
        let counts = Counts::default();
        Reloads { settings, waiting: BTreeMap::new(), not_before_ns: 0, failures: 0, counts }
    }

    pub fn set(&mut self, settings: Settings) {
        self.settings = settings;
    }

    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Users and inbounds that wait: let in, taken out.
    pub fn waiting(&self) -> (usize, usize) {
        let admits = self.waiting.values().filter(|waiting| waiting.admits).count();
        (admits, self.waiting.len() - admits)
    }

    /// Whose changes wait.
    pub fn users(&self) -> impl Iterator<Item = &str> {
        self.waiting.keys().map(|(_, user)| user.as_str())
    }

    /// The inbounds and users that wait.
    pub fn keys(&self) -> Vec<(String, String)> {
        self.waiting.keys().cloned().collect()
    }

    /// The running proxy was told of this by its API.
    pub fn settled(&mut self, key: &(String, String)) {
        if self.waiting.remove(key).is_some() && self.waiting.is_empty() {
            self.failures = 0;
            self.not_before_ns = 0;
        }
    }

    /// Since when the oldest change waits.
    pub fn oldest_ns(&self) -> Option<u64> {
        self.waiting.values().map(|waiting| waiting.since_ns).min()
    }

    /// A file was written. What was undone before sing-box has read it needs no reload.
    pub fn changed(&mut self, change: &Change, now_ns: u64) {
        let key = (change.inbound.clone(), change.user.clone());
        let admits = change.what.admits();
        let known = self.waiting.get(&key).copied();
        let waiting = match known {
            Some(waiting) if waiting.admits == admits => waiting,
            // A new entry has another credential than the one that sing-box still knows.
            Some(_) if change.what == What::Added => Waiting { admits, stale: true, since_ns: now_ns },
            Some(waiting) if !waiting.stale => {
                self.waiting.remove(&key);
                self.counts.cancelled += 1;
                return;
            }
            _ => Waiting { admits, stale: false, since_ns: now_ns },
        };
        self.waiting.insert(key, waiting);
    }

    /// sing-box was seen to read its files by itself: a restart, somebody's reload.
    pub fn restarted(&mut self) {
        self.counts.by_restart += u64::from(!self.waiting.is_empty());
        self.done();
    }

    /// The reload that was asked for came to pass.
    pub fn reloaded(&mut self) {
        self.counts.reloads += 1;
        self.done();
    }

    fn done(&mut self) {
        self.waiting.clear();
        self.failures = 0;
        self.not_before_ns = 0;
    }

    /// There is nobody to tell: sing-box reads its files when it starts.
    pub fn not_running(&mut self) {
        self.done();
    }

    /// It failed. `put_back`: the files are as sing-box knows them again, and what is still wanted is planned
    /// and written anew, and told by `changed`. Otherwise they stay as they are and wait on.
    pub fn failed(&mut self, put_back: bool, now_ns: u64) {
        self.counts.failed += 1;
        let retry = self.settings.retry;
        let longest = self.settings.within.max(retry);
        let pause = retry.saturating_mul(1 << self.failures.min(16)).min(longest);
        self.failures = self.failures.saturating_add(1);
        self.not_before_ns = now_ns.saturating_add(ns(pause));
        if put_back {
            self.waiting.clear();
        }
    }

    /// The last reload failed, and something waits for the next.
    pub fn failing(&self) -> bool {
        self.failures > 0 && !self.waiting.is_empty()
    }

    pub fn decide(&self, now_ns: u64, scene: Scene) -> Decision {
        let oldest = |admits: bool| {
            let of_kind = self.waiting.values().filter(|waiting| waiting.admits == admits);
            of_kind.map(|waiting| waiting.since_ns).min()
        };
        let after = |since: u64, wait: Duration| since.saturating_add(ns(wait));
        let admits = oldest(true).map(|since| (after(since, self.settings.batch), Why::Admits));
        let removes = oldest(false).map(|since| {
            let quiet = (after(since, self.settings.batch), Why::Quiet);
            let waited = (after(since, self.settings.within), Why::Waited);
            match scene {
                Scene { source_down: true, .. } => (after(since, self.settings.batch), Why::SourceDown),
                Scene { flows: 0, .. } => quiet.min_by_time(waited),
                _ => waited,
            }
        });
        let due = [admits, removes].into_iter().flatten().reduce(ByTime::min_by_time);
        match due {
            None => Decision::None,
            Some((at, why)) if at.max(self.not_before_ns) <= now_ns => Decision::Now(why),
            Some((at, _)) => Decision::At(at.max(self.not_before_ns)),
        }
    }
}

trait ByTime: Sized {
    fn min_by_time(self, other: Self) -> Self;
}

impl ByTime for (u64, Why) {
    fn min_by_time(self, other: Self) -> Self {
        if other.0 < self.0 { other } else { self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;
    const BUSY: Scene = Scene { flows: 3, source_down: false };
    const QUIET: Scene = Scene { flows: 0, source_down: false };

    fn reloads() -> Reloads {
        Reloads::new(Settings { batch: BATCH, within: Duration::from_secs(600), retry: RETRY })
    }

    fn change(user: &str, what: What) -> Change {
        Change { user: user.into(), inbound: "in".into(), what }
    }

    #[test]
    fn who_comes_in_is_batched_and_who_is_out_waits_for_quiet() {
        let mut reloads = reloads();
        assert_eq!(reloads.decide(0, QUIET), Decision::None);
        reloads.changed(&change("a", What::TakenOut), 10 * S);
        assert_eq!(reloads.decide(10 * S, BUSY), Decision::At(610 * S));
        assert_eq!(reloads.decide(11 * S, QUIET), Decision::At(12 * S));
        assert_eq!(reloads.decide(12 * S, QUIET), Decision::Now(Why::Quiet));
        assert_eq!(reloads.decide(610 * S, BUSY), Decision::Now(Why::Waited));
        let down = Scene { source_down: true, ..BUSY };
        assert_eq!(reloads.decide(10 * S, down), Decision::At(12 * S), "with all others of these seconds");
        assert_eq!(reloads.decide(12 * S, down), Decision::Now(Why::SourceDown));
        reloads.changed(&change("b", What::Added), 20 * S);
        reloads.changed(&change("c", What::PutBack), 21 * S);
        assert_eq!(reloads.decide(21 * S, BUSY), Decision::At(22 * S));
        assert_eq!(reloads.decide(22 * S, BUSY), Decision::Now(Why::Admits));
        assert_eq!(reloads.waiting(), (2, 1));
        reloads.reloaded();
        assert_eq!(reloads.decide(u64::MAX, down), Decision::None);
        assert_eq!(reloads.counts().reloads, 1);
    }

    #[test]
    fn a_thousand_at_once_are_one() {
        let mut reloads = reloads();
        for user in 0..1000 {
            reloads.changed(&change(&format!("u{user}"), What::TakenOut), S + user);
        }
        assert_eq!(reloads.decide(3 * S, QUIET), Decision::Now(Why::Quiet));
        reloads.reloaded();
        assert_eq!(reloads.decide(4 * S, QUIET), Decision::None);
        assert_eq!(reloads.counts(), Counts { reloads: 1, ..Counts::default() });
    }

    #[test]
    fn what_is_taken_back_before_is_cancelled() {
        let mut reloads = reloads();
        reloads.changed(&change("a", What::TakenOut), S);
        reloads.changed(&change("a", What::PutBack), 2 * S);
        assert_eq!(reloads.decide(100 * S, QUIET), Decision::None);
        reloads.changed(&change("a", What::Added), 3 * S);
        reloads.changed(&change("a", What::Deleted), 4 * S);
        assert_eq!(reloads.decide(100 * S, QUIET), Decision::None);
        assert_eq!(reloads.counts().cancelled, 2);
        // sing-box still knows the old credential, and must learn the new one.
        reloads.changed(&change("a", What::Deleted), 5 * S);
        reloads.changed(&change("a", What::Added), 6 * S);
        assert_eq!(reloads.decide(100 * S, BUSY), Decision::Now(Why::Admits));
        reloads.changed(&change("a", What::Deleted), 7 * S);
        assert_eq!(reloads.decide(9 * S, QUIET), Decision::Now(Why::Quiet), "the first one is still in");
    }

    #[test]
    fn a_restart_spares_the_reload_and_a_failure_waits() {
        let mut reloads = reloads();
        reloads.restarted();
        reloads.changed(&change("a", What::TakenOut), S);
        reloads.restarted();
        assert_eq!(reloads.decide(1000 * S, QUIET), Decision::None);
        assert_eq!(reloads.counts().by_restart, 1);
        let mut now = 0;
        for wait in [60, 120, 240, 480, 600, 600] {
            reloads.failed(true, now);
            assert_eq!(reloads.decide(now, QUIET), Decision::None, "the old files are in force");
            assert!(!reloads.failing(), "nothing waits");
            reloads.changed(&change("a", What::PutBack), now);
            assert_eq!(reloads.decide(now, QUIET), Decision::At(now + wait * S));
            now += wait * S;
            assert_eq!(reloads.decide(now, QUIET), Decision::Now(Why::Admits));
        }
        reloads.reloaded();
        reloads.changed(&change("a", What::TakenOut), now);
        assert_eq!(reloads.decide(now + 2 * S, QUIET), Decision::Now(Why::Quiet));
        assert_eq!((reloads.counts().failed, reloads.counts().reloads), (6, 1));
    }

    #[test]
    fn what_stays_in_the_files_waits_for_the_next_reload() {
        let mut reloads = reloads();
        reloads.changed(&change("a", What::Added), S);
        reloads.failed(false, 3 * S);
        assert!(reloads.failing());
        assert_eq!(reloads.decide(4 * S, BUSY), Decision::At(63 * S), "with nothing written anew");
        assert_eq!(reloads.decide(63 * S, BUSY), Decision::Now(Why::Admits));
        reloads.failed(false, 63 * S);
        reloads.changed(&change("a", What::Deleted), 64 * S);
        assert!(!reloads.failing(), "it was taken back");
        assert_eq!(reloads.decide(1000 * S, QUIET), Decision::None);
    }
}
