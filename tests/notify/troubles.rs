//! Parts that do not work, told when that lasts, and when it is over.

use boxmeter_tests::{needs_machine, wait};
use nix::sys::{
    ptrace,
    wait::{WaitPidFlag, waitpid},
};
use serde_json::json;

use crate::rig::{Rig, webhook};
use crate::sink::Sink;

#[test]
fn a_source_that_is_gone_is_told_once_and_that_it_is_back() {
    needs_machine!();
    let (mut rig, sink) = Rig::with_webhook("kinds = [\"trouble\"]\ntrouble_after = \"10s\"");
    let server = rig.site.server.take();
    drop(server);
    let began = sink.until(1);
    let part = began[0].json()["data"]["part"].clone();
    assert_eq!(
        (&began[0].json()["event"], &began[0].json()["user"]),
        (&json!("trouble_began"), &json!(null))
    );
    // Another life of the agent knows that it was told.
    rig.agent.kill();
    rig.agent.start_unheard();
    rig.until_degraded(part.as_str().unwrap());
    rig.site.start_server();
    let asked = wait("all is over", || {
        let asked = sink.asked();
        let count = |event: &str| asked.iter().filter(|it| it.json()["event"] == json!(event)).count();
        let (began, over) = (count("trouble_began"), count("trouble_over"));
        if began == over { Ok(asked) } else { Err(format!("{began} {over}")) }
    });
    let mut parts: Vec<String> = asked
        .iter()
        .filter(|it| it.json()["event"] == json!("trouble_began"))
        .map(|it| it.json()["data"]["part"].to_string())
        .collect();
    parts.sort();
    let before = parts.len();
    parts.dedup();
    assert_eq!(parts.len(), before, "a part is told once: {parts:?}");
}

/// A ledger that cannot be written cannot queue that either: it is told past the queue.
#[test]
fn a_full_disk_is_told_past_the_queue() {
    needs_machine!();
    let mut rig = Rig::new();
    let sink = Sink::new(&rig.site.inside);
    rig.site.scratch.mount("ledger", "tmpfs", Some("size=8m"));
    rig.configure(&format!("[notify]\nkinds = [\"trouble\"]\ntrouble_after = \"5s\"\n{}", webhook(&sink)));
    rig.agent.start();
    let filler = rig.path("ledger/filler");
    // Whatever room there is, to the last page.
    let mut file = std::fs::File::create(&filler).unwrap();
    while std::io::Write::write_all(&mut file, &[1; 4096]).is_ok() {}
    drop(file);
    let asked = wait("the ledger's trouble is told", || {
        let asked = sink.asked();
        let found = asked.iter().find(|it| it.json()["data"]["part"] == json!("ledger"));
        found.cloned().ok_or_else(|| {
            // The log of SQLite has room of its own for a while: changes use it up.
            let _ = rig.agent.ask(&["users", "set", &rig.site.users[0].name, "--note", &"x".repeat(900)]);
            let _ = rig.agent.ask(&["users", "set", &rig.site.users[0].name, "--note", &"y".repeat(900)]);
            format!("{} requests", asked.len())
        })
    });
    assert_eq!(asked.json()["event"], json!("trouble_began"));
    std::fs::remove_file(&filler).unwrap();
    rig.until_well("ledger");
    wait("it is told that it works again", || {
        let asked = sink.asked();
        let over = |it: &&crate::sink::Asked| {
            it.json()["event"] == json!("trouble_over") && it.json()["data"]["part"] == json!("ledger")
        };
        asked.iter().find(over).map(drop).ok_or_else(|| "not yet".to_owned())
    });
    let began = sink.asked().iter().filter(|it| it.json()["event"] == json!("trouble_began")).count();
    assert_eq!(began, 1, "it is not told by the queue too");
}

/// A disk that neither takes a commit nor refuses it: the thread that writes is stopped, as by a debugger.
#[test]
fn a_ledger_that_hangs_is_told_past_the_queue() {
    needs_machine!();
    let (rig, sink) = Rig::with_webhook("kinds = [\"trouble\"]\ntrouble_after = \"5s\"");
    let thread = rig.agent.process().thread("ledger");
    ptrace::seize(thread, ptrace::Options::empty()).unwrap();
    ptrace::interrupt(thread).unwrap();
    let asked = sink.until(1);
    assert_eq!(
        (&asked[0].json()["event"], &asked[0].json()["data"]["part"]),
        (&json!("trouble_began"), &json!("ledger"))
    );
    // A test goes out as well.
    let tested = rig.agent.ask(&["notify", "test"]).unwrap();
    assert_eq!(tested["ok"], json!(true), "{tested}");
    waitpid(thread, Some(WaitPidFlag::__WALL)).unwrap();
    ptrace::detach(thread, None).unwrap();
    rig.until_well("ledger");
}
