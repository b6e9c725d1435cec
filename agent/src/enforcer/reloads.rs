//! When a proxy is told to read its files again. A reload drops every connection, so it is rare: what
//! lets somebody in waits a moment for others like it; what takes somebody out is enforced by the kernel
//! already and waits until nobody would notice, or for so long at most. Pure: the time comes in.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use super::users_edit::{Change, What};

/// Let in together if asked for within this time.
pub const BATCH: Duration = Duration::from_secs(2);

/// After a reload that failed, the next is tried after this time, then after twice as long each, up to
/// `[singbox] reload_within`.
pub const RETRY: Duration = Duration::from_secs(60);

/// Reloads that fail in a row before that is left to people: each drops every connection, and what failed so
/// often does not come right by itself.
pub const GIVE_UP: u32 = 5;

/// How a reload failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failed {
    /// Before sing-box was told: nothing has changed for anybody.
    Untold,
    /// The files stay as they are and wait on.
    Told,
    /// The files are as sing-box knows them again: what is still wanted is planned and written anew, and told by
    /// [`Reloads::changed`].
    PutBack,
}

/// For so long it is known which change was made when: until it is seen that sing-box has begun anew.
const RECENT: Duration = Duration::from_secs(60);

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
    /// The running proxy is told each change by itself, and may have been told before that was noted: then the
    /// last one is told in any case, and nothing is taken back by its opposite.
    live: bool,
    waiting: BTreeMap<(String, String), Waiting>,
    /// Changes of the last [`RECENT`], with when they were written.
    recent: VecDeque<(Change, u64)>,
    not_before_ns: u64,
    /// In a row.
    failures: u32,
    /// Of those, in which sing-box was told.
    drops: u32,
    counts: Counts,
}

fn ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl Reloads {
    pub fn new(settings: Settings) -> Self {
        let counts = Counts::default();
        let (waiting, recent) = (BTreeMap::new(), VecDeque::new());
        Reloads { settings, live: false, waiting, recent, not_before_ns: 0, failures: 0, drops: 0, counts }
    }

    pub fn set(&mut self, settings: Settings) {
        self.settings = settings;
    }

    /// Whether the running proxy is told by its API.
    pub fn set_live(&mut self, live: bool) {
        self.live = live;
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
        while self.recent.front().is_some_and(|(_, at)| at.saturating_add(ns(RECENT)) < now_ns) {
            self.recent.pop_front();
        }
        self.recent.push_back((change.clone(), now_ns));
        self.wait_for(change, now_ns);
    }

    fn wait_for(&mut self, change: &Change, now_ns: u64) {
        let key = (change.inbound.clone(), change.user.clone());
        let admits = change.what.admits();
        let known = self.waiting.get(&key).copied();
        let waiting = match known {
            Some(waiting) if waiting.admits == admits => waiting,
            // A new entry has another credential than the one that sing-box still knows.
            Some(_) if change.what == What::Added => Waiting { admits, stale: true, since_ns: now_ns },
            Some(waiting) if !waiting.stale && !self.live => {
                self.waiting.remove(&key);
                self.counts.cancelled += 1;
                return;
            }
            _ => Waiting { admits, stale: false, since_ns: now_ns },
        };
        self.waiting.insert(key, waiting);
    }

    /// A sing-box was seen that began at this time (ns, monotonic): it has read what was written before.
    pub fn restarted(&mut self, began_ns: u64) {
        let waited = !self.waiting.is_empty();
        let recent = std::mem::take(&mut self.recent);
        self.done();
        for (change, at) in recent.into_iter().filter(|(_, at)| *at >= began_ns) {
            self.changed(&change, at);
        }
        self.counts.by_restart += u64::from(waited && self.waiting.is_empty());
    }

    /// The reload that was asked for came to pass.
    pub fn reloaded(&mut self) {
        self.counts.reloads += 1;
        self.done();
    }

    fn done(&mut self) {
        self.waiting.clear();
        self.recent.clear();
        self.try_again();
    }

    /// What made reloads fail may be over: somebody has edited the files.
    pub fn try_again(&mut self) {
        (self.failures, self.drops) = (0, 0);
        self.not_before_ns = 0;
    }

    /// Somebody asks for what needs a reload: once more.
    pub fn asked(&mut self) {
        if self.gave_up() {
            self.drops = GIVE_UP - 1;
            self.not_before_ns = 0;
        }
    }

    /// It failed so often that it waits for somebody.
    pub fn gave_up(&self) -> bool {
        self.drops >= GIVE_UP
    }

    /// There is nobody to tell: sing-box reads its files when it starts. If it has begun meanwhile, that will be
    /// seen ([`Reloads::restarted`]).
    pub fn not_running(&mut self) {
        self.waiting.clear();
        self.try_again();
    }

    /// It failed.
    pub fn failed(&mut self, how: Failed, now_ns: u64) {
        self.counts.failed += 1;
        let retry = self.settings.retry;
        let longest = self.settings.within.max(retry);
        let pause = retry.saturating_mul(1 << self.failures.min(16)).min(longest);
        self.failures = self.failures.saturating_add(1);
        self.not_before_ns = now_ns.saturating_add(ns(pause));
        // Only what has dropped connections is not to go on for ever.
        self.drops = self.drops.saturating_add(u32::from(how != Failed::Untold));
        if how == Failed::PutBack {
            self.waiting.clear();
            self.recent.clear();
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
            _ if self.gave_up() => Decision::None,
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

    /// An agent died between the call and its note: what the file says now is told, whatever was said before.
    #[test]
    fn what_is_told_by_an_api_is_never_taken_back() {
        let mut reloads = reloads();
        reloads.set_live(true);
        reloads.changed(&change("a", What::TakenOut), S);
        reloads.changed(&change("a", What::PutBack), 2 * S);
        assert_eq!(reloads.keys(), [("in".to_owned(), "a".to_owned())]);
        assert_eq!((reloads.waiting(), reloads.counts().cancelled), ((1, 0), 0));
        reloads.settled(&("in".to_owned(), "a".to_owned()));
        assert_eq!(reloads.decide(100 * S, QUIET), Decision::None);
        assert_eq!(reloads.counts(), Counts::default(), "nobody was dropped");
    }

    #[test]
    fn a_restart_spares_the_reload_and_a_failure_waits() {
        let mut reloads = reloads();
        reloads.restarted(0);
        reloads.changed(&change("a", What::TakenOut), S);
        reloads.restarted(2 * S);
        assert_eq!(reloads.decide(1000 * S, QUIET), Decision::None);
        assert_eq!(reloads.counts().by_restart, 1);
        let mut now = 0;
        for wait in [60, 120, 240, 480] {
            reloads.failed(Failed::PutBack, now);
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
        assert_eq!((reloads.counts().failed, reloads.counts().reloads), (4, 1));
    }

    /// It is seen only a moment later that sing-box has begun anew.
    #[test]
    fn what_was_written_after_the_begin_is_not_forgotten() {
        let mut reloads = reloads();
        reloads.changed(&change("a", What::TakenOut), S);
        reloads.changed(&change("b", What::TakenOut), 3 * S);
        // Taken back after the new one has read that a is out: for that one it is news.
        reloads.changed(&change("a", What::PutBack), 3 * S);
        reloads.restarted(2 * S);
        assert_eq!(reloads.waiting(), (1, 1));
        assert_eq!(reloads.users().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(reloads.counts().by_restart, 0);
        reloads.reloaded();
        // While none ran nothing waited, and yet the next one may have begun before that was seen.
        reloads.changed(&change("c", What::TakenOut), 10 * S);
        reloads.not_running();
        assert_eq!(reloads.decide(100 * S, QUIET), Decision::None);
        reloads.restarted(9 * S);
        assert_eq!(reloads.waiting(), (0, 1));
        reloads.restarted(11 * S);
        assert_eq!(reloads.waiting(), (0, 0));
    }

    /// Each try drops everybody.
    #[test]
    fn what_fails_again_and_again_waits_for_somebody() {
        let mut reloads = reloads();
        let mut now = 0;
        let fails = |reloads: &mut Reloads, now: &mut u64| {
            reloads.changed(&change("a", What::Added), *now);
            let Decision::At(at) = reloads.decide(*now, BUSY) else { panic!("it waits") };
            assert!(matches!(reloads.decide(at, BUSY), Decision::Now(_)));
            *now = at;
            reloads.failed(Failed::PutBack, at);
        };
        for _ in 0..GIVE_UP {
            assert!(!reloads.gave_up());
            fails(&mut reloads, &mut now);
        }
        reloads.changed(&change("a", What::Added), now);
        assert!(reloads.gave_up() && reloads.failing());
        assert_eq!(reloads.decide(now + 1_000_000 * S, QUIET), Decision::None);
        reloads.asked();
        assert!(matches!(reloads.decide(now + 3 * S, BUSY), Decision::Now(_)), "once");
        reloads.failed(Failed::PutBack, now + 3 * S);
        reloads.changed(&change("a", What::Added), now + 4 * S);
        assert_eq!(reloads.decide(now + 1_000_000 * S, BUSY), Decision::None);
        reloads.try_again();
        assert!(matches!(reloads.decide(now + 7 * S, BUSY), Decision::Now(_)));
    }

    /// A full disk, a file that is no configuration for a while: nobody is dropped by a try.
    #[test]
    fn what_never_reached_sing_box_is_tried_for_ever() {
        let mut reloads = reloads();
        reloads.changed(&change("a", What::Added), S);
        let mut now = S;
        for _ in 0..5 * GIVE_UP {
            let Decision::At(at) = reloads.decide(now, BUSY) else { panic!("it gave up") };
            reloads.failed(Failed::Untold, at);
            now = at;
        }
        assert!(reloads.failing() && !reloads.gave_up());
    }

    #[test]
    fn what_stays_in_the_files_waits_for_the_next_reload() {
        let mut reloads = reloads();
        reloads.changed(&change("a", What::Added), S);
        reloads.failed(Failed::Told, 3 * S);
        assert!(reloads.failing());
        assert_eq!(reloads.decide(4 * S, BUSY), Decision::At(63 * S), "with nothing written anew");
        assert_eq!(reloads.decide(63 * S, BUSY), Decision::Now(Why::Admits));
        reloads.failed(Failed::Untold, 63 * S);
        reloads.changed(&change("a", What::Deleted), 64 * S);
        assert!(!reloads.failing(), "it was taken back");
        assert_eq!(reloads.decide(1000 * S, QUIET), Decision::None);
    }
}
