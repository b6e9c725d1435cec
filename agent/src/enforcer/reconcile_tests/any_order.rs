//! Random configurations, random orders of taking out and putting back, crashes and edits by hand.

use proptest::prelude::*;

use super::*;

/// Blanks and comments as people leave them between entries.
fn blank(lines: bool) -> impl Strategy<Value = String> {
    let text = if lines {
        "( |\t|\n|\r\n|\n    |\n\t\t|// [a-z,\\{\\}]{0,4}\n|# \"x\", é\n|/\\* [a-z,]{0,3} \\*/){0,3}"
    } else {
        "( |\t|/\\* [a-z,]{0,3} \\*/){0,2}"
    };
    text.prop_map(|text: String| text)
}

/// The text between two entries, with its comma.
fn between() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => Just(",\n      ".to_owned()),
        2 => Just(", ".to_owned()),
        1 => Just("\n    , ".to_owned()),
        1 => "[a-z]{1,5}".prop_map(|word| format!(", // {word}, too\n      ")),
        1 => "[a-z]{1,5}".prop_map(|word| format!(",\r\n\t\t# {word} is next\r\n\t\t")),
        2 => (blank(true), blank(true)).prop_map(|(before, after)| format!("{before},{after}")),
        1 => (blank(false), blank(false)).prop_map(|(before, after)| format!("{before},{after}")),
    ]
}

fn entry(name: String, shape: usize) -> String {
    let (key, secret) = ("name", format!("secret of {name}"));
    match shape {
        0 => format!("{{\"{key}\":\"{name}\",\"password\":\"{secret}\"}}"),
        1 => format!(
            "{{\n        \"{key}\": \"{name}\", // {name}\n        \"password\": \"{secret}\"\n      }}"
        ),
        2 => format!("{{ \"Password\": \"{secret}\", \"NAME\": \"{name}\" }}"),
        _ => format!("{{ /* [,] */ \"{key}\" : \"{name}\",\t\"password\": \"{secret}\" # }}\n }}"),
    }
}

/// The inside of a `users` array with the users `u0`, `u1`, … of one inbound; now and then a name twice.
fn users() -> impl Strategy<Value = String> {
    let count = 1usize..7;
    let parts = count.prop_flat_map(|count| {
        (
            proptest::collection::vec((0usize..4, between()), count),
            (blank(true), blank(true), any::<bool>(), 0usize..12),
        )
    });
    parts.prop_map(|(entries, (head, tail, comma, twice))| {
        let mut text = head;
        let count = entries.len();
        for (at, (shape, between)) in entries.into_iter().enumerate() {
            let number = if at == twice && at > 0 { at - 1 } else { at };
            text.push_str(&entry(format!("u{number}"), shape));
            text.push_str(if at + 1 < count { &between } else { "" });
        }
        if comma {
            text.push_str(" ,");
        }
        text + &tail
    })
}

fn texts(lists: &[String], note: &str) -> Vec<String> {
    let inbound = |at: usize, users: &String| {
        format!(
            "{{\"type\": \"{}\", \"tag\": \"in{at}\", \"users\": [{users}], \"listen_port\": {at}}}",
            ["trojan", "hysteria2", "anytls"][at % 3]
        )
    };
    let (first, rest) = lists.split_at(1);
    let rest: Vec<String> = rest.iter().enumerate().map(|(at, users)| inbound(at + 1, users)).collect();
    vec![
        format!(
            "// <{note}>\n{{\"log\": {{}}, \"Inbounds\": [ {} ] /* <{note}> */}}\n",
            inbound(0, &first[0])
        ),
        format!("{{\n\t\"inbounds\": [\n{}\n]}}# <{note}>", rest.join(",\n")),
    ]
}

#[derive(Clone, Debug)]
enum Step {
    /// Each user whose bit is set goes out, the others of the mask in.
    Move { mask: u8, out: u8 },
    /// The agent dies, or cannot go on, after so many of the four steps that carry a plan out; then, perhaps,
    /// somebody edits the text outside of the lists before it is planned again.
    Crash { mask: u8, out: u8, done: usize, note: Option<String> },
    /// Text outside of the lists changes.
    Note(String),
    /// A new user comes and, at the end, goes.
    Add(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => (any::<u8>(), any::<u8>()).prop_map(|(mask, out)| Step::Move { mask, out }),
        2 => (any::<u8>(), any::<u8>(), 0usize..4, proptest::option::of("[a-z ]{0,9}"))
            .prop_map(|(mask, out, done, note)| Step::Crash { mask, out, done, note }),
        1 => "[a-z ]{0,9}".prop_map(Step::Note),
        1 => (0usize..3).prop_map(Step::Add),
    ]
}

fn wishes(mask: u8, out: u8) -> Wanted {
    let name = |bit: u32| format!("u{bit}");
    let chosen = (0..8).filter(|bit| mask >> bit & 1 == 1);
    chosen.map(|bit| (name(bit), if out >> bit & 1 == 1 { Want::Out } else { Want::In })).collect()
}

fn world(lists: &[String], note: &str) -> World {
    let texts = texts(lists, note);
    World::new(&[("a.json", &texts[0]), ("b.json", &texts[1])])
}

/// Changes the text outside of the lists, as people do.
fn comment(world: &mut World, note: &mut String, text: String) {
    for at in 0..2 {
        let changed = (world.files[at].text)
            .replace(&format!("// <{note}>\n"), &format!("// <{text}>\n"))
            .replace(&format!("/* <{note}> */"), &format!("/* <{text}> */"))
            .replace(&format!("# <{note}>"), &format!("# <{text}>"));
        world.set(at, &changed);
    }
    *note = text;
}

/// Is nobody out who should be in, nobody in who should be out, and no list empty?
fn holds(world: &World, out: &std::collections::BTreeSet<String>) {
    let config = files::parse(&world.files).unwrap();
    for inbound in &config.inbounds {
        assert!(!inbound.users.is_empty(), "{}", world.text());
        assert!(inbound.users.iter().all(|user| !out.contains(&*user.name)));
        let locked = inbound.users.iter().filter(|user| user.is_locked()).count();
        assert!(locked == 0 || inbound.users.len() == 1, "{}", world.text());
    }
}

/// Changes in the lists by hand.
#[derive(Clone, Debug)]
enum Hand {
    /// Another user, first or last.
    Append { first: bool },
    /// A user who is in gets another credential.
    Change(usize),
    /// A user who is in is deleted.
    Delete(usize),
    /// A comment before a user who is in.
    Comment(usize),
}

fn hand() -> impl Strategy<Value = Hand> {
    prop_oneof![
        any::<bool>().prop_map(|first| Hand::Append { first }),
        (0usize..6).prop_map(Hand::Change),
        (0usize..6).prop_map(Hand::Delete),
        (0usize..6).prop_map(Hand::Comment),
    ]
}

impl Hand {
    /// Does it on the first file; the name of who is gone.
    fn work(&self, world: &mut World, count: &mut usize) -> Option<String> {
        *count += 1;
        let config = files::parse(&world.files).unwrap();
        let users = &config.inbounds[0].users;
        let text = world.text().to_owned();
        let (at, with, range) = match self {
            Hand::Append { first } => {
                let new = entry(format!("hand{count}"), *count % 4);
                match *first {
                    true => (users[0].range.start, format!("{new}, "), 0),
                    false => (users[users.len() - 1].range.end, format!(",\n{new}"), 0),
                }
            }
            Hand::Comment(at) => (users[at % users.len()].range.start, format!("// by hand {count}\n  "), 0),
            Hand::Change(at) => {
                let user = &users[at % users.len()];
                let entry = &text[user.range.clone()];
                (user.range.start, entry.replace("secret", &format!("secret {count}")), entry.len())
            }
            Hand::Delete(at) => {
                let at = at % (users.len() - 1).max(1);
                let next = users.get(at + 1)?;
                (users[at].range.start, String::new(), next.range.start - users[at].range.start)
            }
        };
        let gone = matches!(self, Hand::Delete(_))
            .then(|| users.iter().find(|user| user.range.start == at).map(|user| user.name.to_string()));
        world.set(0, &splice::apply(&text, &[Splice { range: at..at + range, with }]));
        gone.flatten()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn any_order_of_out_and_in_ends_where_it_began(
        lists in proptest::collection::vec(users(), 2..4),
        steps in proptest::collection::vec(step(), 1..12),
    ) {
        let mut world = world(&lists, "note");
        let mut note = "note".to_owned();
        let mut out = std::collections::BTreeSet::new();
        let mut added = false;
        for step in steps {
            match step {
                Step::Move { mask, out: gone } => {
                    let wishes = wishes(mask, gone);
                    for (name, want) in &wishes {
                        match want {
                            Want::Out => out.insert(name.clone()),
                            _ => out.remove(name),
                        };
                    }
                    world.reach(&wishes);
                    holds(&world, &out);
                }
                Step::Crash { mask, out: gone, done, note: by_hand } => {
                    let wishes = wishes(mask, gone);
                    let plan = world.plan(&wishes);
                    world.park(&plan);
                    // The files are written one by one.
                    world.write_some(&plan, [0, 1, usize::MAX, usize::MAX][done]);
                    if done > 2 {
                        world.note(&plan);
                    }
                    if let Some(text) = by_hand {
                        comment(&mut world, &mut note, text);
                    }
                    // Back up: what was wanted still is.
                    for (name, want) in &wishes {
                        match want {
                            Want::Out => out.insert(name.clone()),
                            _ => out.remove(name),
                        };
                    }
                    let again = world.reach(&wishes);
                    prop_assert!(again.returned.is_empty(), "nobody put anybody back: {:?}", again.returned);
                    holds(&world, &out);
                }
                Step::Note(text) => comment(&mut world, &mut note, text),
                Step::Add(at) => {
                    let tag = format!("in{}", at % lists.len());
                    added = true;
                    let before = world.names(&tag);
                    world.reach(&wanted(&[("new", new(Some(&[&tag])))]));
                    prop_assert!(world.names(&tag).contains(&"new".to_owned()) , "{:?}", before);
                    holds(&world, &out);
                }
            }
        }
        world.reach(&wishes(u8::MAX, 0));
        prop_assert!(world.parked.is_empty());
        if added {
            // Where an entry was written, blanks may stay; what people wrote is all there.
            world.reach(&wanted(&[("new", Want::Deleted)]));
            let solid = |text: &str| text.split_whitespace().collect::<String>();
            for (file, wanted) in world.files.iter().zip(texts(&lists, &note)) {
                prop_assert_eq!(solid(&file.text), solid(&wanted));
            }
        } else {
            for (file, wanted) in world.files.iter().zip(texts(&lists, &note)) {
                prop_assert_eq!(&file.text, &wanted);
            }
        }
    }

    /// Nothing that anybody wrote is lost, everybody comes back, and all that stands elsewhere stays.
    #[test]
    fn edits_by_hand_are_respected(
        lists in proptest::collection::vec(users(), 2..3),
        steps in proptest::collection::vec((any::<u8>(), any::<u8>(), hand()), 1..8),
    ) {
        let mut world = world(&lists, "note");
        let everybody = world.names("in0");
        let (mut count, mut gone) = (0, Vec::new());
        for (mask, out, hand) in steps {
            world.reach(&wishes(mask, out));
            gone.extend(hand.work(&mut world, &mut count));
        }
        let outside = |world: &World| world.text().split_once("\"users\": [").unwrap().0.to_owned();
        let before = outside(&world);
        let plan = world.reach(&wishes(u8::MAX, 0));
        prop_assert!(plan.refused.is_empty(), "{:?}", plan.refused);
        prop_assert!(world.parked.is_empty());
        prop_assert_eq!(outside(&world), before);
        prop_assert_eq!(&world.files[1].text, &texts(&lists, "note")[1]);
        let names = world.names("in0");
        for name in everybody.iter().filter(|name| !gone.contains(name)) {
            let count = |names: &[String]| names.iter().filter(|found| *found == name).count();
            prop_assert_eq!(count(&names), count(&everybody), "{}", world.text());
        }
        prop_assert!(gone.iter().all(|name| everybody.iter().filter(|found| *found == name).count() > 1 || !names.contains(name)));
    }
}
