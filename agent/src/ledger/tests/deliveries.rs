//! The queue of messages: derived once, claimed one at a time, bounded, and right after a restore.

use serde_json::json;

use super::*;
use crate::core::notice::Channel;

const HOUR: i64 = 3_600_000;

/// Tells every `ping` by mail, and every `pang` by all channels.
fn alerts() -> Alerts {
    Arc::new(|happened: &Happened| {
        let message = |channel| NewDelivery {
            channel,
            recipient: "admin".to_owned(),
            kind: happened.event.kind.clone(),
            topic: format!("event:{}", happened.event.id),
            user: happened.event.user,
            data: json!({ "data": happened.event.data }),
        };
        match happened.event.kind.as_str() {
            "ping" => vec![message(Channel::Mail)],
            "pang" => Channel::ALL.into_iter().map(message).collect(),
            _ => Vec::new(),
        }
    })
}

fn happen(rig: &Rig, kind: &str, user: Option<UserId>, count: usize) {
    let event = NewEvent {
        at_ms: start_ms(),
        kind: kind.to_owned(),
        user,
        actor: "agent".to_owned(),
        data: json!({}),
    };
    rig.ledger.record_events(vec![event; count]).wait().unwrap();
}

fn begun(rig: &Rig) {
    let wanted = NotifyWanted { any: true, reports: vec!["daily"] };
    rig.ledger.begin_notify(wanted, start_ms()).wait().unwrap();
}

fn derive(rig: &Rig) -> Vec<Channel> {
    rig.ledger.derive_alerts(alerts(), start_ms()).wait().unwrap()
}

fn claim(rig: &Rig, channel: Channel, now_ms: i64) -> Option<Delivery> {
    rig.ledger.claim_delivery(channel, now_ms).wait().unwrap()
}

fn stages(rig: &Rig) -> Vec<(Channel, Stage)> {
    let mut all: Vec<_> = rig.reader().deliveries(10_000).unwrap();
    all.sort_by_key(|it| it.no);
    all.into_iter().map(|it| (it.channel, it.stage)).collect()
}

#[test]
fn events_are_told_once_and_from_the_beginning_on() {
    let rig = Rig::new("UTC", &["alice"]);
    happen(&rig, "ping", None, 3);
    assert_eq!(derive(&rig), [], "nobody is to be told");
    begun(&rig);
    assert_eq!(derive(&rig), [], "what was before is no news");
    happen(&rig, "ping", Some(rig.users[0].id), 1);
    happen(&rig, "other", None, 1);
    assert_eq!(derive(&rig), [Channel::Mail]);
    derive(&rig);
    assert_eq!(stages(&rig), [(Channel::Mail, Stage::Waiting)]);
    // More than one transaction looks at.
    happen(&rig, "ping", None, 700);
    derive(&rig);
    assert_eq!(stages(&rig).len(), 701);
    // Nobody wants it any more, and later again: it begins anew.
    rig.ledger.begin_notify(NotifyWanted::default(), start_ms()).wait().unwrap();
    happen(&rig, "ping", None, 1);
    begun(&rig);
    derive(&rig);
    assert_eq!(stages(&rig).len(), 701);
}

#[test]
fn a_message_is_marked_before_it_goes_out_and_noted_after() {
    let rig = Rig::new("UTC", &[]);
    begun(&rig);
    happen(&rig, "ping", None, 2);
    derive(&rig);
    let first = claim(&rig, Channel::Mail, start_ms()).unwrap();
    assert_eq!((first.stage, first.attempts), (Stage::Sending, 1));
    let second = claim(&rig, Channel::Mail, start_ms()).unwrap();
    assert_ne!(first.id, second.id);
    assert_eq!(claim(&rig, Channel::Mail, start_ms()), None);
    let done = |no, outcome| rig.ledger.delivered(no, outcome, start_ms()).wait().unwrap();
    done(first.no, Outcome::Sent);
    let again = Outcome::Again { at_ms: start_ms() + 1000, error: "busy".to_owned() };
    done(second.no, again);
    assert_eq!(claim(&rig, Channel::Mail, start_ms() + 999), None);
    assert_eq!(derive(&rig), []);
    let later = claim(&rig, Channel::Mail, start_ms() + 1000).unwrap();
    assert_eq!((later.id, later.attempts, later.error.as_deref()), (second.id, 2, Some("busy")));
    done(later.no, Outcome::Failed("no such mailbox".to_owned()));
    assert_eq!(stages(&rig), [(Channel::Mail, Stage::Sent), (Channel::Mail, Stage::Failed)]);
    let events = rig.reader().events(None, None, None, 100).unwrap();
    let told: Vec<_> = events.iter().filter(|event| event.kind == "message_not_delivered").collect();
    assert_eq!(told.len(), 1);
    assert!(told[0].data["message"].as_str().unwrap().contains("boxmeter notify list"));
    let said = told[0].data.to_string();
    assert!(
        !said.contains("no such mailbox") && !said.contains("admin"),
        "no address, no server's words: {said}"
    );
    let (counts, refused) = rig.reader().delivery_counts().unwrap();
    assert_eq!((counts[0].waiting, counts[0].last_sent_ms, refused), (0, Some(start_ms()), 0));
}

/// One message that a server never takes holds up no other one.
#[test]
fn a_message_that_is_tried_again_stands_behind_new_ones() {
    let rig = Rig::new("UTC", &[]);
    begun(&rig);
    happen(&rig, "ping", None, 1);
    derive(&rig);
    let first = claim(&rig, Channel::Mail, start_ms()).unwrap();
    let again = Outcome::Again { at_ms: start_ms() + HOUR, error: "busy".to_owned() };
    rig.ledger.delivered(first.no, again, start_ms()).wait().unwrap();
    happen(&rig, "ping", None, 2);
    derive(&rig);
    let late = start_ms() + 2 * HOUR;
    let mut order = Vec::new();
    while let Some(next) = claim(&rig, Channel::Mail, late) {
        rig.ledger.delivered(next.no, Outcome::Sent, late).wait().unwrap();
        order.push(next.no);
    }
    assert!(order.len() > 1, "{order:?}");
    assert_eq!(order.last(), Some(&first.no), "{order:?}");
}

/// A clock that was set back does not keep a message for a year.
#[test]
fn a_wait_that_no_backoff_has_made_is_over() {
    let rig = Rig::new("UTC", &[]);
    begun(&rig);
    happen(&rig, "ping", None, 1);
    derive(&rig);
    let message = claim(&rig, Channel::Mail, start_ms()).unwrap();
    let again = Outcome::Again { at_ms: start_ms() + 365 * 24 * HOUR, error: "busy".to_owned() };
    rig.ledger.delivered(message.no, again, start_ms()).wait().unwrap();
    assert!(claim(&rig, Channel::Mail, start_ms()).is_some());
}

#[test]
fn what_a_crash_leaves_in_the_middle_is_decided_by_what_tells_a_repetition() {
    let rig = Rig::new("UTC", &[]);
    begun(&rig);
    happen(&rig, "pang", None, 1);
    derive(&rig);
    let keys: Vec<_> =
        Channel::ALL.into_iter().map(|channel| claim(&rig, channel, start_ms()).unwrap().id).collect();
    begun(&rig);
    let expected = [
        (Channel::Mail, Stage::Waiting),
        (Channel::Telegram, Stage::Unsure),
        (Channel::Webhook, Stage::Waiting),
    ];
    assert_eq!(stages(&rig), expected);
    let again = claim(&rig, Channel::Webhook, start_ms()).unwrap();
    assert_eq!((again.id, again.attempts), (keys[2], 2), "the same key");
}

#[test]
fn the_queue_is_bounded_and_what_is_too_old_goes() {
    let rig = Rig::new("UTC", &[]);
    begun(&rig);
    happen(&rig, "ping", None, 1_010);
    derive(&rig);
    assert_eq!(stages(&rig).len(), 1_000);
    assert_eq!(rig.reader().delivery_counts().unwrap().1, 10);
    // Another channel has room of its own.
    happen(&rig, "pang", None, 1);
    derive(&rig);
    assert_eq!(stages(&rig).len(), 1_002);
    rig.ledger.expire_deliveries(start_ms() + 71 * HOUR).wait().unwrap();
    assert!(stages(&rig).iter().all(|(_, stage)| *stage == Stage::Waiting));
    for _ in 0..11 {
        rig.ledger.expire_deliveries(start_ms() + 73 * HOUR).wait().unwrap();
    }
    assert!(stages(&rig).iter().all(|(_, stage)| *stage == Stage::Expired));
    let told = rig.reader().events(None, None, None, 10_000).unwrap();
    let told = told.iter().filter(|event| event.kind == "message_not_delivered").count();
    assert_eq!(told, 1_002, "each is told");
    // What is done is not kept for ever.
    rig.ledger.expire_deliveries(start_ms() + 40 * 24 * HOUR).wait().unwrap();
    assert_eq!(stages(&rig), []);
}

/// What is for users takes nothing of the admin's room, and stands behind what is for the admin.
#[test]
fn users_about_themselves_take_no_place_of_the_admin() {
    let own = |happened: &Happened| {
        let ping = happened.event.kind == "ping";
        let message = |recipient: &str, end: &str| NewDelivery {
            channel: Channel::Mail,
            recipient: recipient.to_owned(),
            kind: happened.event.kind.clone(),
            topic: format!("event:{}{end}", happened.event.id),
            user: None,
            data: json!({ "own": !end.is_empty() }),
        };
        match happened.event.kind.as_str() {
            "ping" | "pang" => vec![if ping { message("user", ":own") } else { message("admin", "") }],
            _ => Vec::new(),
        }
    };
    let alerts: Alerts = Arc::new(own);
    let rig = Rig::new("UTC", &[]);
    begun(&rig);
    let derive = || rig.ledger.derive_alerts(Arc::clone(&alerts), start_ms()).wait().unwrap();
    happen(&rig, "ping", None, 10_007);
    derive();
    assert_eq!(rig.reader().delivery_counts().unwrap().1, 7);
    happen(&rig, "pang", None, 1);
    derive();
    assert_eq!(rig.reader().delivery_counts().unwrap().1, 7, "the admin has room");
    assert_eq!(claim(&rig, Channel::Mail, start_ms()).unwrap().recipient, "admin");
    let events = rig.reader().events(None, None, None, 20_000).unwrap();
    let told: i64 = events
        .iter()
        .filter(|event| event.kind == "messages_refused")
        .map(|event| event.data["refused"].as_i64().unwrap())
        .sum();
    assert_eq!(told, 7, "that some were not queued is told");
}

#[test]
fn what_waits_is_due_when_the_channel_works() {
    let rig = Rig::new("UTC", &[]);
    begun(&rig);
    happen(&rig, "pang", None, 1);
    derive(&rig);
    for channel in [Channel::Mail, Channel::Webhook] {
        let message = claim(&rig, channel, start_ms()).unwrap();
        let again = Outcome::Again { at_ms: start_ms() + HOUR / 2, error: "busy".to_owned() };
        rig.ledger.delivered(message.no, again, start_ms()).wait().unwrap();
    }
    rig.ledger.hasten_deliveries(Channel::Mail, start_ms() + 1).wait().unwrap();
    assert!(claim(&rig, Channel::Webhook, start_ms() + 1).is_none());
    assert!(claim(&rig, Channel::Mail, start_ms() + 1).is_some());
}

#[test]
fn a_report_is_queued_once_for_its_day() {
    let rig = Rig::new("UTC", &[]);
    begun(&rig);
    let message = |day: &str| NewDelivery {
        channel: Channel::Mail,
        recipient: "admin".to_owned(),
        kind: "daily_report".to_owned(),
        topic: format!("daily_report:{day}"),
        user: None,
        data: json!({}),
    };
    let queue = |day: &str| {
        rig.ledger.queue_report("daily", day.to_owned(), vec![message(day)], start_ms()).wait().unwrap()
    };
    assert!(queue("2026-11-23"));
    assert!(!queue("2026-11-23"));
    // Whatever day a clock says in between.
    assert!(queue("2030-01-01") && queue("2026-11-24"));
    assert!(!queue("2026-11-23"));
    assert_eq!(stages(&rig).len(), 3);
    assert_eq!(rig.ledger.reports_made("daily").wait().unwrap().len(), 3);
    // Not wanted any more: later it begins anew.
    rig.ledger.begin_notify(NotifyWanted { any: true, reports: vec![] }, start_ms()).wait().unwrap();
    assert_eq!(rig.ledger.reports_made("daily").wait().unwrap(), Vec::<String>::new());
}

#[test]
fn troubles_that_were_told_are_known_to_the_next_agent() {
    let rig = Rig::new("UTC", &[]);
    begun(&rig);
    let event = |kind: &str, part: &str| NewEvent {
        at_ms: start_ms(),
        kind: kind.to_owned(),
        user: None,
        actor: "agent".to_owned(),
        data: json!({ "part": part }),
    };
    let events = vec![
        event("trouble_began", "source"),
        event("trouble_began", "kernel"),
        event("trouble_over", "kernel"),
    ];
    rig.ledger.record_events(events).wait().unwrap();
    derive(&rig);
    let wanted = NotifyWanted { any: true, reports: vec![] };
    assert_eq!(rig.ledger.begin_notify(wanted, start_ms()).wait().unwrap(), ["source"]);
}

#[test]
fn a_notice_is_told_once_and_another_quota_anew() {
    let rig = Rig::new("UTC", &["alice"]);
    let notice = |quota: u64, percent: i64| Notice {
        user: rig.users[0].id,
        of: NoticeOf::TotalQuota(quota),
        mark: percent,
        data: json!({ "percent": percent }),
        at_ms: start_ms(),
    };
    let told = |notices: Vec<Notice>| rig.ledger.notice(notices).wait().unwrap();
    assert_eq!(told(vec![notice(100, 80), notice(100, 80), notice(100, 95)]), [true, false, true]);
    assert_eq!(told(vec![notice(100, 80)]), [false]);
    assert_eq!(told(vec![notice(200, 80)]), [true]);
    let kinds: Vec<_> = rig.reader().events(Some(rig.users[0].id), None, None, 100).unwrap();
    assert_eq!(kinds.iter().filter(|event| event.kind == "total_quota_warning").count(), 3);
    let stranger = Notice { user: UserId(uuid::Uuid::nil()), ..notice(100, 80) };
    assert_eq!(told(vec![stranger]), [false]);
}

/// The person goes from the queue too.
#[test]
fn a_purge_takes_messages_along() {
    let rig = Rig::new("UTC", &["alice"]);
    begun(&rig);
    let alice = rig.users[0].id;
    happen(&rig, "ping", Some(alice), 1);
    happen(&rig, "ping", None, 1);
    derive(&rig);
    rig.ledger.delete_user(alice, None, Asked::new("root", start_ms())).wait().unwrap();
    rig.ledger.removed(alice, start_ms()).wait().unwrap();
    rig.ledger.purge_deleted("alice".to_owned(), Asked::new("root", start_ms())).wait().unwrap();
    let left = rig.reader().deliveries(10).unwrap();
    assert_eq!((left.len(), left[0].user), (1, None));
}

/// What was sent since the backup is not sent again, and what waits still is.
#[test]
fn a_restored_ledger_has_the_queue_of_the_one_that_it_replaces() {
    let rig = Rig::new("UTC", &["alice"]);
    begun(&rig);
    happen(&rig, "ping", None, 2);
    derive(&rig);
    let file = rig.directory.path().join("backup.db");
    backup(&rig.path(), &file, false, &|| true).unwrap();
    let sent = claim(&rig, Channel::Mail, start_ms()).unwrap();
    rig.ledger.delivered(sent.no, Outcome::Sent, start_ms()).wait().unwrap();
    rig.ledger.queue_report("daily", "2026-11-23".to_owned(), vec![], start_ms()).wait().unwrap();
    happen(&rig, "ping", None, 1);
    derive(&rig);
    rig.ledger.close();
    let before = rig.reader().deliveries(10).unwrap();
    restore(&file, &rig.path(), None, start_ms() + 1000).unwrap();
    let ledger = Ledger::open(&rig.path(), options("UTC")).unwrap();
    let key = |all: &[Delivery]| {
        let mut all: Vec<_> = all.iter().map(|it| (it.id, it.stage)).collect();
        all.sort_by_key(|(id, _)| *id);
        all
    };
    assert_eq!(key(&rig.reader().deliveries(10).unwrap()), key(&before));
    assert_eq!(ledger.reports_made("daily").wait().unwrap(), ["2026-11-23"]);
    ledger.begin_notify(NotifyWanted { any: true, reports: vec!["daily"] }, start_ms()).wait().unwrap();
    ledger.derive_alerts(alerts(), start_ms()).wait().unwrap();
    assert_eq!(rig.reader().deliveries(10).unwrap().len(), 3, "events of the backup are not told again");
}
