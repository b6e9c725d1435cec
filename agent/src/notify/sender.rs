//! One channel's messages, one after the other, each marked in the ledger before it goes out.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::sync::{Notify as Wake, watch};

use super::{Verdict, Ways};
use crate::{
    clock,
    core::notice::Channel,
    fault,
    ledger::{Delivery, Ledger, Outcome, WAIT_MS_MAX},
};

/// Before the second attempt; each one later waits twice as long.
const FIRST_WAIT_MS: i64 = 5_000;
/// Until the ledger is asked again after it could not do its part.
const LEDGER_AGAIN: Duration = Duration::from_secs(1);
/// Between two messages of one channel: no server is flooded.
const PAUSE: Duration = Duration::from_millis(50);

/// How a channel does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChannelState {
    /// Since when (UTC milliseconds) nothing gets through, and why.
    failing: Option<(i64, String)>,
    /// The admin's places to which nothing gets through, though the channel works.
    refused: BTreeMap<String, (i64, String)>,
}

impl ChannelState {
    /// Since when something does not get through that people count on, and why.
    pub fn failing(&self) -> Option<&(i64, String)> {
        self.failing.as_ref().or_else(|| self.refused.values().min())
    }

    /// What an attempt says of the channel; false: nothing new.
    fn learn(&mut self, recipient: &str, own: bool, verdict: &Verdict, now_ms: i64) -> bool {
        let before = self.clone();
        let since = |known: Option<&(i64, String)>| known.map_or(now_ms, |(since, _)| *since);
        match verdict {
            Verdict::Done => {
                self.failing = None;
                self.refused.remove(recipient);
            }
            Verdict::Later { why, all: true, .. }
            | Verdict::Refused { why, all: true }
            | Verdict::Unsure { why } => {
                self.failing = Some((since(self.failing.as_ref()), why.clone()));
            }
            // That one user's mailbox does not take it says nothing of the others.
            Verdict::Later { .. } | Verdict::Refused { .. } if own => {}
            Verdict::Later { why, .. } | Verdict::Refused { why, .. } => {
                let since = since(self.refused.get(recipient));
                self.refused.insert(recipient.to_owned(), (since, why.clone()));
            }
        }
        *self != before
    }
}

/// All of them, in the order of [`Channel::ALL`].
pub type States = [ChannelState; 3];

pub fn place(channel: Channel) -> usize {
    match channel {
        Channel::Mail => 0,
        Channel::Telegram => 1,
        Channel::Webhook => 2,
    }
}

pub struct Sender {
    pub channel: Channel,
    pub ways: Arc<Ways>,
    pub ledger: Ledger,
    pub states: watch::Sender<Arc<States>>,
    /// Something may be due.
    pub wake: Arc<Wake>,
    /// A test got through: there is no reason to wait any longer.
    pub works: Arc<Wake>,
    pub ending: watch::Receiver<bool>,
}

/// How long after so many attempts the next one is made: longer each time, and by chance, so that what failed
/// together does not come back together.
pub fn wait_ms(attempts: u32, random: u32) -> i64 {
    let doubled = FIRST_WAIT_MS.saturating_mul(1_i64 << attempts.saturating_sub(1).min(20));
    let wait = doubled.min(WAIT_MS_MAX / 2);
    // Between three quarters and five quarters.
    wait * 3 / 4 + wait / 2 * i64::from(random % 1000) / 1000
}

impl Sender {
    /// Runs until the agent ends.
    pub async fn run(mut self) {
        loop {
            if *self.ending.borrow() {
                return;
            }
            match self.ledger.claim_delivery(self.channel, clock::wall_ms()).await {
                Ok(Some(message)) => {
                    fault::point("notify_claimed");
                    let pause = self.one(message).await;
                    self.rest(pause).await;
                }
                Ok(None) => self.woken().await,
                // Nothing goes out that is not marked before.
                Err(_) => self.rest(LEDGER_AGAIN).await,
            }
        }
    }

    async fn woken(&mut self) {
        tokio::select! {
            () = self.wake.notified() => {}
            _ = self.ending.changed() => {}
        }
    }

    async fn rest(&mut self, pause: Duration) {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = self.works.notified() => {}
            _ = self.ending.changed() => {}
        }
    }

    /// Sends one, and answers how long the whole channel rests then.
    async fn one(&mut self, message: Delivery) -> Duration {
        let verdict = self.ways.send(&message).await;
        fault::point("notify_sent");
        let now_ms = clock::wall_ms();
        tell(&self.states, &message, &verdict, now_ms);
        let (outcome, pause) = judged(&verdict, message.attempts, now_ms);
        // Until the ledger has it nothing else is sent: what became of this one must not be forgotten.
        while let Err(error) = self.ledger.delivered(message.no, outcome.clone(), now_ms).await {
            tracing::warn!("what became of a message by {}: {error}", self.channel.word());
            self.rest(LEDGER_AGAIN).await;
            if *self.ending.borrow() {
                break;
            }
        }
        pause
    }
}

/// Notes what an attempt says of its channel, for people to see.
pub fn tell(states: &watch::Sender<Arc<States>>, message: &Delivery, verdict: &Verdict, now_ms: i64) {
    states.send_if_modified(|states| {
        let mut new = (**states).clone();
        let own = message.data["own"] == true;
        let learned = new[place(message.channel)].learn(&message.recipient, own, verdict, now_ms);
        if learned {
            if let Some((_, why)) = new[place(message.channel)].failing() {
                tracing::warn!("{} does not get through: {why}", message.channel.word());
            }
            *states = Arc::new(new);
        }
        learned
    });
}

/// What the ledger notes, and how long the channel rests.
fn judged(verdict: &Verdict, attempts: u32, now_ms: i64) -> (Outcome, Duration) {
    match verdict {
        Verdict::Done => (Outcome::Sent, PAUSE),
        Verdict::Refused { why, .. } => (Outcome::Failed(why.clone()), PAUSE),
        Verdict::Unsure { why } => (Outcome::Unsure(why.clone()), PAUSE),
        Verdict::Later { why, after, all } => {
            let hurry = i64::try_from(fault::hurry()).unwrap_or(1);
            let own = wait_ms(attempts, rand::random()) / hurry;
            let asked = after.map_or(0, |after| i64::try_from(after.as_millis()).unwrap_or(0));
            let wait = own.max(asked).min(WAIT_MS_MAX);
            let pause = if *all { Duration::from_millis(wait.unsigned_abs()) } else { PAUSE };
            (Outcome::Again { at_ms: now_ms.saturating_add(wait), error: why.clone() }, pause)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_and_end() {
        for random in [0, 500, 999] {
            let waits: Vec<i64> = (1..40).map(|attempts| wait_ms(attempts, random)).collect();
            assert!(waits.is_sorted(), "{waits:?}");
            assert!((3_750..6_251).contains(&waits[0]) && waits[38] <= WAIT_MS_MAX, "{waits:?}");
        }
    }

    #[test]
    fn what_the_admin_does_not_get_is_a_trouble_until_it_gets_something() {
        let (admin, user) = ("admin@a.example", "alice@b.example");
        let refused = Verdict::Refused { why: "no relaying".to_owned(), all: false };
        let mut state = ChannelState::default();
        assert!(!state.learn(user, true, &refused, 1), "one user's mailbox is no trouble of the channel");
        assert!(state.learn(
            admin,
            false,
            &Verdict::Later { why: "550".to_owned(), after: None, all: false },
            2
        ));
        assert!(state.learn(admin, false, &refused, 3));
        assert_eq!(
            state.failing(),
            Some(&(2, "no relaying".to_owned())),
            "since it began, for the last reason"
        );
        assert!(!state.learn(user, true, &Verdict::Done, 4), "that users get theirs does not help the admin");
        assert!(state.failing().is_some());
        assert!(state.learn(admin, false, &Verdict::Done, 5));
        assert_eq!(state.failing(), None);
        assert!(state.learn("", false, &Verdict::Unsure { why: "no end".to_owned() }, 6));
        assert!(state.learn("", false, &Verdict::Done, 7), "a test that got through says that it works");
        assert_eq!(state, ChannelState::default());
    }

    #[test]
    fn the_other_side_may_ask_for_a_pause() {
        let busy = Verdict::Later { why: "busy".to_owned(), after: Some(Duration::from_secs(60)), all: true };
        let (outcome, pause) = judged(&busy, 1, 1_000);
        assert_eq!(outcome, Outcome::Again { at_ms: 61_000, error: "busy".to_owned() });
        assert_eq!(pause, Duration::from_secs(60));
        let one = Verdict::Later { why: "full".to_owned(), after: None, all: false };
        assert_eq!(judged(&one, 1, 0).1, PAUSE, "the next one is not held up");
    }
}
