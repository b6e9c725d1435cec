//! The command line: a client of the API, one file per verb. It shows what the agent says and
//! decides nothing; verbs that work without the agent go through [`local`].

mod args;
mod ask;
mod audit;
mod backup;
#[cfg(test)]
mod change_tests;
mod completions;
mod context;
mod detach;
#[cfg(test)]
mod docs_tests;
mod doctor;
mod events;
mod export;
mod failure;
mod flows;
mod format;
mod local;
mod man;
mod notify;
mod packages;
mod panel;
mod policies;
mod restore;
mod run;
#[cfg(test)]
mod services_tests;
mod status;
mod table;
mod terms;
#[cfg(test)]
mod tests;
mod top;
mod usage;
mod users;

use std::{ffi::OsString, process::ExitCode};

use clap::FromArgMatches;

use self::{
    args::{Cli, Command},
    context::Context,
    failure::Failure,
};

/// Runs the program with the process's arguments.
pub fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let lang = args::language(&arguments);
    let parsed = args::localized(lang)
        .try_get_matches_from(&arguments)
        .and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => return failure::of_clap(&error, &arguments),
    };
    let context = Context::new(&cli, lang);
    match dispatch(&context, cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(&context),
    }
}

fn dispatch(context: &Context, command: Command) -> Result<(), Failure> {
    match command {
        Command::Run(args) => run::run(context, &args),
        Command::Detach(args) => detach::run(context, &args),
        Command::Panel(args) => panel::run(context, args),
        Command::Status => on_runtime(status::run(context)),
        Command::Doctor(args) => doctor::run(context, &args),
        Command::Users(args) => on_runtime(users::run(context, args)),
        Command::Policies(args) => on_runtime(policies::run(context, args)),
        Command::Packages(args) => on_runtime(packages::run(context, args)),
        Command::Usage(args) => on_runtime(usage::run(context, args)),
        Command::Flows(args) => on_runtime(flows::run(context, args)),
        Command::Top(args) => on_runtime(top::run(context, args)),
        Command::Events(args) => on_runtime(events::run(context, args)),
        Command::Notify(args) => on_runtime(notify::run(context, args)),
        Command::Audit(args) => on_runtime(audit::run(context, args)),
        Command::Backup(args) => backup::run(context, &args),
        Command::Restore(args) => restore::run(context, &args),
        Command::Export(args) => on_runtime(export::run(context, args)),
        Command::Completions(args) => completions::run(context, &args),
        Command::Man(args) => man::run(context, &args),
        Command::Reserved(_) => Err(args::reserved()),
    }
}

/// One thread is enough for a client.
fn on_runtime(work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(work)
}
