//! What every test asks at its end: has each user the relay's bytes, and does the sum hold.

use crate::agent::Agent;
use crate::scene::Scene;
use crate::singbox::Dropped;
use crate::wait;
use serde_json::{Value, json};

fn unattributed(audit: &Value) -> [u64; 2] {
    ["upload_payload_bytes", "download_payload_bytes"]
        .map(|key| audit["unattributed"][key].as_u64().expect("a number of bytes"))
}

/// One reading: each user's figure, after checking the sums of the audit.
fn reading(site: &impl Scene, agent: &Agent) -> Result<(Vec<[u64; 2]>, [u64; 2]), String> {
    let (usage, audit) = (agent.ask(&["usage"])?, agent.ask(&["audit"])?);
    if audit["difference_bytes"] != json!(0) {
        return Err(format!("audit: {audit}"));
    }
    let said: Vec<_> = site.users().iter().map(|user| Agent::payload(&usage, &user.name)).collect();
    let free = unattributed(&audit);
    let (mut least, mut most) = ([0; 2], [0; 2]);
    for (user, said) in site.users().iter().zip(&said) {
        let [low, high] = user.relay.truth.bounds().ok_or_else(|| format!("{}: open", user.name))?;
        for direction in 0..2 {
            if said[direction] > high[direction] {
                return Err(format!("{}: {said:?} is more than {high:?}", user.name));
            }
            least[direction] += low[direction];
            most[direction] += high[direction];
        }
    }
    for direction in 0..2 {
        let all = said.iter().map(|s| s[direction]).sum::<u64>() + free[direction];
        if !(least[direction]..=most[direction]).contains(&all) {
            return Err(format!("users and unattributed {all}, truth {least:?} to {most:?}; {audit}"));
        }
    }
    Ok((said, free))
}

/// Nobody has more than the relay saw of him, and users with unattributed are all that crossed the sockets.
pub fn sum(site: &impl Scene, agent: &Agent) -> Vec<[u64; 2]> {
    wait("the sum holds", || reading(site, agent)).0
}

/// As `sum`, and every user has exactly the relay's bytes; users in `dropped` lost some to unattributed.
pub fn exact(site: &impl Scene, agent: &Agent, dropped: &Dropped) {
    wait("every byte is its user's", || {
        let (said, free) = reading(site, agent)?;
        let wrong: Vec<String> = site
            .users()
            .iter()
            .zip(said)
            .filter(|(user, _)| !dropped.contains_key(&user.name))
            .filter_map(|(user, said)| {
                user.relay.truth.check(said).err().map(|why| format!("{}: {why}", user.name))
            })
            .collect();
        if !wrong.is_empty() {
            return Err(wrong.join("\n"));
        }
        if dropped.is_empty() && free != [0, 0] {
            return Err(format!("unattributed {free:?} where every user is known"));
        }
        Ok(())
    });
}
