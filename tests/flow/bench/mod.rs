//! What it costs and how fast it is, measured beside sing-box itself in one run. `cargo xtask bench` runs these
//! and reads the lines that begin with `FIGURE`: what, how much, how it was measured. Nothing is asserted but
//! that the traffic went through and that no byte is lost.

mod cost;
mod owners;
mod scale;

use boxmeter_tests::agent::Agent;
use serde_json::Value;

/// One figure, with how it was measured.
fn figure(name: &str, value: impl std::fmt::Display, how: &str) {
    println!("FIGURE\t{name}\t{value}\t{how}");
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// A counter of the agent as `status` shows it; 0 if it does not show it.
fn counter(status: &Value, name: &str) -> u64 {
    [&status["source"]["counters"], &status["kernel"]["counters"]]
        .iter()
        .find_map(|counters| counters[name].as_u64())
        .unwrap_or_else(|| panic!("no counter {name} in {status}"))
}

/// A sum over all users of one column of `usage`.
fn of_all_users(agent: &Agent, column: &str) -> u64 {
    let usage = agent.ask(&["usage"]).unwrap();
    let rows = usage["rows"].as_array().cloned().unwrap_or_default();
    rows.iter().filter(|row| row["user"].is_string()).filter_map(|row| row[column].as_u64()).sum()
}
