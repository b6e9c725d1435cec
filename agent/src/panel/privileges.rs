//! Giving up root: the panel needs its listeners and the agent's socket, and nothing else.

use anyhow::Context as _;
use nix::{
    sys::prctl,
    unistd::{self, Uid},
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
    let failed = || format!("becoming the user {PANEL_USER}");
    unistd::setgroups(&[]).with_context(failed)?;
    unistd::setresgid(user.gid, user.gid, user.gid).with_context(failed)?;
    unistd::setresuid(user.uid, user.uid, user.uid).with_context(failed)?;
    prctl::set_no_new_privs().context("giving up new privileges")?;
    anyhow::ensure!(unistd::setuid(Uid::from_raw(0)).is_err(), "root's rights came back");
    Ok(Rights::Dropped)
}
