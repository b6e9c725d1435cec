//! Answers of the real module, and what hostile clients make of them.

use std::collections::BTreeMap;

use super::*;
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
    let reading = parse(&text).unwrap();
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
    assert!(parse(b"{\"nginxVersion\":\"1.22.1\"}").unwrap().counters.is_empty(), "no key yet");
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
