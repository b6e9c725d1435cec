//! Options and verbs. Their help is English in the code; what a verb does is said in the
//! language of the caller, from the catalogue.

use std::{ffi::OsString, path::PathBuf};

use boxmeter_web::locale::Lang;
use clap::{Args, CommandFactory, Parser, Subcommand};

use super::failure::Failure;
use boxmeter_web::backend::{ApiError, ErrorKind};

/// Meters each user of a stock sing-box server, in the kernel.
#[derive(Debug, Parser)]
#[command(name = "boxmeter", version, max_term_width = 100, disable_help_subcommand = true)]
pub struct Cli {
    /// The configuration file.
    #[arg(long, global = true, env = "BOXMETER_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The agent's socket; by default what the configuration says.
    #[arg(long, global = true, env = "BOXMETER_SOCKET", value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// Answer in JSON; errors too, on standard error.
    #[arg(long, global = true)]
    pub json: bool,
    /// Language of the texts: en or zh-CN; by default the locale's.
    #[arg(long, global = true, value_name = "LANG", value_parser = parse_language)]
    pub lang: Option<Lang>,
    #[arg(long, global = true, hide = true, value_name = "NODE", value_parser = reserved_option)]
    pub node: Option<String>,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the agent in the foreground.
    Run(super::run::RunArgs),
    /// Remove the kernel programs and maps, after committing the last counts.
    Detach(super::detach::DetachArgs),
    /// The web panel: a process of its own, without rights.
    Panel(super::panel::PanelArgs),
    /// Is all well: sing-box, source, kernel, ledger.
    Status,
    /// Check the machine and sing-box's configuration; every finding says what to do.
    Doctor(super::doctor::DoctorArgs),
    /// The accounts.
    Users(super::users::UsersArgs),
    /// The plans.
    Policies(super::policies::PoliciesArgs),
    /// Extra traffic, with its purchase history.
    Packages(super::packages::PackagesArgs),
    /// Who used how much.
    Usage(super::usage::UsageArgs),
    /// Live client connections, and how their owner is known.
    Flows(super::flows::FlowsArgs),
    /// Live view of rates and totals.
    Top(super::top::TopArgs),
    /// What happened, and why.
    Events(super::events::EventsArgs),
    /// What people are told: test the channels, list messages.
    Notify(super::notify::NotifyArgs),
    /// Does the sum of all users and unattributed bytes equal the watched bytes.
    Audit(super::audit::AuditArgs),
    /// Write a checked copy of the ledger.
    Backup(super::backup::BackupArgs),
    /// Put a backup into the ledger's place, while no agent runs.
    Restore(super::restore::RestoreArgs),
    /// Usage, users or events as CSV or NDJSON.
    Export(super::export::ExportArgs),
    /// Print shell completions.
    Completions(super::completions::CompletionsArgs),
    /// Print the manual page, or write all of them.
    Man(super::man::ManArgs),
    /// Words kept for later, so that no script comes to mean something else by them.
    #[command(name = "fleet", aliases = ["hub", "nodes", "join", "leave"], hide = true)]
    Reserved(ReservedArgs),
}

#[derive(Debug, Args)]
pub struct ReservedArgs {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub rest: Vec<OsString>,
}

/// The answer to every reserved word.
pub const RESERVED: &str = "fleet, hub, nodes, join, leave and --node are reserved: this version \
                            meters one machine";

pub fn reserved() -> Failure {
    ApiError::new(ErrorKind::Reserved, RESERVED).into()
}

fn reserved_option(_value: &str) -> Result<String, String> {
    Err(RESERVED.to_owned())
}

fn parse_language(text: &str) -> Result<Lang, String> {
    Lang::of(text).ok_or_else(|| "known languages are en and zh-CN".to_owned())
}

/// The language, before anything is parsed: help is shown in it too.
pub fn language(arguments: &[OsString]) -> Lang {
    let mut words = arguments.iter().filter_map(|word| word.to_str());
    while let Some(word) = words.next() {
        let value = match word {
            "--lang" => words.next(),
            _ => word.strip_prefix("--lang="),
        };
        if let Some(lang) = value.and_then(Lang::of) {
            return lang;
        }
    }
    Lang::of_environment(|name| std::env::var(name).ok())
}

/// The whole command line, with what each verb does in `lang`.
pub fn localized(lang: Lang) -> clap::Command {
    let mut command = Cli::command().about(lang.text("about.boxmeter"));
    let verbs: Vec<String> = command
        .get_subcommands()
        .filter(|verb| !verb.is_hide_set())
        .map(|verb| verb.get_name().to_owned())
        .collect();
    for verb in verbs {
        command = command.mut_subcommand(&verb, |it| in_language(it, lang, &format!("about.{verb}")));
    }
    command
}

/// What a verb does, and what its own verbs do.
fn in_language(command: clap::Command, lang: Lang, key: &str) -> clap::Command {
    let inner: Vec<String> = command.get_subcommands().map(|it| it.get_name().to_owned()).collect();
    let command = command.about(lang.text(key).to_owned());
    inner.into_iter().fold(command, |command, verb| {
        let key = format!("{key}.{verb}");
        command.mut_subcommand(&verb, |it| it.about(lang.text(&key).to_owned()))
    })
}

/// [`localized`] without the words that are kept for later: what completions and manual show.
pub fn documented(lang: Lang) -> clap::Command {
    let full = localized(lang);
    let mut command = clap::Command::new("boxmeter")
        .version(env!("CARGO_PKG_VERSION"))
        .about(lang.text("about.boxmeter").to_owned())
        .subcommand_required(true)
        .disable_help_subcommand(true);
    for argument in full.get_arguments().filter(|it| !it.is_hide_set()) {
        command = command.arg(argument.clone());
    }
    for verb in full.get_subcommands().filter(|it| !it.is_hide_set()) {
        command = command.subcommand(verb.clone());
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verify_cli() {
        for lang in Lang::ALL {
            localized(lang).debug_assert();
            documented(lang).debug_assert();
        }
    }

    #[test]
    fn what_every_verb_does_is_in_the_catalogue() {
        for lang in Lang::ALL {
            let command = localized(lang);
            let verbs = command.get_subcommands().filter(|it| !it.is_hide_set());
            for verb in verbs.flat_map(|verb| verb.get_subcommands().chain([verb])) {
                let about = verb.get_about().unwrap().to_string();
                assert!(!about.starts_with("about."), "{about}");
            }
        }
    }

    #[test]
    fn the_language_is_found_before_parsing() {
        let words = |text: &str| text.split(' ').map(OsString::from).collect::<Vec<_>>();
        assert_eq!(language(&words("boxmeter --lang zh-CN usage")), Lang::ZhCn);
        assert_eq!(language(&words("boxmeter usage --lang=zh")), Lang::ZhCn);
    }
}
