//! The panel over a server on which nothing is well and everybody means harm: names, notes, policies and reasons
//! that try to break out of the page, in a real browser under the content security policy.

use crate::browser::run;
use crate::needs_browser;
use boxmeter_web::api::types::{Degradation, Reason, Time, User, UserState};
use boxmeter_web::backend::Backend;
use boxmeter_web::demo::{self, Demo, user};
use boxmeter_web::panel;
use boxmeter_web::panel::front::MadeUp;
use boxmeter_web::panel::options::Options;
use jiff::Zoned;
use std::net::SocketAddr;
use std::sync::Arc;

/// What people put into a text field who hope that it becomes more than a text; each would call `hit`.
const ATTACKS: [&str; 6] = [
    "<script>hit()</script>",
    "\"><img src=x onerror=hit()>",
    "' onfocus='hit()' autofocus='",
    "</script><script>hit()</script>",
    "<svg/onload=hit()>\u{202e}",
    "javascript:hit()",
];

/// Parts that the agent tells of, and one that nobody knows.
const PARTS: [&str; 12] = [
    "backup",
    "configuration",
    "enforcement",
    "gate",
    "guard",
    "kernel",
    "ledger",
    "managed_users",
    "singbox",
    "singbox_config",
    "source",
    "<b>unheard-of</b>",
];

fn rough(now: &Zoned) -> Demo {
    let hostile = |(number, text): (usize, &&str)| -> User {
        let mut user = user(now, number as u64 + 1, text, UserState::Disabled, Some(1 << 30));
        let text = (*text).to_owned();
        user.note = Some(text.clone());
        user.email = Some(text.clone());
        user.policy = Some(text.clone());
        user.inbounds = vec![text.clone()];
        user.time_zone = Some(text.clone());
        user.reason = Some(text.clone());
        user.cause = Some(Reason::Disabled { at: Time::from(now), who: text });
        user
    };
    // One of them has a policy that there is, so that it can be changed.
    let plain = user(now, 99, "plain", UserState::Active, Some(1 << 30));
    let users = ATTACKS.iter().enumerate().map(hostile).chain([plain]).collect();
    let mut demo = Demo::new(now.clone()).with_users(users);
    let degraded = |(number, part): (usize, &&str)| Degradation {
        part: (*part).to_owned(),
        reason: ATTACKS[number % ATTACKS.len()].to_owned(),
        since: Time::from(now),
        advice: (number % 2 == 0).then(|| ATTACKS[number % ATTACKS.len()].to_owned()),
    };
    demo.status.degraded = PARTS.iter().enumerate().map(degraded).collect();
    demo.status.time_zone = Some(ATTACKS[3].to_owned());
    for flow in &mut demo.flows {
        flow.peer = ATTACKS[1].to_owned();
        flow.inbound = ATTACKS[0].to_owned();
        flow.user = Some(ATTACKS[0].to_owned());
    }
    demo
}

#[test]
fn nothing_that_people_write_becomes_part_of_a_page() {
    needs_browser!();
    let now: Zoned = "2026-11-24T15:30:00+08:00[Asia/Shanghai]".parse().unwrap();
    let (sender, receiver) = std::sync::mpsc::channel();
    // Serves until the test process ends.
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let demo = Arc::new(rough(&now));
            let mut pages = Vec::new();
            for name in ATTACKS {
                pages.push(demo.credentials(name).await.unwrap().path);
            }
            let app = panel::app(Arc::new(MadeUp(demo)), Options::default());
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            sender.send((listener.local_addr().unwrap(), pages)).unwrap();
            axum::serve(listener, app.into_make_service_with_connect_info::<SocketAddr>()).await
        })
    });
    let (address, pages) = receiver.recv().unwrap();
    let url = format!("http://{address}");
    let names = serde_json::to_string(&ATTACKS).unwrap();
    let variables = [
        ("PANEL_URL", &*url),
        ("PANEL_PASSWORD", demo::PASSWORD),
        ("NAMES", &names),
        ("PUBLIC", &pages.join(" ")),
    ];
    run("rough.mjs", &variables);
}
