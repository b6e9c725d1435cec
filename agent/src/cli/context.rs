//! What every verb needs: where the agent is, how to write, and in which language.

use std::{
    io::{self, IsTerminal, Write},
    path::{Path, PathBuf},
};

use boxmeter_web::{
    api::{
        client::Client,
        order::{Actor, Envelope, Origin},
        time::{Time, parse_future, parse_time},
    },
    backend::{ApiError, Backend},
    locale::Lang,
};
use jiff::{Timestamp, Zoned, tz::TimeZone};
use serde::Serialize;

use super::{
    args::Cli,
    failure::Failure,
    format::{Tone, paint},
    local,
};

pub struct Context {
    pub lang: Lang,
    pub json: bool,
    pub config: Option<PathBuf>,
    socket: Option<PathBuf>,
    /// Standard output is a terminal that shows colours.
    pub colour: bool,
    /// Columns of the terminal; `None` when standard output is none, and nothing is cut to fit.
    pub width: Option<usize>,
}

impl Context {
    pub fn new(cli: &Cli, lang: Lang) -> Self {
        let terminal = io::stdout().is_terminal();
        Context {
            lang: cli.lang.unwrap_or(lang),
            json: cli.json,
            config: cli.config.clone(),
            socket: cli.socket.clone(),
            colour: terminal && colours_wanted(),
            width: terminal.then(terminal_width),
        }
    }

    /// For tests: a language and a width, without colours.
    #[cfg(test)]
    pub fn plain(lang: Lang, width: Option<usize>) -> Self {
        Context { lang, json: false, config: None, socket: None, colour: false, width }
    }

    /// The client for the socket of the option, the environment, or the configuration.
    ///
    /// # Errors
    /// When the configuration is broken.
    pub fn client(&self) -> Result<Client, Failure> {
        Ok(Client::new(match &self.socket {
            Some(socket) => socket.clone(),
            None => local::socket(self.config.as_deref())?,
        }))
    }

    /// The socket by option or environment.
    pub fn socket_option(&self) -> Option<&Path> {
        self.socket.as_deref()
    }

    pub fn text<'a>(&self, key: &'a str) -> &'a str {
        self.lang.text(key)
    }

    pub fn fill(&self, key: &str, values: &[(&str, &str)]) -> String {
        self.lang.fill(key, values)
    }

    pub fn paint(&self, tone: Tone, text: &str) -> String {
        paint(self.colour, tone, text)
    }

    /// Writes to standard output.
    ///
    /// # Errors
    /// [`Failure::OutputClosed`] when the reader is gone.
    pub fn print(&self, text: &str) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes())?;
        if !text.ends_with('\n') {
            out.write_all(b"\n")?;
        }
        Ok(out.flush()?)
    }

    /// Writes an answer as it came.
    ///
    /// # Errors
    /// As [`Context::print`].
    pub fn print_json(&self, answer: &impl Serialize) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(answer).map_err(ApiError::internal)?;
        self.print(&text)
    }

    /// Writes a line to standard error; nobody is left to tell when that is closed.
    pub fn complain(&self, text: &str) {
        let _ = writeln!(io::stderr(), "{text}");
    }

    /// Reads time options, in the agent's zone. Their form is checked before the agent is asked.
    ///
    /// # Errors
    /// `BadRequest` with the option's name.
    pub async fn times<const N: usize>(
        &self,
        client: &Client,
        options: [(&str, Option<&str>); N],
    ) -> Result<[Option<Timestamp>; N], Failure> {
        let here = read_times(&options, &client.now())?;
        if options.iter().flat_map(|(_, text)| text).all(|text| text.parse::<Timestamp>().is_ok()) {
            return Ok(here);
        }
        Ok(read_times(&options, &agents_now(client).await?)?)
    }

    /// Reads a time to come, in the agent's zone. Its form is checked before the agent is asked.
    ///
    /// # Errors
    /// `BadRequest` with the option's name.
    pub async fn future(&self, client: &Client, option: &str, text: &str) -> Result<Time, Failure> {
        let read = |now: &Zoned| {
            let time = parse_future(text, now);
            let time = time.map_err(|error| ApiError::bad_request(format!("{option}: {error}")))?;
            Ok::<_, Failure>(Time::new(time, now.time_zone()))
        };
        let here = read(&client.now())?;
        if text.parse::<Timestamp>().is_ok() {
            return Ok(here);
        }
        read(&agents_now(client).await?)
    }

    /// What a change comes with. The agent takes who asks from the socket.
    pub fn envelope(&self, if_rev: Option<u64>) -> Envelope {
        let actor = Actor::uid(nix::unistd::Uid::current().as_raw(), Origin::Cli);
        Envelope { if_rev, ..Envelope::of(actor) }
    }
}

/// Now, in the zone of billing.
async fn agents_now(client: &Client) -> Result<Zoned, Failure> {
    let zone = client.status().await?.time_zone;
    let zone = zone.and_then(|name| TimeZone::get(&name).ok());
    let now = client.now();
    Ok(zone.map_or(now.clone(), |zone| now.with_time_zone(zone)))
}

/// Reads time options relative to `now`.
///
/// # Errors
/// `BadRequest` with the option's name.
pub fn read_times<const N: usize>(
    options: &[(&str, Option<&str>); N],
    now: &Zoned,
) -> Result<[Option<Timestamp>; N], ApiError> {
    let mut times = [None; N];
    for (time, (name, text)) in times.iter_mut().zip(options) {
        if let Some(text) = text {
            let read = parse_time(text, now);
            *time = Some(read.map_err(|e| ApiError::bad_request(format!("{name}: {e}")))?);
        }
    }
    Ok(times)
}

/// <https://no-color.org>: any value that is not empty switches colours off.
fn colours_wanted() -> bool {
    let off = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    !off && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

fn terminal_width() -> usize {
    let columns = ratatui::crossterm::terminal::size().map_or(80, |(columns, _)| columns);
    // A terminal that says 0 is one that does not know.
    if columns == 0 { 80 } else { usize::from(columns) }
}
