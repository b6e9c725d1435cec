//! What is asked and told before it is known who there is.

use std::path::Path;

use super::*;
use crate::ledger::{FoundUser, Options};

fn reports() -> (Reports, Tallies) {
    let text = "[[service]]\nkind = \"nginx\"\nname = \"web\"\nstatus = \"http://127.0.0.1:1/s\"";
    let config = Config::parse(text, Path::new("test.toml")).expect("a configuration");
    let mut reports = Reports::default();
    reports.add(&config.services[0], &config);
    let origin = Origin { kind: "nginx".into(), status: "http://127.0.0.1:1/s".into() };
    (reports, Tallies::new([("web".into(), origin)]))
}

/// A ledger that could not be read at the start is asked again, and until then nothing is told it of users.
#[tokio::test]
async fn nobody_is_told_to_be_gone_before_it_is_known_who_there_is() {
    let folder = tempfile::tempdir().expect("a folder");
    let ledger = Ledger::open(&folder.path().join("ledger.db"), Options::new(jiff::tz::TimeZone::UTC, 1));
    let ledger = ledger.expect("a ledger");
    let tag: Arc<str> = "web/(reported)".into();
    let found = FoundInbound { tag: Arc::clone(&tag), kind: "nginx".to_owned(), port: 0 };
    ledger.sync_inbounds(vec![found], 1).await.expect("an inbound");
    let bob = FoundUser { name: "bob".into(), inbounds: vec![Arc::clone(&tag)] };
    ledger.sync_users(vec![bob], vec![], "unlimited".to_owned(), 1).await.expect("a user");
    let (mut reports, tallies) = reports();
    let mut directory = Directory::default();
    assert!(reports.more(&directory, &tallies, false).is_err());
    reports.ask(&ledger, &tallies, false);
    let known = loop {
        if let News::Known(known) = reports.next().await {
            break known;
        }
    };
    let (inbounds, users) = known.expect("an answer");
    directory.inbounds = Arc::new(inbounds);
    directory.users = Arc::new(users.into_iter().map(|user| (user.id, Arc::new(user))).collect());
    let more = reports.more(&directory, &tallies, true).expect("it is known");
    assert_eq!(more.users[&tag], BTreeSet::from(["bob".into()]));
    assert!(Reports::default().more(&directory, &tallies, false).is_ok(), "files say who there is");
}
