//! Taking out and putting back, case by case.

use super::*;
use crate::enforcer::{
    reconcile::{plan, unread},
    users_edit::{EditRefused, Excluded, Homeless, UserRefused, What},
};

const TWO: &str = r#"// main
{
    "inbounds": [
        {
            "type": "hysteria2", "tag": "h",
            "users": [
                // family
                { "name": "alice", "password": "a" }, # pays in cash
                {
                    "name": "bob", /* late */
                    "password": "b"
                }
            ],
        },
        {"type": "mixed", "tag": "m", "users": [{"username": "bob", "password": "b"}, {"username": "carol", "password": "c"}]},
    ],
}
"#;

#[test]
fn an_entry_goes_with_its_line_and_comments_stay() {
    let mut world = World::one(TWO);
    let done = world.reach(&all(&["bob"], &Want::Out));
    assert_eq!(done.changes.len(), 2);
    let wanted = TWO
        .replace(", # pays", " # pays")
        .replace(
            "                {\n                    \"name\": \"bob\", /* late */\n                    \"password\": \"b\"\n                }\n",
            "",
        )
        .replace(r#"{"username": "bob", "password": "b"}, "#, "");
    assert_eq!(world.text(), wanted);
    world.reach(&all(&["alice"], &Want::Out));
    assert!(world.text().contains(" } # pays in cash\n"), "{}", world.text());
    assert_eq!(world.names("h"), ["boxmeter-locked"]);
    world.reach(&all(&["alice"], &Want::In));
    assert_eq!(world.text(), wanted);
    world.reach(&all(&["bob"], &Want::In));
    assert_eq!(world.text(), TWO);
    assert!(world.parked.is_empty());
}

#[test]
fn nobody_is_left_out_for_good_when_the_list_empties() {
    for inside in [
        r#"{"name":"a","password":"1"},{"name":"b","password":"2"}"#,
        " {\"name\": \"a\", \"password\": \"1\"} , {\"name\": \"b\", \"password\": \"2\"}, ",
    ] {
        let text = format!(r#"{{"inbounds":[{{"type":"anytls","tag":"t","users":[{inside}]}}]}}"#);
        let mut world = World::one(&text);
        world.reach(&all(&["a", "b"], &Want::Out));
        assert_eq!(world.names("t"), ["boxmeter-locked"]);
        assert!(!world.text().contains(r#""1""#), "{}", world.text());
        // Somebody deletes the locked entry: the list must not stay empty.
        let emptied = text.replace(inside, "");
        world.set(0, &emptied);
        world.reach(&Wanted::new());
        assert_eq!(world.names("t"), ["boxmeter-locked"]);
        world.reach(&all(&["b", "a"], &Want::In));
        assert_eq!(world.names("t"), ["a", "b"]);
    }
}

#[test]
fn a_list_that_was_empty_before_is_not_touched() {
    let text = r#"{"inbounds":[{"type":"hysteria2","tag":"h","users":[ /* {} */ ]},{"type":"http"}]}"#;
    let mut world = World::one(text);
    world.reach(&all(&["alice"], &Want::Out));
    assert_eq!(world.text(), text);
    world.reach(&wanted(&[("alice", new(None))]));
    assert_eq!(world.names("h"), ["alice"]);
    world.reach(&all(&["alice"], &Want::Deleted));
    assert_eq!(world.names("h"), ["boxmeter-locked"], "now it would be open");
}

#[test]
fn deleting_takes_the_record_too() {
    let mut world = World::one(TWO);
    world.reach(&all(&["alice"], &Want::Out));
    let done = world.reach(&wanted(&[("alice", Want::Deleted), ("bob", Want::Deleted)]));
    assert!(world.parked.is_empty());
    assert!(done.changes.iter().all(|change| change.user == "bob" && change.what == What::Deleted));
    assert_eq!(world.names("h"), ["boxmeter-locked"]);
    assert_eq!(world.names("m"), ["carol"]);
    assert!(world.text().contains("// family\n") && world.text().contains("# pays in cash\n"));
    world.reach(&wanted(&[("dora", new(Some(&["h"])))]));
    assert_eq!(world.names("h"), ["dora"]);
}

#[test]
fn put_back_by_hand_is_told_and_left_alone() {
    let mut world = World::one(TWO);
    world.reach(&all(&["alice"], &Want::Out));
    let by_hand = world.text().replace(
        "{\n                    \"name\": \"bob\"",
        "{\"name\": \"alice\", \"password\": \"new\"}, {\n                    \"name\": \"bob\"",
    );
    world.set(0, &by_hand);
    let done = world.reach(&all(&["alice"], &Want::Out));
    assert_eq!(done.returned.len(), 1);
    assert_eq!(done.returned[0].user, "alice");
    assert_eq!(world.text(), by_hand);
    // Enabled: the entry by hand is the one, the old one is forgotten.
    world.reach(&all(&["alice"], &Want::In));
    assert_eq!(world.text(), by_hand);
    assert!(world.parked.is_empty());
}

#[test]
fn a_text_that_boxmeter_restored_was_not_put_back_by_hand() {
    let mut world = World::one(TWO);
    world.reach(&all(&["alice"], &Want::Out));
    world.reach(&all(&["bob"], &Want::Out));
    // A reload failed: the text from before both edits is in force again.
    world.set(0, TWO);
    let done = plan(&world.files, &world.parked, &all(&["alice", "bob"], &Want::Out), &[hash(TWO)]).unwrap();
    assert!(done.returned.is_empty());
    assert_eq!(done.changes.len(), 3);
    let unknown = plan(&world.files, &world.parked, &all(&["alice", "bob"], &Want::Out), &[]).unwrap();
    assert!(unknown.returned.iter().any(|key| key.user == "bob"), "another text may be by hand");
}

#[test]
fn records_without_a_place_are_kept() {
    let mut world = World::one(TWO);
    world.reach(&all(&["bob"], &Want::Out));
    let changed =
        world.text().replace("\"hysteria2\"", "\"trojan\"").replace("\"tag\": \"m\"", "\"tag\": \"n\"");
    world.set(0, &changed);
    let done = world.reach(&all(&["bob"], &Want::In));
    let why: Vec<_> = done.homeless.iter().map(|(key, why)| (key.inbound.as_str(), why.clone())).collect();
    assert_eq!(why, [("h", Homeless::OtherType), ("m", Homeless::Vanished)]);
    assert_eq!(world.parked.len(), 2);
    assert_eq!(world.text(), changed);
    world.set(0, &changed.replace("\"trojan\"", "\"hysteria2\"").replace("\"tag\": \"n\"", "\"tag\": \"m\""));
    world.reach(&all(&["bob"], &Want::In));
    assert_eq!(world.text(), TWO);
}

#[test]
fn an_inbound_may_move_to_another_file() {
    let inbound = r#"{"type": "trojan", "tag": "t", "users": [{"name": "a", "password": "1"}, {"name": "b", "password": "2"}]}"#;
    let (with, without) = (format!("{{\"inbounds\": [{inbound}]}}"), "{\"inbounds\": []}".to_owned());
    let mut world = World::new(&[("1.json", &with), ("2.json", &without)]);
    world.reach(&all(&["a"], &Want::Out));
    let moved = world.text().to_owned();
    world.set(0, &without);
    world.set(1, &moved);
    let done = world.reach(&all(&["a"], &Want::In));
    assert_eq!(done.edits[0].path, std::path::PathBuf::from("2.json"));
    assert_eq!(world.files[1].text, with);
}

#[test]
fn a_credential_that_somebody_else_has_meanwhile_is_refused() {
    let mut world = World::one(
        r#"{"inbounds":[{"type":"vless","tag":"v","users":[{"name":"a","uuid":"9e107d9d-372b-4b82-9d5d-7a1d5e9a2b11"},{"name":"b","uuid":"x"}]}]}"#,
    );
    let before = world.text().to_owned();
    world.reach(&all(&["a"], &Want::Out));
    let taken = world.text().replace("\"x\"", "\"9E107D9D-372B-4B82-9D5D-7A1D5E9A2B11\"");
    world.set(0, &taken);
    let done = world.reach(&all(&["a"], &Want::In));
    assert!(
        matches!(&done.refused[..], [UserRefused::DuplicateCredential { user, other, .. }] if user == "a" && other == "b")
    );
    assert_eq!(world.text(), taken);
    world.set(0, &taken.replace("9E107D9D-372B-4B82-9D5D-7A1D5E9A2B11", "x"));
    world.reach(&all(&["a"], &Want::In));
    assert_eq!(world.text(), before);
}

#[test]
fn files_that_cannot_be_edited_say_why() {
    for (text, wanted) in [
        (
            r#"{"inbounds":[{"type":"trojan","users":[],"Users":[]}]}"#,
            "a.json:1: the key \"Users\" stands twice",
        ),
        (r#"{"inbounds":[],"INBOUNDS":[]}"#, "\"INBOUNDS\" stands twice"),
        (r#"{"inbounds":[{"type":"http","tag":"x"},{"type":"http","tag":"x"}]}"#, "\"x\"; sing-box refuses"),
        (r#"{"inbounds":[{"type":"#, "a.json:1:"),
    ] {
        let world = World::one(text);
        let error = plan(&world.files, &[], &Wanted::new(), &[]).unwrap_err();
        assert!(error.to_string().contains(wanted), "{error}");
        assert!(!matches!(error, EditRefused::ReadBack { .. }));
    }
}

#[test]
fn inbounds_without_editable_users_are_left_out_with_the_reason() {
    let world = World::one(
        r#"{"inbounds":[
            {"type":"shadowsocks","tag":"managed","managed":true,"method":"aes-128-gcm"},
            {"type":"shadowtls","tag":"st","version":2,"password":"p","users":[]},
            {"type":"shadowtls","tag":"st3","version":3,"users":[{"name":"a","password":"1"}]},
            {"type":"shadowsocks","tag":"single","password":"p","method":"aes-128-gcm"},
            {"type":"direct","tag":"d"}]}"#,
    );
    for (tag, why) in [
        ("managed", Excluded::Managed),
        ("st", Excluded::OnePassword),
        ("single", Excluded::NoUsersOption),
        ("d", Excluded::NoUserType),
    ] {
        let plan = world.plan(&wanted(&[("x", new(Some(&[tag])))]));
        assert_eq!(plan.refused, [UserRefused::Excluded { tag: tag.into(), why }]);
        assert!(plan.is_empty());
    }
    let plan = world.plan(&wanted(&[("x", new(None))]));
    assert_eq!(plan.credentials.iter().map(|c| c.inbound.as_str()).collect::<Vec<_>>(), ["st3"]);
    let unknown = world.plan(&wanted(&[("x", new(Some(&["st3", "nope"])))]));
    assert!(
        unknown.refused[0].to_string().contains("no inbound \"nope\"; there are st3"),
        "{:?}",
        unknown.refused
    );
    assert!(unknown.is_empty());
}

#[test]
fn what_sing_box_has_not_read_is_found_again() {
    let mut world = World::one(TWO);
    world.reach(&all(&["alice"], &Want::Out));
    let loaded = world.files.clone();
    assert!(unread(&loaded, &world.files).unwrap().is_empty());
    world.reach(&wanted(&[("alice", Want::In), ("bob", Want::Out)]));
    let mut found: Vec<_> = unread(&loaded, &world.files)
        .unwrap()
        .into_iter()
        .map(|change| (change.user, change.inbound, change.what.admits()))
        .collect();
    found.sort();
    let text = |user: &str, inbound: &str, admits| (user.to_owned(), inbound.to_owned(), admits);
    assert_eq!(found, [text("alice", "h", true), text("bob", "h", false), text("bob", "m", false)]);
}
