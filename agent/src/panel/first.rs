//! What the panel says when it starts: its address, and the first password, which is made when there is
//! none and told this once.

use boxmeter_web::{
    access::{Door as _, PasswordChange, Who},
    api::{
        client::Client,
        order::{Actor, Envelope, Origin},
    },
    backend::ErrorKind,
    demo,
    locale::Lang,
};
use nix::unistd::Uid;

use super::privileges::Rights;
use crate::daemon::PANEL_USER;

/// What is told about the password.
#[derive(Clone, PartialEq, Eq)]
pub enum Told {
    Demo,
    /// Just made.
    First(String),
    /// There is one already.
    Known,
    /// Only root may make one.
    NotRoot,
    /// The agent does not run yet.
    NoAgent,
    Failed(String),
}

/// Makes the first password if there is none.
pub async fn password(client: &Client) -> Told {
    let uid = Uid::effective();
    if !uid.is_root() || is_journal() {
        return Told::NotRoot;
    }
    let envelope = Envelope::of(Actor::uid(uid.as_raw(), Origin::Cli));
    let change = PasswordChange { current: None, new: None, first: true };
    match client.change_password(envelope, &Who::on_the_machine(), change).await {
        Ok(changed) => changed.password.map_or(Told::Known, Told::First),
        Err(error) => match error.kind {
            ErrorKind::Conflict => Told::Known,
            ErrorKind::NotRunning | ErrorKind::Unavailable => Told::NoAgent,
            _ => Told::Failed(error.message),
        },
    }
}

/// Whether what is printed goes into systemd's journal, which keeps it and has readers of its own: no place
/// for a password.
fn is_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    let Ok(out) = nix::sys::stat::fstat(std::io::stdout()) else { return true };
    stream == format!("{}:{}", out.st_dev, out.st_ino)
}

/// The address, and what to do about the password, on standard output.
pub fn print(lang: Lang, url: &str, told: &Told, rights: &Rights) {
    let mut lines = vec![lang.fill("panel.start.address", &[("url", url)])];
    match told {
        Told::Demo => lines.push(lang.fill("panel.start.demo", &[("password", demo::PASSWORD)])),
        Told::First(password) => lines.push(lang.fill("panel.start.first", &[("password", password)])),
        Told::Known => {}
        Told::NotRoot => lines.push(lang.text("panel.start.not_root").to_owned()),
        Told::NoAgent => lines.push(lang.text("panel.start.no_agent").to_owned()),
        Told::Failed(why) => lines.push(lang.fill("panel.start.failed", &[("why", why)])),
    }
    if *rights == Rights::NoUser {
        lines.push(lang.fill("panel.start.no_user", &[("user", PANEL_USER)]));
    }
    let mut out = std::io::stdout().lock();
    // Nobody is left to tell when standard output is closed.
    let _ = std::io::Write::write_all(&mut out, format!("{}\n", lines.join("\n")).as_bytes());
    let _ = std::io::Write::flush(&mut out);
}
