//! The agent dies at every step of a message: none is lost, and none is told as another one.

use std::collections::{BTreeMap, BTreeSet};

use boxmeter_tests::{needs_machine, wait};
use serde_json::json;

use crate::{
    rig::Rig,
    sink::{Asked, Sink},
};

/// Keys by the expiry that they tell.
fn keys(sink: &Sink) -> BTreeMap<String, Vec<String>> {
    let mut keys: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for asked in sink.asked() {
        keys.entry(asked.json()["data"]["expires_at"].to_string()).or_default().push(asked.key());
    }
    keys
}

#[test]
fn killed_at_any_step_a_message_comes_and_is_one() {
    needs_machine!();
    let (mut rig, sink) = Rig::with_webhook("kinds = [\"expiry\"]");
    let bob = rig.bob().name.clone();
    let steps = ["notify_deriving", "notify_derived", "notify_claimed", "notify_sent"];
    for (index, step) in steps.into_iter().enumerate() {
        rig.agent.stop();
        rig.agent.fails_at(Some(step));
        rig.agent.start();
        let hours = format!("{}h", index + 2);
        // It may die before it has answered; the change is committed or asked for again.
        let _ = rig.agent.ask(&["users", "set", &bob, "--expires", &hours]);
        rig.agent.dies();
        rig.agent.fails_at(None);
        rig.agent.start();
        wait(&format!("the message after {step}"), || match keys(&sink).len() {
            count if count > index => Ok(()),
            count => Err(count.to_string()),
        });
        rig.settled();
        let keys = keys(&sink);
        assert_eq!(keys.len(), index + 1, "{step}");
        for (of, keys) in &keys {
            let distinct: BTreeSet<&String> = keys.iter().collect();
            assert_eq!(distinct.len(), 1, "{step}: {of}: {keys:?}");
        }
        // Only what had arrived before it could be noted comes again, with its key.
        let again = if step == "notify_sent" { 2 } else { 1 };
        let all: Vec<usize> = keys.values().map(Vec::len).collect();
        assert_eq!(all.iter().max(), Some(&again), "{step}: {all:?}");
    }
}

/// kill -9 whenever it comes, right after a change was answered.
#[test]
fn killed_at_any_time_every_expiry_is_told_once() {
    needs_machine!();
    let (mut rig, sink) = Rig::with_webhook("kinds = [\"expiry\"]");
    let bob = rig.bob().name.clone();
    const ROUNDS: usize = 6;
    for round in 0..ROUNDS {
        rig.done(&["users", "set", &bob, "--expires", &format!("{}h", round + 2)]);
        // Not at the same place each time: what is read in between takes its own time.
        for _ in 0..round {
            rig.done(&["status"]);
        }
        rig.agent.kill();
        rig.agent.start();
        // The next change would take this one's place before it was told.
        wait("the expiry is in the events", || match rig.events("expiry_near").len() {
            count if count > round => Ok(()),
            count => Err(count.to_string()),
        });
    }
    wait("all are told", || match keys(&sink).len() {
        ROUNDS => Ok(()),
        count => Err(count.to_string()),
    });
    rig.settled();
    for (of, keys) in keys(&sink) {
        let distinct: BTreeSet<String> = keys.into_iter().collect();
        assert_eq!(distinct.len(), 1, "{of}");
    }
    assert_eq!(rig.events("expiry_near").len(), ROUNDS);
    let all: Vec<Asked> = sink.asked();
    assert!(all.iter().all(|asked| asked.json()["kind"] == json!("expiry")));
}
