//! The unix socket: who may connect, and what they may do, from the credentials of the peer.
//!
//! Root may do everything, the panel's user lets visitors in and speaks for them, members of the group
//! `boxmeter` may look, nobody else gets in: the file's mode keeps others out, and the credentials are
//! checked again for each connection.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt, PermissionsExt, chown},
    path::Path,
};

use boxmeter_web::api::routes::Access;
use nix::unistd::{Gid, Group, Uid, User};
use tokio::net::{UnixListener, unix::UCred};

/// The group that may look.
pub const GROUP: &str = "boxmeter";
/// The user that the panel runs as, who may do nothing but what its visitors may.
pub const PANEL_USER: &str = "boxmeter-panel";

/// Binds the socket. One that a dead agent left is removed; the lock on the kernel's pins has shown
/// before that no other agent lives.
///
/// # Errors
/// When the directory cannot be made, or something that is no socket is in the way.
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.file_type().is_socket() => fs::remove_file(path)?,
        Ok(_) => {
            return Err(io::Error::other(format!(
                "{} is there and is no socket; remove it or choose another [api] socket",
                path.display()
            )));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let listener = UnixListener::bind(path)?;
    let group = Group::from_name(GROUP).ok().flatten();
    if let Some(group) = &group {
        chown(path, None, Some(group.gid.as_raw()))?;
    }
    // The owner gets in by the file's mode. Opening it for others would let nobody more in than the
    // credentials do.
    if let Some(panel) = panel_user() {
        chown(path, Some(panel.uid.as_raw()), None)?;
    }
    fs::set_permissions(path, fs::Permissions::from_mode(if group.is_some() { 0o660 } else { 0o600 }))?;
    Ok(listener)
}

/// The panel's user, if the machine has one. Never root, whatever the machine's files say.
pub fn panel_user() -> Option<User> {
    User::from_name(PANEL_USER).ok().flatten().filter(|user| !user.uid.is_root())
}

/// `None`: the peer may do nothing.
pub fn access(peer: &UCred) -> Option<Access> {
    if peer.uid() == 0 {
        return Some(Access::Admin);
    }
    if panel_user().is_some_and(|user| user.uid.as_raw() == peer.uid()) {
        return Some(Access::Panel);
    }
    let group = Group::from_name(GROUP).ok().flatten()?;
    let member = peer.gid() == group.gid.as_raw() || member(Uid::from_raw(peer.uid()), &group);
    member.then_some(Access::Read)
}

fn member(uid: Uid, group: &Group) -> bool {
    let Some(user) = User::from_uid(uid).ok().flatten() else { return false };
    user.gid == Gid::from_raw(group.gid.as_raw()) || group.mem.contains(&user.name)
}
