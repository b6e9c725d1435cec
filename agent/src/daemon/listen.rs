//! The unix socket: who may connect, and what they may do, from the credentials of the peer.
//!
//! Root may do everything, members of the group `boxmeter` may look, nobody else gets in: the file's
//! mode keeps others out, and the credentials are checked again for each connection.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt, PermissionsExt, chown},
    path::Path,
};

use axum::{Extension, Router};
use boxmeter_web::api::routes::Access;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use nix::unistd::{Gid, Group, Uid, User};
use tokio::net::{UnixListener, UnixStream};

/// Connections at a time. More are closed at once; a client that is turned away says so.
const CONNECTIONS_MAX: usize = 256;

/// The group that may look.
pub const GROUP: &str = "boxmeter";

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
    fs::set_permissions(path, fs::Permissions::from_mode(if group.is_some() { 0o660 } else { 0o600 }))?;
    Ok(listener)
}

/// Serves until the listener is dropped with its task.
pub async fn serve(listener: UnixListener, router: Router) {
    let slots = std::sync::Arc::new(tokio::sync::Semaphore::new(CONNECTIONS_MAX));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, for instance: others must end before the next one fits.
                tracing::warn!("the socket takes no connection: {error}");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(slot) = slots.clone().try_acquire_owned() else { continue };
        let access = access(&stream);
        let router = match access {
            Some(access) => router.clone().layer(Extension(access)),
            None => router.clone(),
        };
        tokio::spawn(async move {
            let service = TowerToHyperService::new(router);
            let connection = auto::Builder::new(TokioExecutor::new()).http1_only();
            // A client that goes away is no news.
            let _ = connection.serve_connection(TokioIo::new(stream), service).await;
            drop(slot);
        });
    }
}

/// `None`: the peer may do nothing.
fn access(stream: &UnixStream) -> Option<Access> {
    let peer = stream.peer_cred().ok()?;
    if peer.uid() == 0 {
        return Some(Access::Admin);
    }
    let group = Group::from_name(GROUP).ok().flatten()?;
    let member = peer.gid() == group.gid.as_raw() || member(Uid::from_raw(peer.uid()), &group);
    member.then_some(Access::Read)
}

fn member(uid: Uid, group: &Group) -> bool {
    let Some(user) = User::from_uid(uid).ok().flatten() else { return false };
    user.gid == Gid::from_raw(group.gid.as_raw()) || group.mem.contains(&user.name)
}
