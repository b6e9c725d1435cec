//! New users: credentials for every type, the shape of the neighbours, names that are refused.

use super::*;
use crate::{
    enforcer::{
        reconcile,
        users_edit::{self, Newcomer, UserRefused},
    },
    singbox::Secret,
};

fn brought(password: &str) -> Want {
    let brought = Brought { password: Some(Secret(password.into())), ..Brought::default() };
    Want::New { inbounds: None, brought }
}

#[test]
fn every_type_has_its_credentials() {
    let inbounds = [
        r#""trojan","tag":"trojan","users":[]"#,
        r#""vmess","tag":"vmess","users":[]"#,
        r#""vless","tag":"vless","users":[{"name":"a","uuid":"1","flow":"xtls-rprx-vision"}]"#,
        r#""shadowsocks","tag":"ss16","method":"2022-blake3-aes-128-gcm","users":[]"#,
        r#""shadowsocks","tag":"ss32","method":"2022-blake3-aes-256-gcm","users":[]"#,
        r#""shadowsocks","tag":"ss","method":"aes-128-gcm","users":[]"#,
        r#""hysteria","tag":"hysteria","users":[]"#,
        r#""tuic","tag":"tuic","users":[]"#,
        r#""naive","tag":"naive","users":[]"#,
        r#""snell","tag":"snell","users":[]"#,
    ];
    let text =
        format!("{{\"inbounds\":[{}]}}", inbounds.map(|inbound| format!("{{\"type\":{inbound}}}")).join(","));
    let mut world = World::one(&text);
    let done = world.reach(&wanted(&[("zoë", new(None))]));
    let keys: Vec<String> = done
        .credentials
        .iter()
        .map(|c| {
            format!("{}: {}", c.inbound, c.fields.iter().map(|(key, _)| *key).collect::<Vec<_>>().join(" "))
        })
        .collect();
    assert_eq!(
        keys,
        [
            "trojan: name password",
            "vmess: name uuid",
            "vless: name uuid flow",
            "ss16: name password",
            "ss32: name password",
            "ss: name password",
            "hysteria: name auth_str",
            "tuic: name uuid password",
            "naive: username password",
            "snell: name userkey"
        ]
    );
    let value = |at: usize, field: usize| done.credentials[at].fields[field].1.clone();
    assert_eq!((value(3, 1).len(), value(4, 1).len()), (24, 44), "base64 of 16 and 32 bytes");
    assert_eq!(value(2, 2), "xtls-rprx-vision");
    assert!(uuid::Uuid::try_parse(&value(1, 1)).is_ok_and(|uuid| uuid.get_version_num() == 4));
    let again = users_edit::credentials(&world.files, &world.parked, "zoë").unwrap();
    assert!(again == done.credentials, "what was made is what is there");
    world.reach(&all(&["zoë"], &Want::Out));
    let out = users_edit::credentials(&world.files, &world.parked, "zoë").unwrap();
    assert!(out == done.credentials, "also while they are out");
    assert!(!format!("{done:?}{:?}", world.parked).contains(&value(0, 1)), "never printed");
}

fn prepare(
    world: &World,
    name: &str,
    inbounds: Option<Vec<String>>,
    brought: Brought,
) -> Result<reconcile::Prepared, UserRefused> {
    let one = Newcomer { name: name.to_owned(), inbounds, brought };
    reconcile::prepare(&world.files, &world.parked, &[one]).unwrap().remove(0)
}

/// Entries made beforehand come into the files as if they were made there, whatever dies in between.
#[test]
fn what_was_prepared_is_what_comes_in() {
    let trojan =
        |tag: &str, users: &str| format!("{{\"type\":\"trojan\",\"tag\":\"{tag}\",\"users\":{users}}}");
    for users in [
        "[]",
        r#"[{"name":"a","password":"1"}]"#,
        "[\n  { \"name\": \"a\", \"password\": \"1\" }, // a\n]",
        "[\r\n\t{\r\n\t\t\"name\": \"a\",\r\n\t\t\"password\": \"1\"\r\n\t}\r\n]",
    ] {
        let text = format!("{{\"inbounds\":[{},{}]}}", trojan("x", users), trojan("y", users));
        let own = || Brought { password: Some(Secret("p".into())), ..Brought::default() };
        let tags = Some(vec!["y".to_owned()]);
        let mut at_once = World::one(&text);
        at_once.reach(&wanted(&[("n", Want::New { inbounds: tags.clone(), brought: own() })]));
        let mut world = World::one(&text);
        let made = prepare(&world, "n", tags, own()).unwrap();
        assert_eq!(made.credentials[0].fields[1].1, "p");
        assert_eq!(made.entries.len(), 1);
        world.parked.extend(made.entries.iter().cloned());
        let r#in = wanted(&[("n", Want::In)]);
        // Killed after the files were written: only the ledger is behind.
        let mut killed = world.clone();
        let plan = killed.plan(&r#in);
        killed.write(&plan);
        let rest = killed.plan(&r#in);
        assert!(rest.edits.is_empty() && rest.park.is_empty() && rest.returned.is_empty());
        assert_eq!(rest.unpark.len(), 1);
        world.reach(&r#in);
        assert_eq!(world.text(), at_once.text());
        assert_eq!(killed.text(), at_once.text());
        let again = prepare(&world, "n", None, own());
        assert!(matches!(again, Err(UserRefused::DuplicateName { .. })));
    }
    let world =
        World::one(r#"{"inbounds":[{"type":"trojan","tag":"x","users":[{"name":"a","password":"1"}]}]}"#);
    let twin = Brought { password: Some(Secret("1".into())), ..Brought::default() };
    let refused = prepare(&world, "n", None, twin);
    assert!(matches!(refused, Err(UserRefused::DuplicateCredential { .. })));
}

/// Whoever had a login for each inbound elsewhere keeps each; a flow that was brought is not the neighbours'.
#[test]
fn logins_of_single_inbounds_are_kept() {
    let text = r#"{"inbounds":[
        {"type":"trojan","tag":"t","users":[{"name":"a","password":"1"}]},
        {"type":"trojan","tag":"u","users":[{"name":"a","password":"1"}]},
        {"type":"vless","tag":"v","users":[{"name":"a","uuid":"1","flow":"xtls-rprx-vision"}]},
        {"type":"vless","tag":"w","users":[]}]}"#;
    let password = |word: &str| Brought { password: Some(Secret(word.into())), ..Brought::default() };
    let uuid = || Some(Secret("b831381d-6324-4d53-ad4f-8cda48b30811".into()));
    let vless = |flow: &str| Brought { uuid: uuid(), flow: Some(flow.to_owned()), ..Brought::default() };
    let on = [("u", password("own")), ("v", vless("")), ("w", vless("xtls-rprx-vision"))];
    let on = on.map(|(tag, brought)| (tag.to_owned(), brought)).into_iter().collect();
    let made = prepare(&World::one(text), "n", None, Brought { on, ..password("everywhere") }).unwrap();
    let fields: Vec<Vec<&str>> = made
        .credentials
        .iter()
        .map(|it| it.fields[1..].iter().map(|(_, value)| &**value).collect())
        .collect();
    let uuid = uuid().unwrap().0;
    assert_eq!(fields, [vec!["everywhere"], vec!["own"], vec![&*uuid], vec![&*uuid, "xtls-rprx-vision"]]);
}

/// Many are prepared and come in together as they would one after the other; who cannot, on any of its
/// inbounds, is on none, and holds up nobody.
#[test]
fn many_are_made_at_once_each_wholly_or_not() {
    let text = r#"{"inbounds":[
  {"type":"trojan","tag":"t","users":[
    {"name":"a","password":"1"},
    {"name":"b","password":"2"}
  ]},
  {"type":"shadowsocks","tag":"s","method":"2022-blake3-aes-128-gcm","users":[]}]}"#;
    let newcomer = |name: &str, inbounds: Option<&[&str]>, password: Option<&str>| Newcomer {
        name: name.to_owned(),
        inbounds: inbounds.map(|tags| tags.iter().map(|tag| (*tag).to_owned()).collect()),
        brought: Brought { password: password.map(|text| Secret(text.into())), ..Brought::default() },
    };
    let only = Some(&["t"][..]);
    let mut newcomers: Vec<Newcomer> =
        (0..50).map(|n| newcomer(&format!("u{n:02}"), only, Some(&format!("p{n}")))).collect();
    newcomers.extend([
        newcomer("whole", None, None),
        newcomer("half", None, Some("no key")),
        newcomer("u07", only, Some("another")),
        newcomer("twin", only, Some("p7")),
        newcomer("old", only, Some("2")),
        newcomer("a", only, None),
        newcomer("lost", Some(&["nowhere"]), None),
        newcomer("br]", only, None),
    ]);
    let mut world = World::one(text);
    let made = reconcile::prepare(&world.files, &world.parked, &newcomers).unwrap();
    let refused: Vec<&str> =
        newcomers.iter().zip(&made).filter(|(_, made)| made.is_err()).map(|(one, _)| &*one.name).collect();
    // Of two with one credential the first one by name stays.
    assert_eq!(refused, ["u07", "half", "u07", "old", "a", "lost", "br]"]);
    let entries = |at: usize| made[at].as_ref().unwrap().entries.len();
    assert_eq!((entries(0), entries(50)), (1, 2));
    // One after the other, in the order in which they are made.
    let mut single = World::one(text);
    let good = newcomers.iter().zip(&made).filter(|(one, made)| made.is_ok() && one.name != "whole");
    let mut good: Vec<&Newcomer> = good.map(|(one, _)| one).collect();
    good.sort_by_key(|one| &one.name);
    for one in good {
        let want = Want::New { inbounds: one.inbounds.clone(), brought: one.brought.clone() };
        single.reach(&wanted(&[(&one.name, want)]));
    }
    let good = made.into_iter().flatten();
    world.parked.extend(good.flat_map(|made| made.entries));
    let names: Vec<String> = (0..50).map(|n| format!("u{n:02}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let done = world.reach(&all(&[&names[..], &["twin"]].concat(), &Want::In));
    assert!(done.refused.is_empty() && done.edits.len() == 1);
    let trojan = |world: &World| world.text().split_once("shadowsocks").map(|(text, _)| text.to_owned());
    assert_eq!(trojan(&world), trojan(&single));
    world.reach(&all(&["whole"], &Want::In));
    assert_eq!((world.names("t").len(), world.names("s")), (53, vec!["whole".to_owned()]));
    world.reach(&all(&[&names[..], &["whole", "twin"]].concat(), &Want::Deleted));
    assert_eq!(world.names("t"), ["a", "b"]);
}

#[test]
fn a_new_entry_looks_like_its_neighbours() {
    for (users, wanted) in [
        ("", "\n  {\"name\": \"n\", \"password\": \"p\"}\n"),
        (r#"{"name":"a","password":"1"}"#, r#"{"name":"a","password":"1"}, {"name":"n","password":"p"}"#),
        (
            r#"{"name":"a","password":"1"},{"name":"b","password":"2"}"#,
            r#"{"name":"a","password":"1"},{"name":"b","password":"2"},{"name":"n","password":"p"}"#,
        ),
        (r#"[ { "name": "a" } ]"#, r#"[ { "name": "a" }, { "name": "n", "password": "p" } ]"#),
        (
            "\r\n\t{\r\n\t\t\"name\": \"a\"\r\n\t} // a\r\n",
            "\r\n\t{\r\n\t\t\"name\": \"a\"\r\n\t}, // a\r\n\t{\r\n\t\t\"name\": \"n\",\r\n\t\t\"password\": \"p\"\r\n\t}\r\n",
        ),
        (
            "\n    {\"name\": \"a\"},\n",
            "\n    {\"name\": \"a\"},\n    {\"name\": \"n\", \"password\": \"p\"},\n",
        ),
    ] {
        let (users, wanted) = (users.trim_matches(['[', ']']), wanted.trim_matches(['[', ']']));
        let text = |users: &str| {
            format!("{{\"inbounds\":[{{\"type\":\"trojan\",\"tag\":\"t\",\"users\":[{users}]}}]}}")
        };
        let mut world = World::one(&text(users));
        world.reach(&super::wanted(&[("n", brought("p"))]));
        assert_eq!(world.text(), text(wanted));
        if !users.is_empty() {
            world.reach(&all(&["n"], &Want::Deleted));
            assert_eq!(world.text(), text(users), "as if nobody had been there");
        }
    }
}

#[test]
fn dangerous_and_taken_names_are_refused() {
    let mut world = World::one(
        r#"{"inbounds":[{"type":"trojan","tag":"t","users":[{"name":"a","password":"1"}]},{"type":"http","tag":"h","users":[{"username":"b","password":"2"}]}]}"#,
    );
    let text = world.text().to_owned();
    let long = "x".repeat(129);
    for (name, wanted) in [
        ("", "missing"),
        ("line\nbreak", "line breaks"),
        ("esc\u{1b}[0m", "control"),
        ("turn\u{202e}ed", "not seen"),
        (" a", "begin or end"),
        ("a\u{3000}", "begin or end"),
        ("br]", "brackets"),
        ("4", "digits"),
        ("boxmeter-locked", "boxmeter itself"),
        ("Boxmeter-Locked", "boxmeter itself"),
        ("boxmeter:x", "boxmeter itself"),
        (long.as_str(), "128 bytes"),
        ("a:b", "colon"),
    ] {
        let error = prepare(&world, name, None, Brought::default()).unwrap_err();
        assert!(error.to_string().contains(wanted), "{name:?}: {error}");
        let plan = world.plan(&super::wanted(&[(name, new(Some(&["h"])))]));
        assert!(matches!(&plan.refused[..], [UserRefused::Name { .. }]), "{name:?}: {plan:?}");
        assert!(plan.is_empty());
    }
    let only = prepare(&world, "a:b", Some(vec!["t".to_owned()]), Brought::default());
    assert_eq!(only.unwrap().credentials[0].kind, "trojan", "no login ends there");
    world.reach(&all(&["b"], &Want::Out));
    for name in ["a", "b"] {
        let error = prepare(&world, name, None, Brought::default()).unwrap_err();
        assert!(matches!(error, UserRefused::DuplicateName { .. }), "{name}: {error}");
    }
    world.reach(&all(&["b"], &Want::In));
    assert_eq!(world.text(), text);
}

#[test]
fn what_is_brought_is_used_or_refused() {
    let mut world = World::one(
        r#"{"inbounds":[{"type":"trojan","tag":"t","users":[{"name":"a","password":"1"}]},{"type":"shadowsocks","tag":"s","method":"2022-blake3-aes-128-gcm","users":[{"name":"a","password":"2"}]}]}"#,
    );
    // Somebody who is out keeps the credential.
    world.reach(&all(&["a"], &Want::Out));
    let done = world.plan(&wanted(&[("b", brought("1"))]));
    assert_eq!(
        done.refused,
        [
            UserRefused::DuplicateCredential { user: "b".into(), other: "a".into(), inbound: "t".into() },
            UserRefused::WrongKey { user: "b".into(), inbound: "s".into(), bytes: 16 },
        ]
    );
    assert!(done.is_empty() && done.credentials.is_empty());
    let key = "AAAAAAAAAAAAAAAAAAAAAA==";
    let done = world.reach(&wanted(&[("b", brought(key))]));
    assert!(done.credentials.iter().all(|c| c.fields[1].1 == key));
    assert_eq!((world.names("t"), world.names("s")), (vec!["b".to_owned()], vec!["b".to_owned()]));
}

#[test]
fn a_second_want_of_the_same_user_makes_nothing() {
    let mut world = World::one(r#"{"inbounds":[{"type":"mixed","tag":"m","users":[]}]}"#);
    let want = wanted(&[("n", new(None)), ("o", new(None))]);
    let plan = world.plan(&want);
    // Dies after the file was written: the credentials are in the file.
    world.write(&plan);
    assert!(world.plan(&want).is_empty());
    assert!(users_edit::credentials(&world.files, &[], "n").unwrap() == plan.credentials[..1]);
    assert_eq!(world.names("m"), ["n", "o"]);
}
