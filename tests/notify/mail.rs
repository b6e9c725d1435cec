//! Mail to a real server: protected, signed in, refused; what a mail looks like, whoever its user is.

use std::collections::BTreeSet;

use boxmeter_tests::{needs_machine, wait};
use serde_json::{Value, json};

use crate::{
    mail_sink::{MailSink, certificate, header, parsed},
    rig::Rig,
};

/// `[notify.mail]` to a port, with these lines more.
fn mail(port: u16, more: &str) -> String {
    format!(
        "[notify]\nkinds = [\"expiry\"]\nto_users = [\"expiry\"]\n[notify.mail]\nserver = \"localhost\"\nport = {port}\n\
         from = \"boxmeter <boxmeter@example.org>\"\nto = [\"admin@example.org\"]\n{more}\n"
    )
}

/// What a test of the mail says.
fn tested(rig: &Rig) -> (bool, String) {
    let output = rig.agent.command(&["notify", "test", "--channel", "mail"]);
    let answer: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    let ok = answer["ok"] == json!(true);
    assert_eq!(output.status.success(), ok, "{answer}");
    (ok, answer["results"][0]["message"].as_str().unwrap().to_owned())
}

#[test]
fn protected_and_signed_in() {
    needs_machine!();
    let mut rig = Rig::new();
    let [cert, key] = certificate(&rig);
    let (cert, key) = (cert.to_str().unwrap().to_owned(), key.to_str().unwrap().to_owned());
    std::fs::write(rig.path("password"), "right\n").unwrap();
    let password = format!("user = \"meter\"\npassword_file = {:?}", rig.path("password"));
    let plain = std::fs::read_to_string(rig.path("boxmeter.toml")).unwrap();
    for kind in ["starttls", "tls"] {
        let sink = MailSink::start(&rig, &[kind, &cert, &key, "meter", "right"]);
        let set_up = |rig: &Rig, more: &str| {
            std::fs::write(rig.path("boxmeter.toml"), &plain).unwrap();
            rig.configure(&mail(sink.port, &format!("security = \"{kind}\"\n{more}")));
        };
        // Nobody knows who has signed that certificate.
        set_up(&rig, &password);
        rig.agent.start();
        let (ok, said) = tested(&rig);
        assert!(!ok && said.contains("certificate") && said.contains("ca_file"), "{kind}: {said}");
        rig.agent.stop();
        set_up(&rig, &format!("ca_file = {cert:?}\n{password}"));
        rig.agent.start();
        assert_eq!(tested(&rig), (true, "sent".to_owned()), "{kind}");
        let mails = sink.until(1);
        assert_eq!((&mails[0]["tls"], &mails[0]["user"]), (&json!(true), &json!("meter")), "{mails:?}");
        // Another password: said so, and taken from the file without a restart.
        std::fs::write(rig.path("password"), "wrong").unwrap();
        let (ok, said) = tested(&rig);
        assert!(!ok && said.contains("refuses the user") && !said.contains("wrong"), "{kind}: {said}");
        std::fs::write(rig.path("password"), "right").unwrap();
        assert!(tested(&rig).0, "{kind}");
        rig.agent.stop();
    }
    // Nobody there, and somebody who speaks no TLS.
    let sink = MailSink::start(&rig, &[]);
    let attempts = [
        (1, "security = \"starttls\"", "refused"),
        (sink.port, "security = \"starttls\"", "offers no STARTTLS"),
        (sink.port, "security = \"tls\"", "TLS with localhost"),
    ];
    for (port, more, part) in attempts {
        std::fs::write(rig.path("boxmeter.toml"), &plain).unwrap();
        rig.configure(&mail(port, more));
        rig.agent.start();
        let (ok, said) = tested(&rig);
        assert!(!ok && said.contains(part), "{more}: {said}");
        rig.agent.stop();
    }
    rig.agent.start();
}

/// What a user is called, and which address somebody gave, does nothing to anybody else's mail.
#[test]
fn a_mail_is_what_it_says_whoever_it_is_about() {
    needs_machine!();
    let mut rig = Rig::new();
    let sink = MailSink::start(&rig, &[]);
    rig.configure(&mail(sink.port, "security = \"none\""));
    // Nobody can be added by such a name; sing-box's own configuration may have one.
    let hostile = "<img src=x onerror=alert(1)>&小明 =?utf-8?q?x?=\nBcc: victim@example.org";
    let config = std::fs::read_to_string(rig.site.config()).unwrap();
    let (old, new) = (json!(rig.bob().name).to_string(), json!(hostile).to_string());
    std::fs::write(rig.site.config(), config.replace(&old, &new)).unwrap();
    rig.agent.start();
    rig.done(&["users", "set", hostile, "--email", "user@example.org", "--expires", "2h"]);
    let mails = sink.until(2);
    let (admin, own): (Vec<&Value>, Vec<&Value>) =
        mails.iter().partition(|mail| mail["to"] == json!(["admin@example.org"]));
    assert_eq!((admin.len(), own.len(), &own[0]["to"]), (1, 1, &json!(["user@example.org"])));
    let (admin, own) = (parsed(admin[0]), parsed(own[0]));
    for mail in [&admin, &own] {
        assert_eq!(mail["type"], json!("multipart/alternative"), "{mail}");
        let (text, html) = (mail["parts"]["text/plain"].as_str(), mail["parts"]["text/html"].as_str());
        assert!(text.unwrap().contains(&hostile.replace('\n', "\\n")), "{text:?}");
        let html = html.unwrap();
        assert!(!html.contains("<img") && html.contains("&#60;img"), "{html}");
        assert_eq!(header(mail, "auto-submitted"), ["auto-generated"]);
        assert!(header(mail, "subject")[0].contains("小明"), "{mail}");
        assert_eq!(header(mail, "bcc").len(), 0, "{mail}");
    }
    assert!(own["parts"]["text/plain"].as_str().unwrap().contains("Your account"), "{own}");
    let ids = [header(&admin, "message-id"), header(&own, "message-id")];
    let keys: Vec<String> =
        rig.settled().iter().map(|it| format!("<{}@example.org>", it["id"].as_str().unwrap())).collect();
    assert!(ids.iter().all(|id| id.len() == 1 && keys.contains(&id[0])), "{ids:?} {keys:?}");
    // An address that would add headers or recipients gets nothing, and holds up nobody.
    let alice = rig.alice().name.clone();
    for address in [
        "x@example.org\r\nBcc: victim@example.org",
        "a@example.org, victim@example.org",
        "nobody@example.org",
    ] {
        let before = rig.settled().len();
        if rig.agent.ask(&["users", "set", &alice, "--email", address]).is_err() {
            continue;
        }
        rig.done(&["users", "set", &alice, "--expires", &format!("{}h", before + 2)]);
        wait("both are queued", || match rig.messages().len() {
            now if now >= before + 2 => Ok(()),
            now => Err(now.to_string()),
        });
        let failed = rig.settled();
        let failed = failed.iter().find(|it| it["recipient"] == json!(address)).unwrap();
        assert_eq!(failed["state"], json!("failed"), "{failed}");
    }
    let to: BTreeSet<String> = sink.mails().iter().map(|mail| mail["to"].to_string()).collect();
    assert_eq!(to.into_iter().collect::<Vec<_>>(), ["[\"admin@example.org\"]", "[\"user@example.org\"]"]);
    // One mailbox that is not there says nothing of the server.
    assert_eq!(rig.done(&["status"])["ok"], json!(true));
}

/// A crash between the server's yes and the note of it repeats the mail with the Message-ID that it had.
#[test]
fn a_repeated_mail_has_the_same_message_id() {
    needs_machine!();
    let mut rig = Rig::new();
    let sink = MailSink::start(&rig, &[]);
    rig.configure(&mail(sink.port, "security = \"none\""));
    rig.agent.fails_at(Some("notify_sent"));
    rig.agent.start();
    let bob = rig.bob().name.clone();
    let _ = rig.agent.ask(&["users", "set", &bob, "--expires", "2h"]);
    rig.agent.dies();
    rig.agent.fails_at(None);
    rig.agent.start();
    let mails = sink.until(2);
    rig.settled();
    let ids: Vec<_> = mails.iter().map(|mail| header(&parsed(mail), "message-id")).collect();
    assert_eq!((ids.len(), &ids[0]), (2, &ids[1]));
    assert_eq!(sink.mails().len(), 2);
}

#[test]
fn a_server_that_takes_nothing_now_gets_it_later() {
    needs_machine!();
    let mut rig = Rig::new();
    let sink = MailSink::start(&rig, &[]);
    rig.configure(&mail(sink.port, "security = \"none\"").replace("admin@", "later@"));
    rig.agent.start();
    let bob = rig.bob().name.clone();
    rig.done(&["users", "set", &bob, "--email", "user@example.org"]);
    rig.done(&["users", "set", &bob, "--expires", "2h"]);
    // The one for later holds up no other.
    assert_eq!(sink.until(1)[0]["to"], json!(["user@example.org"]));
    let waits = wait("a second attempt", || {
        let messages = rig.messages();
        let later =
            messages.iter().find(|it| it["recipient"] == json!("later@example.org")).cloned().unwrap();
        if later["attempts"].as_u64().unwrap() >= 2 { Ok(later) } else { Err(later.to_string()) }
    });
    assert!(waits["error"].as_str().unwrap().contains("451"), "{waits}");
}
