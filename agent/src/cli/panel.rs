//! `boxmeter panel`: the web panel, and its password.

use std::{
    io::{self, BufRead as _, IsTerminal as _, Write as _},
    net::SocketAddr,
};

use boxmeter_web::{
    access::{Door as _, PasswordChange, TotpCode, Who},
    backend::{ApiError, ErrorKind},
};
use clap::{Args, Subcommand};
use ratatui::crossterm::{
    event::{self, Event, KeyCode, KeyEventKind, KeyModifiers},
    terminal,
};

use super::{context::Context, failure::Failure, local, on_runtime};

#[derive(Debug, Args)]
pub struct PanelArgs {
    /// Made-up data: needs no agent, no root and no sing-box.
    #[arg(long)]
    demo: bool,
    /// Where to listen, instead of what the configuration says.
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
    #[command(subcommand)]
    verb: Option<PanelVerb>,
}

#[derive(Debug, Subcommand)]
enum PanelVerb {
    /// Set the admin's password; everybody is signed out.
    Password(PasswordArgs),
}

#[derive(Debug, Args)]
struct PasswordArgs {
    /// Make one and print it.
    #[arg(long)]
    generate: bool,
    /// Turn the second factor off, for who has lost it.
    #[arg(long)]
    no_totp: bool,
}

pub fn run(context: &Context, args: PanelArgs) -> Result<(), Failure> {
    match args.verb {
        None => {
            let (config, socket) = (context.config.as_deref(), context.socket_option());
            Ok(local::panel(config, socket, args.listen, args.demo, context.lang)?)
        }
        Some(PanelVerb::Password(args)) => {
            let new = if args.generate { None } else { Some(wanted(context)?) };
            on_runtime(password(context, new, args.no_totp))
        }
    }
}

async fn password(context: &Context, new: Option<String>, no_totp: bool) -> Result<(), Failure> {
    let client = context.client()?;
    let who = Who::on_the_machine();
    let change = PasswordChange { current: None, new, first: false };
    change.check()?;
    let changed = client.change_password(context.envelope(None), &who, change).await?;
    if no_totp {
        let off =
            client.set_totp(context.envelope(None), &who, TotpCode { code: String::new() }, false).await;
        match off {
            // There was none: that is what was asked for.
            Err(error) if error.kind == ErrorKind::Conflict => {}
            off => off?,
        }
    }
    if context.json {
        return context.print_json(&changed);
    }
    if let Some(made) = &changed.password {
        context.print(made)?;
    }
    context.complain(context.text("cli.panel.password_set"));
    Ok(())
}

/// The new password: typed twice at a terminal, else one line of standard input.
fn wanted(context: &Context) -> Result<String, Failure> {
    if !io::stdin().is_terminal() {
        let mut line = String::new();
        io::stdin().lock().read_line(&mut line)?;
        return Ok(line.trim_end_matches(['\r', '\n']).to_owned());
    }
    let first = typed(context.text("cli.panel.password_new"))?;
    let again = typed(context.text("cli.panel.password_again"))?;
    match first == again {
        true => Ok(first),
        false => Err(ApiError::bad_request(context.text("cli.panel.password_differs")).into()),
    }
}

/// A line that is not shown while it is typed.
fn typed(question: &str) -> Result<String, Failure> {
    let mut err = io::stderr();
    write!(err, "{question} ")?;
    err.flush()?;
    terminal::enable_raw_mode()?;
    let line = hidden_line();
    terminal::disable_raw_mode()?;
    writeln!(err)?;
    line
}

fn hidden_line() -> Result<String, Failure> {
    let mut line = String::new();
    loop {
        let Event::Key(key) = event::read()? else { continue };
        if key.kind == KeyEventKind::Release {
            continue;
        }
        match key.code {
            KeyCode::Enter => return Ok(line),
            KeyCode::Char('c' | 'd') if key.modifiers.contains(KeyModifiers::CONTROL) => {
                return Err(ApiError::new(ErrorKind::Failed, "interrupted; nothing was changed").into());
            }
            KeyCode::Char(typed) => line.push(typed),
            KeyCode::Backspace => drop(line.pop()),
            _ => {}
        }
    }
}
