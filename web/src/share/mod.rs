//! What clients take: share links, sing-box's JSON, Clash's YAML, QR codes, and the headers of a
//! subscription. Pure: a [`Subscription`] goes in, text comes out. Names and titles are hostile input.

pub mod choose;
pub mod clash;
pub mod headers;
pub mod links;
pub mod qr;
#[cfg(test)]
pub mod qr_reader;
pub mod reach;
pub mod singbox;
#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, fmt::Write as _};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};

pub use choose::{Format, Wanted};

use crate::api::sharing::{Server, SharedServer, Subscription};

/// A server under the name that clients show.
pub struct Labelled<'a> {
    pub label: String,
    pub server: &'a Server,
}

/// Names that clients or the configurations for them have for something else.
const TAKEN: [&str; 8] = ["proxy", "auto", "direct", "reject", "global", "pass", "compatible", "block"];

/// The servers by their inbounds' tags; each name once, since clients know servers by name.
pub fn labelled(servers: &[Server]) -> Vec<Labelled<'_>> {
    let mut taken: BTreeSet<String> = TAKEN.iter().map(|name| (*name).to_owned()).collect();
    let mut free = |server| {
        let label = one_line(&server_label(server));
        let mut candidates = std::iter::once(label.clone()).chain((2..).map(|n| format!("{label} {n}")));
        let label = candidates.find(|label| taken.insert(label.to_lowercase())).unwrap_or(label);
        Labelled { label, server }
    };
    servers.iter().map(&mut free).collect()
}

fn server_label(server: &Server) -> String {
    match server.inbound.is_empty() {
        true => server.kind.clone(),
        false => server.inbound.clone(),
    }
}

/// Without line breaks and other control characters, which end a link in a list.
pub fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// The servers with their links.
pub fn with_links(servers: &[Server]) -> Vec<SharedServer> {
    let shared = |it: Labelled<'_>| {
        let link = links::link(it.server, &it.label);
        SharedServer { server: it.server.clone(), link }
    };
    labelled(servers).into_iter().map(shared).collect()
}

/// The body of a subscription; `tun`: the client is the one that carries the whole device.
pub fn body(subscription: &Subscription, format: Format, tun: bool) -> String {
    let servers = labelled(&subscription.servers);
    match format {
        Format::Links => list(&servers),
        Format::Base64 => BASE64.encode(list(&servers)),
        Format::SingBox => singbox::config(&servers, tun),
        Format::Clash => clash::config(&servers),
    }
}

/// One link a line.
fn list(servers: &[Labelled<'_>]) -> String {
    let mut text = String::new();
    for link in servers.iter().filter_map(|it| links::link(it.server, &it.label)) {
        text.push_str(&link);
        text.push('\n');
    }
    text
}

/// Everything but unreserved characters as `%XX`: right in every part of an address.
pub fn percent(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}
