//! Running proxies follow their files by their API: at once, and nobody's connection is dropped.

use std::collections::BTreeSet;

use serde_json::json;

use super::{
    super::{
        HandsNews,
        words::{Failure, blocking},
    },
    Worker, again, ns,
};
use crate::{clock, enforcer::live, fault};

/// What the API was told, by inbound and user.
#[derive(Default)]
struct Told {
    out: BTreeSet<String>,
    back: BTreeSet<String>,
}

impl Worker {
    pub(super) async fn tell_running(&mut self) {
        for at in 0..self.sides.len() {
            let side = &self.sides[at];
            let waits = !side.for_live().is_empty() && side.live_again_ns <= clock::mono_ns();
            if !side.has_live || side.proxy.process.is_none() || !waits {
                continue;
            }
            let mut told = Told::default();
            let done = self.tell_one(at, &mut told).await;
            self.say(at, &told).await;
            if let Err(failure) = &done {
                tracing::warn!("telling a running proxy its users: {failure}");
            }
            let side = &mut self.sides[at];
            if side.reloads.waiting() != (0, 0) {
                side.live_again_ns = clock::mono_ns() + ns(again());
                continue;
            }
            // It runs with what the files say, as if it had read them.
            let proxy = side.proxy.clone();
            let noted = blocking(move || proxy.loaded().map_err(|error| error.to_string())).await;
            if let Err(failure) = noted {
                tracing::warn!("noting that a proxy has been told its files: {failure}");
            }
        }
    }

    /// When an API that did not answer is asked again (ns, monotonic).
    pub(super) fn running_again_ns(&self) -> Option<u64> {
        let waiting = self
            .sides
            .iter()
            .filter(|side| side.has_live && side.proxy.process.is_some() && !side.for_live().is_empty());
        waiting.map(|side| side.live_again_ns).min()
    }

    /// The file says what is to be: whoever is in it is let in as it says, everybody else is out.
    async fn tell_one(&mut self, at: usize, told: &mut Told) -> Result<(), Failure> {
        let (proxy, keys) = (self.sides[at].proxy.clone(), self.sides[at].for_live());
        let mut answers = Vec::new();
        let done = live::tell_all(&proxy, &keys, |key, answer| answers.push((key.clone(), answer))).await;
        fault::point("told-live");
        let side = &mut self.sides[at];
        let mut failed = done.err();
        for (key, answer) in answers {
            match answer {
                Ok(is_in) => {
                    side.reloads.settled(&key);
                    if is_in { &mut told.back } else { &mut told.out }.insert(key.1);
                }
                Err(error) => {
                    if error.wants_restart() {
                        side.for_restart.insert(key);
                    }
                    failed = Some(error);
                }
            }
        }
        let Some(error) = failed else { return Ok(()) };
        if error.is_final() {
            // By a restart then.
            side.refuses_live = true;
            side.has_live = false;
            side.reloads.set_live(false);
        }
        Err(error.to_string())
    }

    async fn say(&self, at: usize, told: &Told) {
        if told.out.is_empty() && told.back.is_empty() {
            return;
        }
        let service = self.sides[at].service();
        let data = json!({
            "message": format!(
                "{} was told its users by its API: {} taken out, {} let in; no restart is needed",
                service.name,
                told.out.len(),
                told.back.len()
            ),
            "service": &*service.name,
            "taken_out": told.out,
            "put_in": told.back,
        });
        self.send(HandsNews::Event { kind: "users_edited", user: None, data }).await;
    }
}
