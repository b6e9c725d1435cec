//! The signed webhook: JSON, HMAC-SHA256 over time and body, a key that is the same at each attempt.

use hmac::{Hmac, KeyInit as _, Mac as _};
use http::StatusCode;
use serde_json::{Value, json};
use sha2::Sha256;

use super::{
    Verdict, Voice,
    post::{Answer, NoAnswer, Post, post},
    said, secret, words,
};
use crate::{
    clock,
    config::notify::{Webhook, web},
    ledger::Delivery,
};

/// What is sent.
fn body(voice: &Voice, message: &Delivery) -> Value {
    let letter = words::letter(voice, message);
    let data = &message.data;
    json!({
        "schema": 1,
        "id": message.id.to_string(),
        "kind": message.kind,
        "event": data["event"],
        "at": voice.time(data["at_ms"].as_i64().unwrap_or(message.created_ms)),
        "user": data["user"],
        "host": voice.host,
        "subject": letter.subject,
        "text": letter.text(),
        "data": data.get("report").unwrap_or(&data["data"]),
    })
}

/// `v1=` and the signature in hexadecimal digits, of the time in seconds, a full stop, and the body.
pub fn signature(secret: &[u8], timestamp: &str, body: &[u8]) -> String {
    // A key of any length is taken.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret) else { return String::new() };
    mac.update(timestamp.as_bytes());
    mac.update(b".");
    mac.update(body);
    let digits = mac.finalize().into_bytes();
    digits.iter().fold("v1=".to_owned(), |text, byte| format!("{text}{byte:02x}"))
}

pub(super) async fn send(config: &Webhook, voice: &Voice, message: &Delivery) -> Verdict {
    let to = match web(config.url.expose()) {
        Ok(to) => to,
        Err(why) => return Verdict::Refused { why, all: true },
    };
    let secret = match secret(&config.secret, &config.secret_file) {
        Ok(secret) => secret,
        Err(why) => return Verdict::later(why),
    };
    let body = body(voice, message).to_string().into_bytes();
    let timestamp = (clock::wall_ms() / 1000).to_string();
    let signature = signature(secret.expose().as_bytes(), &timestamp, &body);
    let headers = vec![
        ("x-boxmeter-timestamp", timestamp),
        ("x-boxmeter-signature", signature),
        ("idempotency-key", message.id.to_string()),
    ];
    let place = to.place();
    match post(&to, &config.ca_file, Post { path: to.path.clone(), headers, body }).await {
        Ok(answer) => verdict(&place, &to.path, &answer),
        // The key tells a repetition.
        Err(NoAnswer::NotSent(why) | NoAnswer::Unsure(why)) => Verdict::later(why),
    }
}

/// A part of a path that is so long may be what nobody else is to know.
const SECRET_PART_MIN: usize = 8;

/// What others may read of an answer: many servers say the path that was asked for, which is a secret.
fn without_path(path: &str, body: &str) -> String {
    let segments = path.split(['/', '?', '&', '=']).filter(|part| part.len() >= SECRET_PART_MIN);
    let whole = Some(path).filter(|path| path.len() > 1);
    whole.into_iter().chain(segments).fold(body.to_owned(), |body, part| body.replace(part, "…"))
}

fn verdict(place: &str, path: &str, answer: &Answer) -> Verdict {
    let status = answer.status;
    let body = said(&without_path(path, &String::from_utf8_lossy(&answer.body)));
    let why = format!("{place} answered {status}: {body}").trim_end_matches([' ', ':']).to_owned();
    match status {
        _ if status.is_success() => Verdict::Done,
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => {
            Verdict::Later { why, after: answer.retry_after, all: true }
        }
        _ if status.is_client_error() => Verdict::Refused { why, all: true },
        _ if status.is_redirection() => {
            let why = format!("{place} answered {status}; redirects are not followed: give the new address");
            Verdict::Refused { why, all: true }
        }
        _ => Verdict::Later { why, after: answer.retry_after, all: true },
    }
}
