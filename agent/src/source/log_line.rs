//! Reads one record of sing-box's log: which inbound, which connection, which user or address. Pure.
//!
//! A client chooses parts of what is logged: domains, failed user names. So a record is read from its
//! start, against the configured inbounds and users, and what follows `connection to ` is ignored. In
//! Clash's JSON a record is framed and this is safe; in a file a forged line cannot be told apart.

use std::{net::SocketAddr, sync::Arc};

use crate::core::event::Network;

use super::{KnownInbound, KnownInbounds, KnownUser, api_state::parse_peer};

/// Places at which a name may end that are tried. A configured name with more brackets is unknown.
const NAME_ENDS_MAX: usize = 8;

/// A record about a connection of a known inbound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// sing-box's random number of the connection; QUIC transports have none.
    pub id: Option<u32>,
    /// Index into the known inbounds.
    pub inbound: usize,
    pub message: Message,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// `inbound connection from S`
    From { peer: SocketAddr },
    /// `[user] inbound connection from S`
    UserFrom { user: Arc<str>, network: Network, peer: SocketAddr },
    /// `[user] inbound connection to D`
    UserTo { user: Arc<str>, network: Network },
    /// Authenticated as nobody that has a name.
    UnnamedTo,
    /// `process connection from S: …`: the connection has failed.
    Failed { peer: SocketAddr },
    /// A user that the configuration does not have, or more than one reading.
    Refused { counter: &'static str },
}

/// The log names a user that sing-box's configuration does not have (yet).
pub const USER_UNKNOWN: &str = "log_user_unknown";
/// Two configured names fit the same record.
pub const USER_AMBIGUOUS: &str = "log_user_ambiguous";
/// An address that is none.
pub const ADDRESS_UNPARSABLE: &str = "log_address_unparsable";

/// Reads a record as the Clash API frames it: `[ID DURATION] inbound/TYPE[TAG]: MESSAGE`, or without
/// `[ID DURATION] `. `None`: about something else.
pub fn parse(known: &KnownInbounds, payload: &str) -> Option<Record> {
    let (id, rest) = split_id(payload)?;
    let (inbound, message) = split_inbound(known, rest)?;
    let message = parse_message(&known.0[inbound], message)?;
    Some(Record { id, inbound, message })
}

fn split_id(payload: &str) -> Option<(Option<u32>, &str)> {
    let Some(inside) = payload.strip_prefix('[') else {
        return Some((None, payload));
    };
    let (head, rest) = inside.split_once("] ")?;
    let (id, duration) = head.split_once(' ')?;
    if !duration.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.') {
        return None;
    }
    Some((Some(id.parse().ok()?), rest))
}

/// The longest configured prefix wins: a tag may hold `]: `.
fn split_inbound<'a>(known: &KnownInbounds, rest: &'a str) -> Option<(usize, &'a str)> {
    let rest = rest.strip_prefix("inbound/")?;
    let mut best: Option<(usize, &str)> = None;
    for (index, inbound) in known.0.iter().enumerate() {
        let message = rest
            .strip_prefix(inbound.kind.as_str())
            .and_then(|rest| rest.strip_prefix('['))
            .and_then(|rest| rest.strip_prefix(&*inbound.tag))
            .and_then(|rest| rest.strip_prefix("]: "));
        if let Some(message) = message
            && best.is_none_or(|(_, other)| message.len() < other.len())
        {
            best = Some((index, message));
        }
    }
    best
}

enum Form<'a> {
    From(Network, &'a str),
    To(Network),
}

/// What stands after the user's brackets, or alone.
fn form(text: &str) -> Option<Form<'_>> {
    let text = text.strip_prefix("inbound ")?;
    if let Some(peer) = text.strip_prefix("connection from ") {
        Some(Form::From(Network::Tcp, peer))
    } else if let Some(peer) = text.strip_prefix("packet connection from ") {
        Some(Form::From(Network::Udp, peer))
    } else if text.starts_with("connection to ") {
        Some(Form::To(Network::Tcp))
    } else if text.starts_with("packet connection to ") || text == "packet addr connection" {
        Some(Form::To(Network::Udp))
    } else {
        None
    }
}

fn parse_message(inbound: &KnownInbound, message: &str) -> Option<Message> {
    if let Some(failed) = message.strip_prefix("process connection from ") {
        let peer = parse_peer(failed.split_once(": ")?.0)?;
        return Some(Message::Failed { peer });
    }
    if !message.starts_with('[') {
        return Some(match form(message)? {
            Form::From(_, peer) => parse_peer(peer)
                .map_or(Message::Refused { counter: ADDRESS_UNPARSABLE }, |peer| Message::From { peer }),
            Form::To(_) => Message::UnnamedTo,
        });
    }
    let mut found = None;
    let mut fits = false;
    for (end, _) in message.match_indices("] inbound ").take(NAME_ENDS_MAX) {
        let Some(form) = form(&message[end + 2..]) else {
            continue;
        };
        fits = true;
        if let Some((user, known)) = inbound.users.get_key_value(&message[1..end]) {
            if found.is_some() {
                return Some(Message::Refused { counter: USER_AMBIGUOUS });
            }
            found = Some((user.clone(), known, form));
        }
    }
    let (user, known, form) = match found {
        Some(found) => found,
        None if fits => return Some(Message::Refused { counter: USER_UNKNOWN }),
        None => return None,
    };
    Some(match (known, form) {
        (KnownUser::Unnamed, _) => Message::UnnamedTo,
        (KnownUser::Named, Form::To(network)) => Message::UserTo { user, network },
        (KnownUser::Named, Form::From(network, peer)) => match parse_peer(peer) {
            Some(peer) => Message::UserFrom { user, network, peer },
            None => Message::Refused { counter: ADDRESS_UNPARSABLE },
        },
    })
}

/// The head of a line as a file or standard error has it.
#[derive(Debug, PartialEq, Eq)]
pub struct Line {
    /// Unix seconds, where `log.timestamp` is set.
    pub time_s: Option<i64>,
    /// As the Clash API would frame it.
    pub payload: String,
}

/// Reads `[+0000 2026-11-23 10:55:57 ]INFO[[0000]] PAYLOAD`, with colours or without. `None`: no
/// line of sing-box.
pub fn parse_line(line: &str) -> Option<Line> {
    let (time_s, rest) = split_time(line);
    let rest = skip_colour(rest);
    let level = rest.bytes().take_while(u8::is_ascii_uppercase).count();
    if !matches!(&rest[..level], "TRACE" | "DEBUG" | "INFO" | "WARN" | "ERROR" | "FATAL" | "PANIC") {
        return None;
    }
    let mut rest = skip_colour(&rest[level..]);
    // Without a timestamp, coloured output has the seconds since the start.
    if let Some(seconds) = rest.strip_prefix('[') {
        rest = seconds.split_once(']')?.1;
    }
    let rest = rest.strip_prefix(' ')?;
    let payload = match rest.strip_prefix("[\u{1b}[") {
        None => rest.to_owned(),
        Some(_) => {
            let coloured = skip_colour(&rest[1..]);
            let digits = coloured.bytes().take_while(u8::is_ascii_digit).count();
            format!("[{}{}", &coloured[..digits], skip_colour(&coloured[digits..]))
        }
    };
    Some(Line { time_s, payload })
}

fn skip_colour(text: &str) -> &str {
    let Some(inside) = text.strip_prefix("\u{1b}[") else {
        return text;
    };
    let codes = inside.bytes().take_while(|b| b.is_ascii_digit() || *b == b';').count();
    inside[codes..].strip_prefix('m').unwrap_or(text)
}

fn split_time(line: &str) -> (Option<i64>, &str) {
    const LEN: usize = "+0000 2026-11-23 10:55:57 ".len();
    let Some((head, rest)) = line.split_at_checked(LEN) else {
        return (None, line);
    };
    match jiff::fmt::strtime::parse("%z %Y-%m-%d %H:%M:%S ", head).and_then(|t| t.to_timestamp()) {
        Ok(time) => (Some(time.as_second()), rest),
        Err(_) => (None, line),
    }
}
