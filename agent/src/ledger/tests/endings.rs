//! How the agent before ended, as the next one reads it.

use super::*;

const OTHER: [u8; 16] = [8; 16];

fn record(rig: &Rig, kind: &str) {
    let event = NewEvent {
        at_ms: start_ms(),
        kind: kind.to_owned(),
        user: None,
        actor: "agent".to_owned(),
        data: serde_json::json!({}),
    };
    rig.ledger.record_events(vec![event]).wait().unwrap();
}

#[test]
fn only_a_machine_that_went_down_under_the_agent_loses_counts() {
    let rig = Rig::new("UTC", &["alice"]);
    let cut_off = |epoch| rig.reader().cut_off(epoch).unwrap();
    assert_eq!(cut_off(EPOCH), None, "a new ledger");
    record(&rig, "agent_started");
    assert_eq!(cut_off(EPOCH), None, "nothing was counted yet");
    rig.commit(start_ms() + 1000, &[(Some(0), 5)]);
    assert_eq!(cut_off(EPOCH), None, "killed: the kernel's counters go on");
    assert_eq!(cut_off(OTHER), Some(start_ms() + 1000), "the counters are gone, and nobody took them over");
    record(&rig, "agent_stopped");
    assert_eq!(cut_off(OTHER), None, "an orderly shutdown");
    record(&rig, "agent_started");
    record(&rig, "detached");
    assert_eq!(cut_off(OTHER), None, "taken over by detach, after the agent was killed");
}
