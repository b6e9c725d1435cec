//! What people are told, by mail, Telegram and webhook.
//!
//! Owns the ways out and nothing else: what is told follows from events ([`alerts`], pure) and waits in the
//! ledger's queue; texts are made when something is sent ([`words`]). Runs on a thread of its own with a
//! runtime of its own ([`run`]), so that a server that hangs, or a name that nobody resolves, holds up neither the
//! agent nor the other channels. Knows neither the kernel nor SQL.

pub mod alerts;
mod mail;
mod post;
pub mod report;
pub mod run;
mod sender;
mod telegram;
#[cfg(test)]
mod tests;
mod webhook;
pub mod words;

use std::{fs, io::Read as _, os::unix::fs::MetadataExt as _, path::Path, time::Duration};

use crate::{
    config::notify::{Notify, Secret},
    core::notice::Channel,
    ledger::Delivery,
};
pub use words::Voice;

/// Bytes of a file that has a secret.
const SECRET_MAX: u64 = 4096;
/// How long a connection may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// How long a message may take, with everything: within what somebody waits who has asked for a test.
pub(super) const TEST_LIMIT: Duration = Duration::from_secs(25);
/// … and a mail that waits in the queue, from the greeting to the answer to its text. RFC 5321 (4.5.3.2.6) asks for
/// ten minutes there: a server that looks for viruses before it answers would get a copy at each attempt else.
const MAIL_LIMIT: Duration = Duration::from_secs(12 * 60);
/// Until the server is ready to take a mail.
const READY_LIMIT: Duration = Duration::from_secs(20);
/// Characters of what a server said.
const SAID_MAX: usize = 300;

/// What came of an attempt. `all`: nothing else would get through by this channel either.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Done,
    /// To be tried again, not before `after` if the other side said so.
    Later {
        why: String,
        after: Option<Duration>,
        all: bool,
    },
    /// For good.
    Refused {
        why: String,
        all: bool,
    },
    /// Nobody knows whether it arrived.
    Unsure {
        why: String,
    },
}

impl Verdict {
    fn later(why: impl Into<String>) -> Self {
        Verdict::Later { why: why.into(), after: None, all: true }
    }
}

/// Every way out that is set up.
#[derive(Clone, Debug)]
pub struct Ways {
    config: Notify,
    voice: Voice,
}

impl Ways {
    pub fn new(config: Notify, voice: Voice) -> Self {
        Ways { config, voice }
    }

    pub fn wanted(&self, channel: Channel) -> bool {
        match channel {
            Channel::Mail => self.config.mail.wanted(),
            Channel::Telegram => self.config.telegram.wanted(),
            Channel::Webhook => self.config.webhook.wanted(),
        }
    }

    /// Sends a message that waits in the queue.
    pub async fn send(&self, message: &Delivery) -> Verdict {
        let limit = if message.channel == Channel::Mail { MAIL_LIMIT } else { TEST_LIMIT };
        self.send_within(limit, message).await
    }

    /// Sends a message, in a limited time.
    pub async fn send_within(&self, limit: Duration, message: &Delivery) -> Verdict {
        let sending = async {
            match message.channel {
                Channel::Mail => mail::send(&self.config.mail, &self.voice, message).await,
                Channel::Telegram => telegram::send(&self.config.telegram, &self.voice, message).await,
                Channel::Webhook => webhook::send(&self.config.webhook, &self.voice, message).await,
            }
        };
        match tokio::time::timeout(limit, sending).await {
            Ok(verdict) => verdict,
            Err(_) => {
                let why = format!("no end within {} s", limit.as_secs());
                // What was under way then is not known; only Telegram cannot tell a repetition.
                match message.channel {
                    Channel::Telegram => Verdict::Unsure { why },
                    Channel::Mail | Channel::Webhook => Verdict::later(why),
                }
            }
        }
    }
}

/// To whom the admin's messages go by a channel.
pub fn admins(config: &Notify, channel: Channel) -> Vec<String> {
    match channel {
        Channel::Mail if config.mail.wanted() => config.mail.to.clone(),
        Channel::Telegram if config.telegram.wanted() => vec![config.telegram.chat_id.clone()],
        Channel::Webhook if config.webhook.wanted() => vec![String::new()],
        Channel::Mail | Channel::Telegram | Channel::Webhook => Vec::new(),
    }
}

/// A secret of the configuration, or of its file as it is now: one that is changed needs no restart.
fn secret(given: &Secret, file: &str) -> Result<Secret, String> {
    if file.is_empty() {
        return Ok(given.clone());
    }
    let read = || -> std::io::Result<String> {
        let mut text = String::new();
        fs::File::open(file)?.take(SECRET_MAX + 1).read_to_string(&mut text)?;
        Ok(text)
    };
    let text = read().map_err(|error| format!("the secret in {file} cannot be read: {error}"))?;
    if text.len() as u64 > SECRET_MAX {
        return Err(format!("{file} is no secret: it has more than {SECRET_MAX} bytes"));
    }
    match text.trim_end_matches(['\r', '\n']) {
        "" => Err(format!("the secret in {file} is empty; write it there")),
        text => Ok(text.to_owned().into()),
    }
}

/// What a server said, fit for a log.
fn said(text: &str) -> String {
    let safe = boxmeter_web::api::names::safe(text.trim());
    match safe.char_indices().nth(SAID_MAX) {
        Some((at, _)) => format!("{}…", &safe[..at]),
        None => safe,
    }
}

fn panels_group() -> Option<u32> {
    let group = nix::unistd::Group::from_name("boxmeter-panel").ok().flatten();
    group.map(|group| group.gid.as_raw())
}

/// Files with secrets that others than their owner can read, each with what to do.
pub fn exposed(config: &Notify, file: Option<&Path>) -> Vec<String> {
    let own = file.filter(|_| config.has_secrets()).map(Path::to_owned);
    let mut findings = Vec::new();
    for path in own.into_iter().chain(config.secret_files()) {
        let Ok(about) = fs::metadata(&path) else { continue };
        // The panel reads the configuration, and the package gives it its group.
        let group_is_ours = about.gid() == 0 || (file == Some(&*path) && Some(about.gid()) == panels_group());
        let others = about.mode() & 0o007 != 0 || (about.mode() & 0o070 != 0 && !group_is_ours);
        if others {
            let path = path.display();
            findings.push(format!(
                "{path} has a secret of [notify] and others may read it: chmod 600 {path}, or give the secret \
                 a file of its own by password_file, token_file or secret_file"
            ));
        }
    }
    findings
}
