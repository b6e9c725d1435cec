//! Secrets of subscriptions: made once, found while their user lives, dead after that.

use super::*;

fn secret(letter: char) -> String {
    letter.to_string().repeat(43)
}

#[test]
fn a_secret_opens_its_users_page_until_it_is_changed_or_the_user_is_deleted() {
    let rig = Rig::new("UTC", &["alice", "bob"]);
    let users = rig.ledger.users().wait().unwrap();
    let (alice, bob) = (users[0].id, users[1].id);
    let reader = || rig.reader();
    assert_eq!(reader().subscriber(&secret('a')).unwrap(), None);
    let first = rig.ledger.subscription_token(alice, secret('a'), 1).wait().unwrap();
    assert_eq!(first, secret('a'));
    let revision = rig.ledger.info().wait().unwrap().rev;
    assert_eq!(rig.ledger.subscription_token(alice, secret('x'), 2).wait().unwrap(), first, "it stays");
    assert_eq!(rig.ledger.info().wait().unwrap().rev, revision, "asking again changes nothing");
    rig.ledger.subscription_token(bob, secret('b'), 3).wait().unwrap();
    assert_eq!(reader().subscriber(&first).unwrap(), Some(alice));
    assert_eq!(reader().subscriber(&secret('b')).unwrap(), Some(bob));

    rig.ledger.rotate_subscription(alice, secret('c'), Asked::new("uid:0", 4)).wait().unwrap();
    assert_eq!(reader().subscriber(&first).unwrap(), None, "the old one is dead at once");
    assert_eq!(reader().subscriber(&secret('c')).unwrap(), Some(alice));
    let events = reader().events(Some(alice), None, None, 100).unwrap();
    let last = events.last().unwrap();
    assert_eq!(
        (last.kind.as_str(), last.data.to_string().contains(&secret('c'))),
        ("subscription_rotated", false)
    );

    rig.ledger.delete_user(bob, None, Asked::new("uid:0", 5)).wait().unwrap();
    assert_eq!(reader().subscriber(&secret('b')).unwrap(), None);
    assert!(rig.ledger.subscription_token(bob, secret('d'), 6).wait().is_err());
}

#[test]
fn a_user_who_vanished_from_the_file_has_no_page_and_a_new_one_of_the_name_another_secret() {
    let rig = Rig::new("UTC", &["alice"]);
    let alice = rig.ledger.users().wait().unwrap()[0].id;
    rig.ledger.subscription_token(alice, secret('a'), 1).wait().unwrap();
    rig.ledger.sync_users(Vec::new(), vec![], "unlimited".to_owned(), 2).wait().unwrap();
    assert_eq!(rig.reader().subscriber(&secret('a')).unwrap(), None);
}

#[test]
fn settings_of_links_are_kept_with_their_revision() {
    let rig = Rig::new("UTC", &[]);
    assert_eq!(rig.reader().sharing().unwrap(), SharingRecord::default());
    let new = serde_json::json!({"address": "a.example"});
    let set = rig.ledger.change_sharing(new.clone(), Some(0), Asked::new("uid:0", 1)).wait().unwrap();
    assert_eq!(rig.reader().sharing().unwrap(), set);
    assert_eq!(set.settings.as_ref(), Some(&new));
    let other = serde_json::json!({"address": "b.example"});
    assert!(rig.ledger.change_sharing(other, Some(0), Asked::new("uid:0", 2)).wait().is_err());
    assert_eq!(rig.reader().sharing().unwrap(), set);
}
