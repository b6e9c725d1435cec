//! Files of several proxies in one plan.

use super::*;
use crate::{
    enforcer::{reconcile::prepare, users_edit::Newcomer},
    service::{Kind, Service},
};

const V2RAY: &str = r#"{ // the tutorial's, as people keep it
  "inbounds": [
    { "tag": "api", "protocol": "dokodemo-door", "port": 1, "settings": { "address": "127.0.0.1" } },
    { "tag": "trojan", "protocol": "trojan", "port": 2, "settings": { "clients": [
      { "password": "one", "email": "alice", "level": 0 }, // the first
      { "password": "two", "email": "bob", "level": 0 }
    ] } },
    { "protocol": "vmess", "port": 3, "settings": { "clients": [ { "id": "b831381d-6324-4d53-ad4f-8cda48b30811", "email": "alice" } ] } },
    { "tag": "web", "protocol": "HTTP", "port": 4, "settings": { "accounts": [{"user":"alice","pass":"x"}] } },
    { "tag": "ss", "protocol": "shadowsocks", "port": 5, "settings": { "method": "aes-128-gcm", "password": "k", "email": "zoe" } }
  ]
}
"#;

const SINGBOX: &str = r#"{"inbounds": [{"type": "trojan", "tag": "in", "users": [{"name": "alice", "password": "p"}, {"name": "eve", "password": "q"}]}]}"#;

fn world() -> World {
    let mut world = World::new(&[("sing-box.json", SINGBOX), ("v2ray.json", V2RAY)]);
    world.files[1].service = Service { kind: Kind::V2ray, name: "v".into() };
    world
}

/// Carries a plan out; planned again it is empty.
fn reach(world: &mut World, wanted: &Wanted) -> Plan {
    let done = world.plan(wanted);
    world.park(&done);
    for edit in &done.edits {
        let at = world.files.iter().position(|file| *file.path == edit.path).unwrap();
        assert_eq!(world.files[at].service, edit.service);
        world.files[at].text.clone_from(&edit.content);
        world.files[at].sha256 = hash(&edit.content);
    }
    world.note(&done);
    assert!(world.plan(wanted).is_empty(), "{}", world.files[1].text);
    done
}

fn places(plan: &Plan) -> Vec<(&str, &str)> {
    let mut found: Vec<_> =
        plan.changes.iter().map(|change| (change.inbound.as_str(), change.user.as_str())).collect();
    found.sort_unstable();
    found
}

#[test]
fn a_user_goes_out_of_all_proxies_and_comes_back_byte_for_byte() {
    let mut world = world();
    let out = reach(&mut world, &wanted(&[("alice", Want::Out)]));
    // The inbound without a tag is named by its place.
    assert_eq!(places(&out), ["in", "v/2", "v/trojan", "v/web"].map(|tag| (tag, "alice")));
    assert!(world.files.iter().all(|file| !file.text.contains("\"alice\"")));
    // Open to everybody if it were empty.
    assert!(world.files[1].text.contains("boxmeter-locked"), "{}", world.files[1].text);
    assert!(world.files[1].text.contains("// the first"), "comments stay");
    reach(&mut world, &wanted(&[("bob", Want::Out), ("alice", Want::Out)]));
    reach(&mut world, &wanted(&[("bob", Want::In), ("alice", Want::In)]));
    assert_eq!((world.files[0].text.as_str(), world.files[1].text.as_str()), (SINGBOX, V2RAY));
    assert!(world.parked.is_empty());
}

#[test]
fn a_new_user_is_written_in_the_words_of_each_proxy() {
    let mut world = world();
    let newcomer = Newcomer {
        name: "carol".to_owned(),
        inbounds: Some(["in", "v/trojan", "v/2", "v/web"].map(str::to_owned).to_vec()),
        brought: Brought::default(),
    };
    let prepared = prepare(&world.files, &world.parked, &[newcomer]).unwrap().remove(0).unwrap();
    assert_eq!(prepared.entries.len(), 4);
    let keys = |tag: &str| {
        let of = prepared.credentials.iter().find(|one| one.inbound == tag).unwrap();
        of.fields.iter().map(|(key, _)| *key).collect::<Vec<_>>()
    };
    assert_eq!(keys("in"), ["name", "password"]);
    assert_eq!(keys("v/trojan"), ["email", "password"]);
    assert_eq!(keys("v/2"), ["email", "id"]);
    assert_eq!(keys("v/web"), ["user", "pass"]);
    world.parked.extend(prepared.entries);
    reach(&mut world, &wanted(&[("carol", Want::In)]));
    assert_eq!(world.files[1].text.matches("\"carol\"").count(), 3);
    reach(&mut world, &wanted(&[("carol", Want::Deleted)]));
    assert_eq!(world.files[1].text, V2RAY);
    let refused = |tag: &str| {
        let inbounds = Some(vec![tag.to_owned()]);
        let one = Newcomer { name: "carol".to_owned(), inbounds, brought: Brought::default() };
        prepare(&world.files, &world.parked, &[one]).unwrap().remove(0).unwrap_err().to_string()
    };
    assert!(refused("v/ss").contains("one user"), "{}", refused("v/ss"));
    assert!(refused("v/api").contains("no users"));
    assert!(refused("trojan").contains("no inbound"), "that is another proxy's");
}
