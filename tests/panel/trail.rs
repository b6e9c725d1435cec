//! Whatever is changed by the panel's forms is in the events, with who did it and from where; and the second
//! listener, which everybody may reach.

use crate::rig::{ALICE, Answer, Rig};
use crate::signing_in::{authenticator, codes};
use boxmeter_tests::needs_machine;
use std::net::TcpStream;

/// A field's value in a page.
fn field(page: &str, name: &str) -> String {
    let rest = page
        .split(&format!("name=\"{name}\" value=\""))
        .nth(1)
        .unwrap_or_else(|| panic!("no {name}: {page}"));
    rest.split('"').next().unwrap().to_owned()
}

/// What the first form with a button at this address is about: one's own session has none.
fn id_in(page: &str, action: &str) -> String {
    let place = format!("action=\"{action}\"");
    let forms = page.split(&place).skip(1);
    let mut forms = forms.map(|it| it.split("</form>").next().unwrap());
    field(forms.find(|it| it.contains("<button")).unwrap_or_else(|| panic!("no {action}: {page}")), "id")
}

struct Visit<'r> {
    rig: &'r Rig,
    session: String,
}

impl Visit<'_> {
    fn page(&self, path: &str) -> String {
        let answer = self.rig.ask("GET", path).cookie(&self.session).send();
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        answer.body
    }

    fn post(&self, path: &str, fields: &str) -> Answer {
        let csrf = boxmeter_web::access::csrf(&self.session);
        let ask = self.rig.ask("POST", path).from("198.51.100.77").cookie(&self.session);
        let answer = ask.form(&format!("csrf={csrf}&{fields}")).send();
        assert!(answer.status == 303 || answer.status == 200, "{path}: {} {}", answer.status, answer.body);
        answer
    }

    /// Posts, and finds the change in the events.
    fn leaves(&self, kind: &str, path: &str, fields: &str) {
        let before = self.rig.events().len();
        self.post(path, fields);
        let events = self.rig.events();
        let found = events[before..].iter().find(|(it, _)| it == kind);
        let (_, who) = found.unwrap_or_else(|| panic!("{path}: no {kind} in {:?}", &events[before..]));
        assert_eq!(who, "admin@198.51.100.77", "{kind}");
    }
}

#[test]
fn every_form_leaves_its_event() {
    needs_machine!();
    let rig = Rig::new();
    let visit = Visit { rig: &rig, session: rig.sign_in() };
    let terms = "over=cut&period=month&reset_day=1&wins=newest&rollover=no&sharing=note&sharing_networks=3&sharing_minutes=5";
    visit.leaves("policy_created", "/add-policy", &format!("name=trail&quota=5GiB&{terms}"));
    let rev = field(&visit.page("/policies/trail"), "rev");
    visit.leaves("policy_changed", "/policies/trail", &format!("rev={rev}&quota=6GiB&{terms}"));
    let user = format!("/users/{ALICE}");
    visit.leaves(
        "user_changed",
        "/change-users",
        &format!("user={ALICE}&do=policy&policy=trail&sure=yes&once=a"),
    );
    visit.leaves("package_added", &format!("{user}/package"), "size=1GiB&once=b");
    visit.leaves("traffic_reset", &format!("{user}/reset"), "");
    visit.leaves("subscription_rotated", &format!("{user}/connect"), "");
    let links = visit.page("/settings/links");
    let rev = field(&links, "rev");
    visit.leaves("sharing_changed", "/settings/links", &format!("rev={rev}&update_hours=6&title=trail"));
    visit.leaves("token_added", "/settings/tokens", "name=trail&scope=read&once=c");
    let id = id_in(&visit.page("/settings"), "/settings/tokens/delete");
    visit.leaves("token_deleted", "/settings/tokens/delete", &format!("id={id}"));
    let another = rig.sign_in();
    assert_eq!(rig.ask("GET", "/users").cookie(&another).send().status, 200);
    let id = id_in(&visit.page("/settings"), "/settings/sessions");
    visit.leaves("session_ended", "/settings/sessions", &format!("id={id}"));
    assert_eq!(rig.ask("GET", "/users").cookie(&another).send().status, 303, "it is out at once");
    visit.leaves(
        "user_changed",
        "/change-users",
        &format!("user={ALICE}&do=policy&policy=free&sure=yes&once=d"),
    );
    let rev = field(&visit.page("/policies/trail/delete"), "rev");
    visit.leaves("policy_deleted", "/policies/trail/delete", &format!("rev={rev}"));
}

#[test]
fn every_form_about_users_leaves_its_event() {
    needs_machine!();
    let rig = Rig::new();
    let visit = Visit { rig: &rig, session: rig.sign_in() };
    visit.leaves("user_created", "/add-user", "name=trail&once=a");
    visit.leaves("user_disabled", "/change-users", "disable=trail");
    visit.leaves("user_enabled", "/change-users", "enable=trail");
    let rev = field(&visit.page("/users/trail/edit"), "rev");
    visit.leaves(
        "user_changed",
        "/users/trail/edit",
        &format!("rev={rev}&note=seen&expires=2099-01-01T00:00"),
    );
    let bulk = |once: &str, more: &str| format!("user={ALICE}&user=trail&sure=yes&once={once}&{more}");
    visit.leaves("package_added", "/change-users", &bulk("b", "do=package&size=1GiB"));
    visit.leaves("user_changed", "/change-users", &bulk("c", "do=extend&days=30"));
    visit.leaves("traffic_reset", "/change-users", &bulk("d", "do=reset"));
    let rev = field(&visit.page("/users/trail/delete"), "rev");
    visit.leaves("user_deleted", "/users/trail/delete", &format!("rev={rev}"));
    visit.leaves(
        "user_purged",
        "/change-users",
        &format!("user={ALICE}&sure=yes&do=delete&purge=yes&once=e"),
    );
}

#[test]
fn every_form_about_the_way_in_leaves_its_event() {
    needs_machine!();
    let rig = Rig::new();
    let visit = Visit { rig: &rig, session: rig.sign_in() };
    rig.sign_in();
    visit.leaves("sessions_ended", "/settings/sessions", "");
    let new = "another+one%2C+much+longer";
    let fields = format!("current={}&new={new}&again={new}", rig.password);
    visit.leaves("password_changed", "/settings/password", &fields);
    let offer = visit.post("/settings/totp", "").body;
    let secret = offer.split("id=\"totp-secret\">").nth(1).unwrap().split('<').next().unwrap();
    let [first, second, _] = codes(&authenticator(secret));
    visit.leaves("totp_on", "/settings/totp/on", &format!("code={first}"));
    visit.leaves("totp_off", "/settings/totp/off", &format!("code={second}"));
    visit.leaves("session_ended", "/sign-out", "");
    assert_eq!(rig.ask("GET", "/users").cookie(&visit.session).send().status, 303);
}

/// A form that a browser sends twice, for instance since the first answer was lost, is done once and told twice.
#[test]
fn days_are_added_once_however_often_they_are_sent() {
    needs_machine!();
    let rig = Rig::new();
    let visit = Visit { rig: &rig, session: rig.sign_in() };
    rig.agent.ask(&["users", "set", ALICE, "--expires", "2099-01-01T00:00:00Z"]).unwrap();
    let send = |days: u32| {
        let form = format!("user={ALICE}&do=extend&days={days}&sure=yes&once=twice");
        let answer = visit.post("/change-users", &form);
        let told = answer.head.lines().find(|it| it.starts_with("set-cookie: boxmeter_flash=")).unwrap();
        let cookie = told.split(": ").nth(1).unwrap().split(';').next().unwrap();
        let both = format!("boxmeter_session={}; {cookie}", visit.session);
        rig.ask("GET", "/users").header("cookie", &both).send().body
    };
    let ends = || {
        let shown = rig.agent.ask(&["users", "show", ALICE]).unwrap();
        shown["user"]["expires_at"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap().to_string()
    };
    for _ in 0..2 {
        let page = send(30);
        assert!(page.contains("The expiry of 1 users is moved"), "{page}");
        assert!(!page.contains("class=\"notice bad\""), "{page}");
        assert_eq!(ends(), "2099-01-31T00:00:00Z");
    }
    // Other days are another change.
    assert!(send(1).contains("The expiry of 1 users is moved"));
    assert_eq!(ends(), "2099-02-01T00:00:00Z");
}

#[test]
fn the_second_listener_has_the_pages_of_users_and_nothing_else() {
    needs_machine!();
    let rig = Rig::with(|_| "public_listen = \"0.0.0.0:8444\"\n".to_owned());
    let visit = Visit { rig: &rig, session: rig.sign_in() };
    let connect = visit.page(&format!("/users/{ALICE}/connect"));
    let path = connect.split("href=\"/s/").nth(1).unwrap().split('"').next().unwrap();
    let path = format!("/s/{path}");
    let public = |path: &str| {
        let ask = rig.ask("GET", path).host("192.0.2.1:8444").cookie(&visit.session);
        let mut stream = rig.site.inside.run(|| TcpStream::connect("127.0.0.1:8444")).unwrap();
        std::io::Write::write_all(&mut stream, ask.text().as_bytes()).unwrap();
        Answer::read(stream)
    };
    let page = public(&path);
    assert_eq!(page.status, 200, "{}", page.body);
    for closed in
        ["/", "/users", "/sign-in", "/api/v1/users", "/metrics", "/api/v1/status", "/static/boxmeter.js"]
    {
        let answer = public(closed);
        assert!(answer.status == 404, "{closed}: {} {}", answer.status, answer.body);
    }
    // Where the machine has a public address, links are made of it and this port.
    let said = connect.contains(":8444/s/") || connect.contains("Only this machine can open");
    assert!(said, "{connect}");
}
