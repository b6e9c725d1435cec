//! What a test run found, stage by stage. Owns counting and the closing table; runs nothing.

use crate::skips::Skip;
use std::time::Duration;

/// The slowest tests of a stage that are named.
const SLOW_SHOWN: usize = 5;

/// A stage that is quicker names none.
const SLOW_STAGE: Duration = Duration::from_secs(60);

/// One stage of `cargo xtask test`.
#[derive(Debug, Default)]
pub struct Stage {
    pub name: String,
    pub took: Duration,
    /// Tests that passed and did not say that they skipped; a check without tests of its own counts as one.
    pub passed: usize,
    pub failed: usize,
    pub skipped: Vec<Skip>,
    /// Names of failed tests, or the error of a check.
    pub failures: Vec<String>,
    /// Tests that took long, with what each took: as long as nothing else of the stage ended.
    pub slow: Vec<(Duration, String)>,
    /// A virtual machine said that every test program in it ended well.
    pub guest_ended_well: bool,
}

impl Stage {
    /// A check that either holds or not.
    pub fn of_check(name: &str, took: Duration, result: anyhow::Result<()>) -> Stage {
        let failures: Vec<String> = result.err().map(|e| format!("{e:#}")).into_iter().collect();
        let failed = failures.len();
        Stage { name: name.into(), took, passed: 1 - failed, failed, failures, ..Stage::default() }
    }

    /// Takes one line of what `cargo test` prints into account.
    pub fn read_line(&mut self, line: &str) {
        let line = line.trim();
        if let Some(counts) = line.strip_prefix("test result: ") {
            self.passed += count_before(counts, " passed");
            self.failed += count_before(counts, " failed");
        } else if let Some(ended) = line.strip_prefix("guest ended: ") {
            self.guest_ended_well = ended == "well";
        } else if let Some(test) = line.strip_prefix("test ") {
            if let Some(name) = test.strip_suffix(" ... FAILED") {
                self.failures.push(name.to_string());
            } else if let Some((name, why)) = test.split_once(" ... ignored") {
                self.skipped.push(Skip { test: name.into(), reason: format!("ignored{why}") });
            }
        }
    }

    /// A line that says that a test ended, this long after the one before it.
    pub fn time_line(&mut self, line: &str, took: Duration) {
        let ended = line.trim().strip_prefix("test ").and_then(|test| test.split_once(" ... "));
        if let Some((name, how)) = ended
            && !how.starts_with("ignored")
        {
            self.slow.push((took, name.to_owned()));
            self.slow.sort_by_key(|(took, _)| std::cmp::Reverse(*took));
            self.slow.truncate(SLOW_SHOWN);
        }
    }

    /// Tests that skipped end well as far as `cargo test` knows; take them out of what passed.
    pub fn add_skips(&mut self, skips: Vec<Skip>) {
        self.passed = self.passed.saturating_sub(skips.len());
        self.skipped.extend(skips);
    }
}

fn count_before(text: &str, word: &str) -> usize {
    let Some((before, _)) = text.split_once(word) else { return 0 };
    before.rsplit([' ', ';']).next().and_then(|n| n.parse().ok()).unwrap_or(0)
}

/// Prints the table of stages, every failure and every skip, and the closing line; returns what failed.
pub fn print(stages: &[Stage], not_built: &[&str]) -> usize {
    println!("\n{:<18} {:>8} {:>8} {:>8} {:>9}", "stage", "passed", "failed", "skipped", "seconds");
    for s in stages {
        let seconds = s.took.as_secs_f64();
        println!("{:<18} {:>8} {:>8} {:>8} {seconds:>9.1}", s.name, s.passed, s.failed, s.skipped.len());
    }
    for line in not_built {
        println!("{line}");
    }
    for s in stages.iter().filter(|s| s.took >= SLOW_STAGE && !s.slow.is_empty()) {
        let named: Vec<_> =
            s.slow.iter().map(|(took, test)| format!("{test} {:.0} s", took.as_secs_f64())).collect();
        println!("slowest: {}: {}", s.name, named.join(", "));
    }
    for s in stages {
        for skip in &s.skipped {
            println!("skipped: {}: {}: {}", s.name, skip.test, skip.reason);
        }
        for failure in &s.failures {
            println!("failed: {}: {failure}", s.name);
        }
    }
    let sum = |f: fn(&Stage) -> usize| stages.iter().map(f).sum::<usize>();
    let (passed, failed, skipped) = (sum(|s| s.passed), sum(|s| s.failed), sum(|s| s.skipped.len()));
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    failed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_what_cargo_test_prints() {
        let mut stage = Stage::default();
        for line in [
            "test a::b ... ok",
            "test a::c ... FAILED",
            "test a::d ... ignored, takes an hour",
            "test result: FAILED. 1 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s",
            "test result: ok. 12 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s",
        ] {
            stage.read_line(line);
        }
        assert_eq!((stage.passed, stage.failed), (13, 1));
        assert_eq!(stage.failures, ["a::c"]);
        assert_eq!(stage.skipped[0].reason, "ignored, takes an hour");
        stage.add_skips(vec![Skip { test: "a::b".into(), reason: "needs root".into() }]);
        assert_eq!((stage.passed, stage.skipped.len()), (12, 2));
        for (line, took) in [("test a::b ... ok", 2), ("test result: ok.", 9), ("test a::c ... FAILED", 3)] {
            stage.time_line(line, Duration::from_secs(took));
        }
        let named: Vec<_> = stage.slow.iter().map(|(took, name)| (took.as_secs(), name.as_str())).collect();
        assert_eq!(named, [(3, "a::c"), (2, "a::b")]);
    }
}
