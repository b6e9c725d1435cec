//! The way in by the web: sessions, tokens, the second factor, and how often somebody may try.

use super::*;

const DAY_MS: i64 = 86_400_000;

fn admin_asks(at_ms: i64) -> Asked {
    Asked::new("admin@192.0.2.1", at_ms)
}

fn with_password(rig: &Rig) {
    rig.ledger.set_password("hash-1".to_owned(), None, None, Asked::new("uid:0", start_ms())).wait().unwrap();
}

fn new_session(letter: u8, address: &str, totp_step: Option<i64>) -> NewSession {
    NewSession {
        secret_hash: [letter; 32],
        expires_ms: start_ms() + 14 * DAY_MS,
        address: address.to_owned(),
        bucket: address.to_owned(),
        browser: "Firefox".to_owned(),
        password: "hash-1".to_owned(),
        totp_step,
    }
}

fn begin(rig: &Rig, letter: u8, at_ms: i64) -> SessionRecord {
    rig.ledger.begin_session(new_session(letter, "192.0.2.1", None), admin_asks(at_ms)).wait().unwrap()
}

fn all_kinds(rig: &Rig) -> Vec<String> {
    rig.reader().events(None, None, None, 1000).unwrap().into_iter().map(|event| event.kind).collect()
}

#[test]
fn a_session_ends_by_idleness_by_age_and_when_the_password_is_changed() {
    let rig = Rig::new("UTC", &[]);
    with_password(&rig);
    let now = start_ms();
    let (first, second) = (begin(&rig, 1, now), begin(&rig, 2, now));
    let reader = rig.reader();
    assert_eq!(reader.session(&[1; 32], now).unwrap(), Some(first.clone()));
    assert_eq!(reader.session(&[3; 32], now).unwrap(), None);
    assert_eq!(reader.session(&[1; 32], now + IDLE_MS - 1).unwrap(), Some(first.clone()));
    assert_eq!(reader.session(&[1; 32], now + IDLE_MS).unwrap(), None, "nobody used it");
    // Used, it goes on until it is too old.
    let seen = |at_ms| {
        let known = rig.reader().session(&[1; 32], at_ms).unwrap().expect("it goes on");
        rig.ledger.session_seen(known, "192.0.2.9".to_owned(), at_ms).unwrap().wait().unwrap();
    };
    let mut at_ms = now;
    while at_ms + IDLE_MS / 2 < now + 14 * DAY_MS {
        at_ms += IDLE_MS / 2;
        seen(at_ms);
    }
    assert_eq!(rig.reader().session(&[1; 32], at_ms).unwrap().unwrap().address, "192.0.2.9");
    assert_eq!(rig.reader().session(&[1; 32], now + 14 * DAY_MS).unwrap(), None, "too old");
    let changed = |before: &str| {
        let (new, before) = ("hash-2".to_owned(), Some(before.to_owned()));
        rig.ledger.set_password(new, before, Some(first.id), admin_asks(at_ms)).wait()
    };
    assert!(changed("hash-0").is_err(), "it was another password by then");
    changed("hash-1").unwrap();
    assert!(rig.reader().session(&[1; 32], at_ms).unwrap().is_some(), "the one that asked");
    assert_eq!(rig.reader().session(&[2; 32], second.seen_ms).unwrap(), None);
    // A password that was right a moment ago does not open anything.
    assert!(rig.ledger.begin_session(new_session(4, "a", None), admin_asks(at_ms)).wait().is_err());
    assert_eq!(all_kinds(&rig), ["password_changed", "signed_in", "signed_in", "password_changed"]);
}

#[test]
fn a_code_of_the_second_factor_is_taken_once_and_none_before_it() {
    let rig = Rig::new("UTC", &[]);
    with_password(&rig);
    rig.ledger.offer_totp(vec![1; 20]).wait().unwrap();
    assert_eq!(rig.reader().panel_admin().unwrap().unwrap().totp, None, "offered only");
    let now = start_ms();
    let other = rig.ledger.set_totp(vec![3; 20], Some(100), true, admin_asks(now)).wait();
    assert!(other.is_err(), "a code of another secret than the offered one");
    rig.ledger.set_totp(vec![1; 20], Some(100), true, admin_asks(now)).wait().unwrap();
    assert_eq!(rig.reader().panel_admin().unwrap().unwrap().totp, Some(vec![1; 20]));
    assert!(rig.ledger.offer_totp(vec![2; 20]).wait().is_err(), "it is not replaced by an offer");
    let begin = |letter, step| {
        rig.ledger.begin_session(new_session(letter, "192.0.2.1", step), admin_asks(now)).wait().map(drop)
    };
    assert!(begin(1, None).is_err(), "the account asks for a code");
    assert!(begin(2, Some(100)).is_err(), "the one that turned it on");
    begin(3, Some(101)).unwrap();
    assert!(begin(4, Some(101)).is_err(), "again");
    assert!(begin(5, Some(99)).is_err(), "an older one");
    assert!(rig.ledger.set_totp(vec![1; 20], Some(101), false, admin_asks(now)).wait().is_err());
    assert!(rig.reader().panel_admin().unwrap().unwrap().totp.is_some(), "refused as a whole");
    rig.ledger.set_totp(vec![1; 20], Some(102), false, admin_asks(now)).wait().unwrap();
    assert_eq!(rig.reader().panel_admin().unwrap().unwrap().totp, None);
}

#[test]
fn tokens_have_one_name_each_and_end() {
    let rig = Rig::new("UTC", &[]);
    let now = start_ms();
    let new = |name: &str, letter, expires_ms| NewToken {
        name: name.to_owned(),
        scope: "read".to_owned(),
        secret_hash: [letter; 32],
        expires_ms,
    };
    let add = |new| rig.ledger.add_token(new, admin_asks(now)).wait();
    let first = add(new("backup", 1, None)).unwrap();
    assert!(matches!(add(new("backup", 2, None)).unwrap_err().refusal(), Some(Refusal::NameTaken(..))));
    add(new("short", 3, Some(now + 10))).unwrap();
    assert_eq!(rig.reader().token(&[3; 32], now + 9).unwrap().unwrap().name, "short");
    assert_eq!(rig.reader().token(&[3; 32], now + 10).unwrap(), None);
    rig.ledger.token_used(&first, now + 5).unwrap().wait().unwrap();
    let used = rig.reader().token(&[1; 32], now).unwrap().unwrap();
    assert_eq!(used.used_ms, Some(now + 5));
    assert!(rig.ledger.token_used(&used, now + 6).is_none(), "not for every call");
    assert!(rig.ledger.delete_token(first.id, admin_asks(now)).wait().unwrap());
    assert!(!rig.ledger.delete_token(first.id, admin_asks(now)).wait().unwrap());
    assert_eq!(rig.reader().token(&[1; 32], now).unwrap(), None);
    assert_eq!(all_kinds(&rig), ["token_added", "token_added", "token_deleted"]);
}

/// Attempts until the first that is refused, and for how long.
fn tries(rig: &Rig, address: &str, now_ms: i64) -> (u32, i64) {
    let mut granted = 0;
    loop {
        match rig.ledger.take_attempt(address.to_owned(), now_ms).wait().unwrap() {
            Attempt::Granted { .. } => granted += 1,
            Attempt::After(ms) => return (granted, ms),
        }
    }
}

#[test]
fn an_address_has_few_attempts_and_another_address_has_its_own() {
    let rig = Rig::new("UTC", &[]);
    with_password(&rig);
    let now = start_ms();
    let (granted, wait_ms) = tries(&rig, "192.0.2.1", now);
    assert!((1..=10).contains(&granted), "{granted}");
    assert_eq!(tries(&rig, "192.0.2.1", now + wait_ms / 2).0, 0);
    assert_eq!(tries(&rig, "192.0.2.1", now + wait_ms).0, 1, "one came back");
    assert_eq!(tries(&rig, "192.0.2.2", now).0, granted, "somebody else");
    // A right password gives everything back.
    let asked = admin_asks(now);
    rig.ledger.begin_session(new_session(1, "192.0.2.1", None), asked).wait().unwrap();
    assert_eq!(tries(&rig, "192.0.2.1", now).0, granted);
    // It is kept over a restart, and a clock that is set back opens nothing.
    let path = rig.path();
    let Rig { directory, ledger, .. } = rig;
    drop(ledger);
    let ledger = Ledger::open(&path, options("UTC")).unwrap();
    for at_ms in [now, now - DAY_MS] {
        let attempt = ledger.take_attempt("192.0.2.1".to_owned(), at_ms).wait().unwrap();
        assert!(matches!(attempt, Attempt::After(_)), "{attempt:?}");
    }
    drop(directory);
}

#[test]
fn many_addresses_together_have_fewer_attempts_but_a_new_one_always_has_one() {
    let rig = Rig::new("UTC", &[]);
    let now = start_ms();
    let granted: Vec<u32> = (0..100).map(|n| tries(&rig, &format!("198.51.100.{n}"), now).0).collect();
    let last = granted[99];
    assert_eq!(last, 1, "crowded, and yet not shut out");
    assert!(granted[0] > last);
    assert!(granted.iter().sum::<u32>() < 200, "{granted:?}");
}

/// Codes are counted for whoever tries them; a right one gives back one, another password all of them.
#[test]
fn codes_have_few_attempts_whoever_tries() {
    let rig = Rig::new("UTC", &[]);
    with_password(&rig);
    let now = start_ms();
    let tries = |at_ms| {
        let granted = |_: &u32| {
            let attempt = rig.ledger.take_code_attempt(at_ms).wait().unwrap();
            matches!(attempt, Attempt::Granted { .. })
        };
        (0..100).take_while(granted).count()
    };
    let first = tries(now);
    assert!((3..=20).contains(&first), "{first}");
    assert_eq!(tries(now - DAY_MS), 0, "a clock that is set back opens nothing");
    let day = (1..24 * 60).map(|minute| tries(now + minute * 60_000)).sum::<usize>();
    // Of a million codes, three are right at a time.
    assert!(day < 2_000, "{day} in a day");
    let later = now + 2 * DAY_MS;
    assert_eq!(tries(later), first);
    let asked = admin_asks(later);
    let before = rig.reader().panel_admin().unwrap().unwrap().password;
    rig.ledger.set_password("another".to_owned(), Some(before), None, asked).wait().unwrap();
    assert_eq!(tries(later), first, "whoever guessed does not know the new password");
}
