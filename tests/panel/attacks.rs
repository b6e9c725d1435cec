//! Requests that a browser was made to send, and those that no browser sends.

use crate::rig::{ALICE, Answer, PANEL, Rig};
use boxmeter_tests::{needs_machine, wait};
use boxmeter_web::access;
use serde_json::json;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

#[test]
fn other_sites_cannot_use_a_session() {
    needs_machine!();
    let rig = Rig::new();
    let session = rig.sign_in();
    let path = format!("/users/{ALICE}/reset");
    let form = format!("csrf={}", access::csrf(&session));
    let post = || rig.ask("POST", &path).cookie(&session);
    let resets = || rig.events().iter().filter(|(kind, _)| kind.contains("reset")).count();
    // Each of them lacks one thing.
    for (what, answer) in [
        ("no token", post().form("").send()),
        ("another session's token", post().form(&format!("csrf={}", access::csrf("x"))).send()),
        ("a foreign origin", post().form(&form).header("origin", "https://evil.example").send()),
        ("no origin at all", post().form(&form).header("origin", "null").send()),
        ("another port", post().form(&form).header("origin", "http://127.0.0.1:1").send()),
        ("a foreign site", post().form(&form).header("sec-fetch-site", "cross-site").send()),
        ("a neighbour", post().form(&form).header("sec-fetch-site", "same-site").send()),
    ] {
        assert_eq!(answer.status, 403, "{what}: {}", answer.body);
        assert_eq!(resets(), 0, "{what}");
    }
    let api = || rig.ask("POST", &format!("/api/v1/users/{ALICE}/disable")).cookie(&session);
    assert_eq!(api().send().status, 403, "the API needs the header");
    let foreign =
        api().header("x-csrf-token", &access::csrf(&session)).header("origin", "https://evil.example");
    assert_eq!(foreign.send().status, 403);
    let sign_in = rig.ask("POST", "/sign-in").form(&format!("password={}", rig.password));
    assert_eq!(
        sign_in.header("sec-fetch-site", "cross-site").send().session(),
        None,
        "signed in as somebody"
    );
    let right = post()
        .form(&form)
        .header("origin", &format!("http://{PANEL}"))
        .header("sec-fetch-site", "same-origin");
    let answer = right.send();
    assert_eq!(answer.status, 303, "{}", answer.body);
    assert_eq!(resets(), 1);
}

#[test]
fn a_name_that_points_here_is_not_ours() {
    needs_machine!();
    let rig = Rig::new();
    let session = rig.sign_in();
    for host in ["evil.example", "evil.example:8790", "127.0.0.1.evil.example", "localhost.evil.example:8790"]
    {
        for path in ["/", "/sign-in", "/api/v1/users", "/s/x/y", "/static/x"] {
            let answer = rig.ask("GET", path).cookie(&session).host(host).send();
            assert_eq!(answer.status, 421, "{host} {path}: {}", answer.body);
            assert!(!answer.body.contains(ALICE));
        }
    }
    for host in ["localhost:8790", "[::1]:8790", PANEL] {
        assert_eq!(rig.ask("GET", "/users").cookie(&session).host(host).send().status, 200, "{host}");
    }
}

#[test]
fn every_answer_is_closed_to_other_sites() {
    needs_machine!();
    let rig = Rig::new();
    let session = rig.sign_in();
    for path in ["/", "/users", "/sign-in", "/nothing", "/api/v1/users", "/s/nothing", "/settings"] {
        let answer = rig.ask("GET", path).cookie(&session).send();
        let policy =
            answer.header("content-security-policy").unwrap_or_else(|| panic!("{path}: {}", answer.head));
        assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{path}: {policy}");
        assert!(policy.contains("frame-ancestors 'none'"), "{path}: {policy}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{path}");
        // The secret of a subscription is told to nobody, also not to us.
        let referrer = if path.starts_with("/s/") { "no-referrer" } else { "same-origin" };
        assert_eq!(answer.header("referrer-policy"), Some(referrer), "{path}");
        assert!(
            answer.header("cache-control").is_some_and(|it| it.contains("no-store")),
            "{path}: {}",
            answer.head
        );
        assert_eq!(answer.header("access-control-allow-origin"), None, "{path}");
    }
    let cookie = rig.try_password(&rig.password, "", "198.51.100.9");
    let cookie = cookie.header("set-cookie").unwrap();
    assert!(cookie.contains("httponly") && cookie.contains("samesite=lax"), "{cookie}");
}

#[test]
fn long_bodies_are_refused() {
    needs_machine!();
    let rig = Rig::new();
    let session = rig.sign_in();
    let long = "x".repeat(10 << 20);
    let csrf = access::csrf(&session);
    let form = rig.ask("POST", &format!("/users/{ALICE}/edit")).cookie(&session);
    assert_eq!(form.form(&format!("csrf={csrf}&note={long}")).send().status, 413);
    let sign_in = rig.ask("POST", "/sign-in").form(&format!("password={long}")).send();
    assert!(matches!(sign_in.status, 400..=499), "{}", sign_in.status);
    let api = rig.ask("PATCH", &format!("/api/v1/users/{ALICE}")).session(&session);
    let answer = api.json(&json!({"note": long})).send();
    assert_eq!(answer.status, 413, "{}", answer.body);
    // As long, but without saying so before.
    let open = rig.ask("POST", "/sign-in").chunked(&format!("password={long}")).send();
    assert!(matches!(open.status, 400..=499), "{}", open.status);
    for path in [format!("/api/v1/users/{ALICE}/disable"), format!("/users/{ALICE}/edit")] {
        let answer = rig.ask("POST", &path).session(&session).chunked(&long).send();
        assert_eq!(answer.status, 413, "{path}: {}", answer.body);
    }
    let head = rig.ask("GET", "/sign-in").header("x-long", &"x".repeat(1 << 20)).send();
    assert!(matches!(head.status, 0 | 431), "{}", head.status);
    // Two passwords of a megabyte cost nothing either, and the panel is as well as before.
    let memory = memory_kib(rig.pid());
    assert!(memory < 60 << 10, "{memory} KiB");
    assert_eq!(rig.ask("GET", "/users").cookie(&session).send().status, 200);
}

fn memory_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn slow_clients_and_open_streams_keep_nobody_out() {
    needs_machine!();
    let rig = Rig::new();
    let session = rig.sign_in();
    let begun = Instant::now();
    // Half a head, a whole head of a body that never comes, and nothing at all.
    let half: Vec<TcpStream> = (0..50)
        .map(|_| {
            let mut stream = rig.site.inside.run(|| TcpStream::connect(PANEL)).unwrap();
            stream.write_all(b"GET /sign-in HTTP/1.1\r\nHost: 127.0.0.1:8790\r\nx-a: ").unwrap();
            stream
        })
        .collect();
    let form = "content-type: application/x-www-form-urlencoded";
    let token = rig.token(&session, "slow", "admin");
    let bodies: Vec<TcpStream> = (0..10)
        .map(|number| {
            // Who is not in, who is, and a program.
            let (path, who) = match number % 3 {
                0 => ("/sign-in", String::new()),
                1 => ("/change-users", format!("cookie: boxmeter_session={session}\r\n")),
                _ => ("/api/v1/users", format!("authorization: Bearer {token}\r\n")),
            };
            let head = format!(
                "POST {path} HTTP/1.1\r\nHost: {PANEL}\r\n{who}{form}\r\ncontent-length: 100\r\n\r\n"
            );
            let mut stream = rig.site.inside.run(|| TcpStream::connect(PANEL)).unwrap();
            stream.write_all(head.as_bytes()).unwrap();
            stream
        })
        .collect();
    let silent = rig.site.inside.run(|| TcpStream::connect(PANEL)).unwrap();
    // Live pages that nobody reads or closes.
    let streams: Vec<TcpStream> =
        (0..50).map(|_| rig.ask("GET", "/api/v1/stream").session(&session).open()).collect();
    wait("the panel answers beside them", || {
        let page = rig.ask("GET", "/users").cookie(&session).send();
        if page.status == 200 { Ok(()) } else { Err(format!("{}", page.status)) }
    });
    // Whoever does not finish is let go by the panel, long before the test's patience ends.
    for stream in half.into_iter().chain([silent]) {
        let mut stream = stream;
        stream.set_read_timeout(Some(Duration::from_secs(80))).unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).expect("it is closed, not kept");
    }
    // Each is told why: the pages' and the API's own limit comes before that of any answer.
    let said = ["no answer in time", "the form did not come in time", "the body did not come in time"];
    for (number, stream) in bodies.into_iter().enumerate() {
        stream.set_read_timeout(Some(Duration::from_secs(80))).unwrap();
        let answer = Answer::read(stream);
        let text = answer.body.as_str();
        assert!(answer.status == 503 && text.contains(said[number % 3]), "{number}: {} {text}", answer.head);
    }
    assert!(begun.elapsed() > Duration::from_secs(5), "a slow line is not an attack");
    // A stream that is read has told something, and the pages still answer.
    let mut first = streams.into_iter().next().unwrap();
    let mut told = [0; 2048];
    let read = first.read(&mut told).unwrap();
    assert!(String::from_utf8_lossy(&told[..read]).contains("text/event-stream"));
    assert_eq!(rig.ask("GET", "/users").cookie(&session).send().status, 200);
}

/// What follows a request on its connection is not taken for another one's.
#[test]
fn a_request_is_one_request() {
    needs_machine!();
    let rig = Rig::new();
    let session = rig.sign_in();
    let smuggled = "0\r\n\r\nPOST /api/v1/users HTTP/1.1\r\nHost: 127.0.0.1:8790\r\n\r\n";
    let ask = rig.ask("POST", "/sign-in").header("transfer-encoding", "chunked").body(smuggled.to_owned());
    let answer = Answer::read(ask.open());
    assert_eq!(answer.status, 400, "two lengths are none: {}", answer.head);
    assert_eq!(rig.ask("GET", "/users").cookie(&session).send().status, 200);
}
