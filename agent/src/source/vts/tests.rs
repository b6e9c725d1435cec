//! Answers of the real module, and what hostile clients make of them.

use std::collections::{BTreeMap, HashSet};

use super::{answer::key_of, pieces::TEXT_MAX, *};
use crate::core::counters::by_name;

/// By the module 0.2.7 in Debian's nginx.
const REAL: &str = include_str!("../../../../tests/fixtures/nginx-vts/vts_status.json");

fn answer(zones: &str) -> String {
    format!("{{\"moduleVersion\":\"v0.2.7\",\"filterZones\":{zones}}}")
}

fn zone(upload: &str, download: &str) -> String {
    format!(
        "{{\"requestCounter\":1,\"inBytes\":{upload},\"outBytes\":{download},\"overCounts\":{{\"inBytes\":7}}}}"
    )
}

fn sums(text: &str) -> BTreeMap<String, [u64; 2]> {
    let reading = parse(text.as_bytes()).unwrap();
    by_name(&reading).into_iter().map(|(name, bytes)| (name.to_string(), bytes)).collect()
}

#[test]
fn groups_of_a_user_are_summed_over_their_keys_and_keys_of_users_are_users() {
    let json: serde_json::Value = serde_json::from_str(REAL).unwrap();
    let of = |group: &str| {
        let zones = json["filterZones"][group].as_object().unwrap().values();
        zones.fold([0, 0], |sum, zone| {
            [sum[0] + zone["inBytes"].as_u64().unwrap(), sum[1] + zone["outBytes"].as_u64().unwrap()]
        })
    };
    let found = sums(REAL);
    assert_eq!(found["user1"], of("user1::your-domain.com"));
    assert_eq!(found["user2"], of("user2::your-domain.com"));
    assert_eq!(found["user3"], of("users::your-domain.com"));
    assert_eq!(found.len(), 3);
    assert!(parse(REAL.as_bytes()).unwrap().counters.len() > 3, "a key per address");
}

/// It is written so by the module's own documentation.
#[test]
fn groups_of_countries_are_nobodys() {
    let z = zone("1", "10");
    let zones = format!(
        "{{\"country::*\":{{\"CN\":{z}}},\"country::a.example\":{{\"US\":{z}}},\"agent::*\":{{\"x\":{z}}}}}"
    );
    let reading = parse(answer(&zones).as_bytes()).unwrap();
    assert!(by_name(&reading).keys().all(|name| reading.unsure.contains(name)), "{reading:?}");
    assert_eq!(reading.unsure, HashSet::from(["agent".into()]));
    // Clients choose them: as many as there are, they keep nothing from being read.
    let many: Vec<String> = (0..=COUNTERS_MAX).map(|n| format!("\"{n}\":{z}", z = zone("1", "1"))).collect();
    let zones = format!("{{\"agent::*\":{{{}}},\"users::*\":{{\"a\":{}}}}}", many.join(","), zone("1", "10"));
    assert_eq!(sums(&answer(&zones)), BTreeMap::from([("a".to_owned(), [1, 10])]));
}

/// Whoever writes no server counts users all the same, and those once who are counted at their server as well.
#[test]
fn groups_over_all_servers_are_of_users_who_have_no_other() {
    let z = zone("1", "10");
    let zones = format!(
        "{{\"users::*\":{{\"a\":{z},\"b\":{z}}},\"users::h\":{{\"a\":{z}}},\"a::*\":{{\"/\":{z}}},\
          \"carol::*\":{{\"/\":{z},\"/x\":{z}}}}}"
    );
    let reading = parse(answer(&zones).as_bytes()).unwrap();
    let found = by_name(&reading);
    assert_eq!((found["a"], found["b"], found["carol"]), ([1, 10], [1, 10], [2, 20]));
    assert_eq!(reading.unsure, HashSet::from(["carol".into()]), "it is a user if somebody says so");
}

/// In groups that are nobody's as well.
#[test]
fn keys_that_are_no_text_are_no_trouble_anywhere() {
    let z = zone("1", "10");
    let zones = format!("{{\"country::h\":{{\"#\":{z}}},\"x::*\":{{\"#\":{z}}},\"users::h\":{{\"a\":{z}}}}}");
    let text: Vec<u8> = answer(&zones).bytes().map(|byte| if byte == b'#' { 0xff } else { byte }).collect();
    assert_eq!(by_name(&parse(&text[..]).unwrap())["a"], [1, 10]);
    let odd = zone("{\"#\":1}", "1");
    let odd = odd.bytes().map(|byte| if byte == b'#' { 0xff } else { byte });
    let text = [
        &b"{\"moduleVersion\":1,\"filterZones\":{\"a::h\":{\"/\":"[..],
        &odd.collect::<Vec<_>>()[..],
        b"}}}",
    ];
    assert_eq!(parse(&text.concat()[..]).unwrap().refused.len(), 1);
}

/// The module 0.2.4 answers so for `GET /user1/%22`; bytes that JSON does not have are in what is skipped as well.
#[tokio::test]
async fn what_is_no_json_in_a_text_stops_nothing() {
    let z = zone("1", "10");
    let odd = |bytes: &[u8]| [b"\"", bytes, b"\":"].concat();
    let mut text =
        b"{\"moduleVersion\":\"v0.2.4\",\"sharedZones\":{\"a\tb\x01\\&quot;\":\"\\&\x02\"},\"filterZones\":{"
            .to_vec();
    text.extend(b"\"user1::h\":{");
    for key in [&b"/\\&quot;"[..], b"/\\\"\\\\", b"/\\u0041", b"/\x1f", b"/\\\n"] {
        text.extend([&odd(key)[..], z.as_bytes(), b","].concat());
    }
    text.extend([&odd(b"/")[..], z.as_bytes(), b"}}}"].concat());
    for size in [1, 2, 7, text.len()] {
        let (pieces, read) = mpsc::channel(PIECES_MAX);
        let parsed = tokio::task::spawn_blocking(move || parse(Pieces::new(read)));
        for piece in text.chunks(size) {
            pieces.send(Bytes::copy_from_slice(piece)).await.unwrap();
        }
        drop(pieces);
        let reading = parsed.await.unwrap().unwrap();
        assert_eq!((by_name(&reading)["user1"], reading.counters.len()), ([6, 60], 6), "{size}");
        let escaped = |key: &[u8]| reading.counters.iter().any(|it| it.key == key_of(b"user1::h", key));
        assert!(escaped(b"/\\&quot;") && escaped(b"/\"\\") && escaped(b"/A") && escaped(b"/?"));
    }
}

#[test]
fn an_answer_says_of_which_start_it_is() {
    let document = parse(REAL.as_bytes()).unwrap().document.unwrap();
    let json: serde_json::Value = serde_json::from_str(REAL).unwrap();
    let of = |value: &serde_json::Value| value.as_u64().unwrap();
    assert_eq!((document.loaded_ms, document.at_ms), (of(&json["loadMsec"]), of(&json["nowMsec"])));
    assert_eq!(document.requests, Some(of(&json["connections"]["requests"])));
    assert_eq!(document.counted, Some(of(&json["serverZones"]["*"]["requestCounter"])));
}

/// By what comes in pieces: as many keys as are remembered, each of the length that the module writes.
#[tokio::test]
async fn the_tutorials_keys_are_read_in_pieces_whatever_they_are_in_sum() {
    let (pieces, read) = mpsc::channel(PIECES_MAX);
    let parsed = tokio::task::spawn_blocking(move || parse(Pieces::new(read)));
    let filler = "0,".repeat(700);
    let mut sent = 0;
    let mut send = async |text: String| {
        sent += text.len();
        pieces.send(Bytes::from(text)).await.is_ok()
    };
    assert!(send("{\"moduleVersion\":\"v0.2.7\",\"filterZones\":{\"alice::h\":{".to_owned()).await);
    for n in 0..COUNTERS_MAX {
        let comma = if n == 0 { "" } else { "," };
        let key = format!("{comma}\"/{n}\":{{\"inBytes\":1,\"times\":[{filler}0],\"outBytes\":2}}");
        assert!(send(key).await);
    }
    assert!(send("}}}".to_owned()).await);
    drop(pieces);
    let reading = parsed.await.unwrap().unwrap();
    assert_eq!(by_name(&reading)["alice"], [COUNTERS_MAX as u64, 2 * COUNTERS_MAX as u64]);
    assert!(sent > 180_000_000 && sent < ANSWER_MAX, "{sent}");
}

#[tokio::test]
async fn a_text_without_an_end_is_not_kept() {
    let (pieces, read) = mpsc::channel(PIECES_MAX);
    let parsed = tokio::task::spawn_blocking(move || parse(Pieces::new(read)));
    let mut sent = 0_usize;
    let piece = Bytes::from(vec![b'x'; 1 << 20]);
    assert!(pieces.send(Bytes::from_static(b"{\"moduleVersion\\\"")).await.is_ok());
    while pieces.send(piece.clone()).await.is_ok() {
        sent += piece.len();
        assert!(sent < 4 * TEXT_MAX, "it is read on");
    }
    let error = parsed.await.unwrap().unwrap_err();
    assert!(error.to_string().contains("a text of more than"), "{error}");
}

#[test]
fn names_are_told_apart_by_every_letter() {
    let zones = format!(
        "{{\"users::h\":{{\"a\":{z},\"A\":{z}}},\"a::h\":{{\"/x\":{z}}},\"a\":{{\"/x\":{z}}}}}",
        z = zone("1", "10")
    );
    let found = sums(&answer(&zones));
    assert_eq!(found, BTreeMap::from([("a".to_owned(), [3, 30]), ("A".to_owned(), [1, 10])]));
}

#[test]
fn hostile_keys_are_counted_and_kept_short() {
    let long = "x".repeat(10 << 20);
    let zones = format!(
        "{{\"alice::h\":{{\"/{long}\":{z},\"/a\\n\\\"b\":{z},\"/\\u0000\":{z}}},\"users::h\":{{\"{long}\":{z}}}}}",
        z = zone("1", "2")
    );
    let mut text = answer(&zones).into_bytes();
    // What nginx decodes of %FF is no UTF-8; two such keys are two.
    for byte in [0xff, 0xfe] {
        let at = text.windows(11).position(|part| part == b"\"alice::h\":").unwrap() + 12;
        let more = [b"\"/", &[byte][..], b"\":", zone("1", "2").as_bytes(), b","].concat();
        text.splice(at..at, more);
    }
    let reading = parse(&text[..]).unwrap();
    let found = by_name(&reading);
    assert_eq!(found["alice"], [5, 10]);
    assert_eq!(found[""], [1, 2], "a name that nobody can have is nobody's");
    assert!(reading.counters.iter().all(|counter| counter.name.len() < 200));
}

#[test]
fn what_is_no_counter_is_left_out_and_no_answer_is_read_by_half() {
    for bad in ["-1", "1e30", "18446744073709551615", "99999999999999999999999", "\"5\"", "null", "[1]", "{}"]
    {
        let zones = format!("{{\"users::h\":{{\"a\":{},\"b\":{}}}}}", zone(bad, "1"), zone("3", "4"));
        let reading = parse(answer(&zones).as_bytes()).unwrap();
        assert_eq!((reading.counters.len(), reading.refused.len()), (1, 1), "{bad}");
        assert_eq!(reading.refused[0], key_of(b"users::h", b"a"));
    }
    for end in (1..REAL.len() - 1).step_by(97) {
        let error = parse(&REAL.as_bytes()[..end]).unwrap_err();
        assert!(matches!(error, VtsError::Json(_)), "{error}");
    }
    for other in
        ["{}", "[]", "null", "<html>", "{\"moduleVersion\":1}x", "{\"moduleVersion\":1,\"filterZones\":[]}"]
    {
        parse(other.as_bytes()).unwrap_err();
    }
    assert!(parse(&b"{\"nginxVersion\":\"1.22.1\"}"[..]).unwrap().counters.is_empty(), "no key yet");
}

#[test]
fn more_keys_than_are_remembered_are_refused_with_what_to_do() {
    let keys = |count: usize| {
        let z = zone("1", "1");
        let keys: Vec<String> = (0..count).map(|n| format!("\"/{n}\":{z}")).collect();
        answer(&format!("{{\"alice::h\":{{{}}}}}", keys.join(",")))
    };
    assert_eq!(parse(keys(100_000).as_bytes()).unwrap().counters.len(), 100_000);
    let error = parse(keys(COUNTERS_MAX + 1).as_bytes()).unwrap_err();
    assert!(error.to_string().contains("filter_max_node"), "{error}");
}

#[test]
fn addresses_are_plain_http_by_number() {
    let url = Url::parse("http://127.0.0.1:8080/status/format/json?x=1").unwrap();
    assert_eq!((url.addr.port(), url.path.as_str()), (8080, "/status/format/json?x=1"));
    assert_eq!(Url::parse("http://localhost/status").unwrap().addr.port(), 80);
    for bad in ["https://127.0.0.1/x", "127.0.0.1:80", "http://example.org/x", "http:///x", ""] {
        Url::parse(bad).unwrap_err();
    }
}
