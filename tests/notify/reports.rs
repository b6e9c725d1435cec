//! Reports: one for each day, however often the agent starts, and late where it was not there.

use boxmeter_tests::{needs_machine, wait};
use serde_json::json;

use crate::{
    mail_sink::{MailSink, header, parsed},
    rig::{MIB, Rig},
};

#[test]
fn a_report_is_made_once_and_late_if_it_must_be() {
    needs_machine!();
    let mut rig = Rig::new();
    let sink = MailSink::start(&rig, &[]);
    rig.configure(&format!(
        "[notify]\nkinds = []\n[notify.mail]\nserver = \"localhost\"\nport = {}\nsecurity = \"none\"\n\
         from = \"boxmeter@example.org\"\nto = [\"admin@example.org\"]\n\
         [notify.reports]\ndaily = \"00:00\"\nmonthly = \"00:00\"\n",
        sink.port
    ));
    rig.agent.start();
    let (alice, bob) = (rig.alice().name.clone(), rig.bob().name.clone());
    rig.done(&["users", "set", &alice, "--quota", "1MiB"]);
    let _ = rig.download(rig.alice(), 3 * MIB);
    rig.download(rig.bob(), MIB).unwrap();
    // Whoever has just asked for reports gets the next ones.
    let made = || {
        let ledger = rusqlite::Connection::open(rig.path("ledger/ledger.db")).unwrap();
        ledger.query_row("SELECT count(*) FROM notify_reports", [], |row| row.get::<_, i64>(0)).unwrap()
    };
    wait("both begin", || match made() {
        2 => Ok(()),
        count => Err(count.to_string()),
    });
    assert_eq!(sink.mails().len(), 0);
    rig.agent.stop();
    // As if the last ones were of long ago, and what was used of the day before.
    assert_eq!(rig.in_ledger("UPDATE notify_reports SET period = '2000-01' WHERE name = 'monthly'"), 1);
    assert_eq!(rig.in_ledger("UPDATE notify_reports SET period = '2000-01-01' WHERE name = 'daily'"), 1);
    rig.in_ledger("UPDATE usage_days SET start_ms = start_ms - 86400000");
    rig.in_ledger("UPDATE usage_hours SET start_ms = start_ms - 86400000");
    rig.in_ledger("UPDATE usage_minutes SET start_ms = start_ms - 86400000");
    rig.agent.start();
    let mails = sink.until(2);
    let mails: Vec<_> = mails.iter().map(parsed).collect();
    let of = |mail: &serde_json::Value| header(mail, "subject")[0].rsplit(' ').next().unwrap().len();
    let daily = mails.iter().find(|mail| of(mail) == "2026-11-28".len()).unwrap();
    let text = daily["parts"]["text/plain"].as_str().unwrap();
    for part in [&*bob, "Who used the most", "Cut or slowed down now", "limited at", "sing-box", "1.14.4"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let used = text.lines().find(|line| line.contains(&bob)).unwrap();
    assert!(used.contains("1.0") && used.contains("MiB"), "{used}");
    let html = daily["parts"]["text/html"].as_str().unwrap();
    assert!(html.contains("<table") && html.contains(&bob), "{html}");
    // However it ends and starts, it was made.
    for _ in 0..2 {
        rig.agent.kill();
        rig.agent.start();
        wait("the agent has looked", || {
            match rig.done(&["notify", "list"])["messages"].as_array().unwrap().len() {
                2 => Ok(()),
                count => Err(count.to_string()),
            }
        });
    }
    let messages = rig.settled();
    assert!(messages.iter().all(|it| it["state"] == json!("sent")), "{messages:?}");
    assert_eq!(sink.mails().len(), 2);
}
