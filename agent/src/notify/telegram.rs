//! Messages of a Telegram bot: plain text, in which nothing is markup and no link is looked up.

use std::time::Duration;

use http::StatusCode;
use serde_json::{Value, json};

use super::{
    Verdict, Voice,
    post::{Answer, NoAnswer, Post, post},
    said, secret, words,
};
use crate::{
    config::notify::{Telegram, web},
    ledger::Delivery,
};

/// UTF-16 units of a message that Telegram takes.
const TEXT_MAX: usize = 4096;
/// The longest pause that it may ask for.
const RETRY_AFTER_MAX: u64 = 3600;

/// Subject and text, as much as there is room for.
fn text(voice: &Voice, message: &Delivery) -> String {
    let letter = words::letter(voice, message);
    fitting(&format!("{}\n\n{}", letter.subject, letter.text()))
}

fn fitting(text: &str) -> String {
    if text.encode_utf16().count() <= TEXT_MAX {
        return text.to_owned();
    }
    let mut units = 1;
    let fits = text.chars().take_while(|c| {
        units += c.len_utf16();
        units <= TEXT_MAX
    });
    fits.chain(['…']).collect()
}

pub(super) async fn send(config: &Telegram, voice: &Voice, message: &Delivery) -> Verdict {
    let to = match web(&config.api) {
        Ok(to) => to,
        Err(why) => return Verdict::Refused { why, all: true },
    };
    let token = match secret(&config.token, &config.token_file) {
        Ok(token) => token,
        Err(why) => return Verdict::later(why),
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || ":-_".contains(c);
    if !token.expose().chars().all(plain) {
        return Verdict::later("the token is none: copy it from @BotFather, as 123456:ABC-DEF");
    }
    let body = json!({
        "chat_id": message.recipient,
        "text": text(voice, message),
        "link_preview_options": { "is_disabled": true },
    });
    let path = format!("{}/bot{}/sendMessage", to.path.trim_end_matches('/'), token.expose());
    let request = Post { path, headers: Vec::new(), body: body.to_string().into_bytes() };
    match post(&to, &config.ca_file, request).await {
        Ok(answer) => verdict(&to.place(), &answer),
        Err(NoAnswer::NotSent(why)) => Verdict::later(why),
        // Nothing tells Telegram that a message is the same one.
        Err(NoAnswer::Unsure(why)) => Verdict::Unsure { why },
    }
}

fn verdict(place: &str, answer: &Answer) -> Verdict {
    let status = answer.status;
    if status.is_success() {
        return Verdict::Done;
    }
    let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let description = said(body["description"].as_str().unwrap_or_default());
    let after = body["parameters"]["retry_after"].as_u64();
    let after = after.map(|seconds| Duration::from_secs(seconds.min(RETRY_AFTER_MAX))).or(answer.retry_after);
    let why = |what: &str| format!("{place} answered {status} {description}; {what}");
    match status {
        StatusCode::TOO_MANY_REQUESTS => {
            Verdict::Later { why: why("more were sent than it takes"), after, all: true }
        }
        StatusCode::UNAUTHORIZED | StatusCode::NOT_FOUND => {
            Verdict::later(why("is the token right? @BotFather tells it"))
        }
        StatusCode::FORBIDDEN => Verdict::later(why("let the chat talk to the bot first, or add it there")),
        StatusCode::BAD_REQUEST if description.contains("chat") => {
            Verdict::later(why("is chat_id right, and did the chat talk to the bot first?"))
        }
        _ if status.is_client_error() || status.is_redirection() => {
            Verdict::Refused { why: why("the message is not taken"), all: false }
        }
        _ => Verdict::Later { why: why("it is tried again"), after, all: true },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_long_is_cut_by_what_telegram_counts() {
        assert_eq!(fitting("short"), "short");
        let long = fitting(&"😀".repeat(3000));
        assert!(long.encode_utf16().count() <= TEXT_MAX && long.ends_with("😀…"), "{}", long.len());
    }

    #[test]
    fn answers_are_understood() {
        let answer = |status: u16, body: &str| Answer {
            status: StatusCode::from_u16(status).unwrap(),
            retry_after: None,
            body: body.to_owned().into(),
        };
        let busy = r#"{"ok":false,"error_code":429,"description":"Too Many Requests: retry after 7","parameters":{"retry_after":7}}"#;
        let Verdict::Later { after, all: true, .. } = verdict("t", &answer(429, busy)) else { panic!() };
        assert_eq!(after, Some(Duration::from_secs(7)));
        let chat = r#"{"ok":false,"description":"Bad Request: chat not found"}"#;
        assert!(matches!(verdict("t", &answer(400, chat)), Verdict::Later { all: true, .. }));
        let long = r#"{"ok":false,"description":"Bad Request: message is too long"}"#;
        assert!(matches!(verdict("t", &answer(400, long)), Verdict::Refused { all: false, .. }));
        assert!(matches!(verdict("t", &answer(401, "{}")), Verdict::Later { .. }));
        assert!(matches!(verdict("t", &answer(502, "<html>")), Verdict::Later { .. }));
        assert_eq!(verdict("t", &answer(200, "{\"ok\":true}")), Verdict::Done);
    }
}
