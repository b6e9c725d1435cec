//! What planning an edit of many users costs; the whole edit is measured beside a running server:
//! `cargo test --release -p boxmeter --lib bench_edit -- --ignored --nocapture`

use super::*;

const USERS: usize = 10_000;

/// The median of so many counts.
const RUNS: usize = 9;

fn many() -> World {
    let users: Vec<String> = (0..USERS)
        .map(|n| format!("        {{\n          \"name\": \"user{n}\",\n          \"password\": \"secret {n}\"\n        }}"))
        .collect();
    World::one(&format!(
        "{{\n  \"inbounds\": [\n    {{\n      \"type\": \"trojan\", \"tag\": \"t\",\n      \"users\": [\n{}\n      ]\n    }}\n  ]\n}}\n",
        users.join(",\n")
    ))
}

#[test]
#[ignore = "a measurement"]
fn bench_edit_of_ten_thousand_users() {
    let mut world = many();
    let text = world.text().to_owned();
    let mut worst = 0.0f64;
    let mut took = |world: &mut World, what: &str, wanted: &Wanted| {
        let mut times: Vec<f64> = Vec::new();
        for _ in 0..RUNS {
            let began = crate::clock::instant();
            drop(world.plan(wanted));
            times.push(began.elapsed().as_secs_f64() * 1e3);
        }
        times.sort_by(f64::total_cmp);
        println!("{what}: {:.1} ms", times[RUNS / 2]);
        worst = worst.max(times[RUNS / 2]);
        world.reach(wanted);
    };
    took(&mut world, "one out", &all(&["user5000"], &Want::Out));
    took(&mut world, "one in", &all(&["user5000"], &Want::In));
    assert!(world.text() == text);
    took(&mut world, "one new", &wanted(&[("new", new(None))]));
    took(&mut world, "one deleted", &wanted(&[("new", Want::Deleted)]));
    assert!(world.text() == text);
    let half: Vec<String> = (0..USERS).step_by(2).map(|n| format!("user{n}")).collect();
    let half: Vec<&str> = half.iter().map(String::as_str).collect();
    took(&mut world, "5,000 out", &all(&half, &Want::Out));
    took(&mut world, "one more out", &all(&["user1"], &Want::Out));
    took(&mut world, "all in", &all(&[&half[..], &["user1"]].concat(), &Want::In));
    assert!(world.text() == text);
    println!("FIGURE\tplan of an edit, 10,000 users\t{worst:.0} ms\tthe slowest of seven edits, in memory");
}
