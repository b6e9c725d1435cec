//! Giving up root: the panel needs its listeners and the agent's socket, and nothing else.

use anyhow::Context as _;
use nix::{
    errno::Errno,
    sys::prctl,
    unistd::{self, Gid, Uid},
};

use crate::daemon::{PANEL_USER, panel_user};

/// What became of root's rights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rights {
    /// It runs as the panel's user now.
    Dropped,
    /// It was not root.
    Kept,
    /// It was root, and there is no panel's user.
    NoUser,
}

/// The user of the demonstration where there is no panel's user: nobody's, as every system has it.
const NOBODY: u32 = 65_534;

/// Becomes the panel's user for good, without groups and without a way back.
///
/// # Errors
/// When the system refuses: then the panel must not go on.
pub fn drop_them() -> anyhow::Result<Rights> {
    if !Uid::effective().is_root() {
        prctl::set_no_new_privs().context("giving up new privileges")?;
        return Ok(Rights::Kept);
    }
    let Some(user) = panel_user() else { return Ok(Rights::NoUser) };
    turn_into(user.uid, user.gid).with_context(|| format!("becoming the user {PANEL_USER}"))?;
    for_good()
}

/// As [`drop_them`], of the demonstration, which needs nothing of the machine: without a panel's user it becomes
/// nobody.
///
/// # Errors
/// As [`drop_them`]. A container that has no other user than its root is left as it is, and it is said.
pub fn drop_for_demo() -> anyhow::Result<Rights> {
    if !Uid::effective().is_root() {
        return drop_them();
    }
    let (uid, gid) = match panel_user() {
        Some(user) => (user.uid, user.gid),
        None => (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY)),
    };
    match turn_into(uid, gid) {
        Ok(()) => for_good(),
        Err(error @ (Errno::EINVAL | Errno::EPERM)) => {
            tracing::warn!(%error, "the demonstration stays root of its container, which has no user {uid}");
            prctl::set_no_new_privs().context("giving up new privileges")?;
            Ok(Rights::Kept)
        }
        Err(error) => Err(error).with_context(|| format!("becoming the user {uid}")),
    }
}

fn turn_into(uid: Uid, gid: Gid) -> nix::Result<()> {
    unistd::setgroups(&[])?;
    unistd::setresgid(gid, gid, gid)?;
    unistd::setresuid(uid, uid, uid)
}

fn for_good() -> anyhow::Result<Rights> {
    prctl::set_no_new_privs().context("giving up new privileges")?;
    anyhow::ensure!(unistd::setuid(Uid::from_raw(0)).is_err(), "root's rights came back");
    Ok(Rights::Dropped)
}
