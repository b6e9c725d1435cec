//! Whom root may believe. Anybody can name a process as he likes and give it any arguments, and root must neither
//! run such a one's executable nor follow it. Reads `/proc` and the modes of files.

use std::{
    fs::{self, Metadata},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

const SETUID_SETGID: u32 = 0o6000;
const STICKY: u32 = 0o1000;

/// Why something is not root's alone; the text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum Distrust {
    #[error("{path} belongs to user {uid}, who could change what root would run; `chown root:root` it", path = path.display())]
    Owner { path: PathBuf, uid: u32 },
    #[error("{path} can be written by others than root (mode {mode:o}); `chmod go-w` it", path = path.display())]
    Writable { path: PathBuf, mode: u32 },
    #[error("{path} is a program that changes its user", path = path.display())]
    Setuid { path: PathBuf },
    #[error("it runs as user {uid} and not as root")]
    User { uid: u32 },
    #[error("its executable is {path}", path = path.display())]
    Program { path: PathBuf },
    #[error("{path}: {error}", path = path.display())]
    Io { path: PathBuf, error: io::Error },
}

/// Is every one of a process's user ids root's? Somebody else's who started a program that changes its user is not,
/// nor is one who is root in a namespace of his own.
///
/// # Errors
/// It is not, or it has ended.
pub fn is_roots(pid: u32) -> Result<(), Distrust> {
    let path = PathBuf::from(format!("/proc/{pid}/status"));
    let text = fs::read_to_string(&path).map_err(|error| Distrust::Io { path: path.clone(), error })?;
    let ids = text.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap_or_default();
    let ids: Vec<u32> = ids.split_ascii_whitespace().filter_map(|id| id.parse().ok()).collect();
    if ids.len() != 4 {
        return Err(Distrust::Io { path, error: io::ErrorKind::InvalidData.into() });
    }
    ids.into_iter().find(|&uid| uid != 0).map_or(Ok(()), |uid| Err(Distrust::User { uid }))
}

/// Can nobody but root change this file?
///
/// # Errors
/// Somebody can.
pub fn own(path: &Path, meta: &Metadata) -> Result<(), Distrust> {
    let path = || path.to_owned();
    if meta.uid() != 0 {
        return Err(Distrust::Owner { path: path(), uid: meta.uid() });
    }
    // The group root is root.
    let others = if meta.gid() == 0 { 0o002 } else { 0o022 };
    // In a folder like /tmp only who owns an entry may replace it.
    let spares_others = meta.is_dir() && meta.mode() & STICKY != 0;
    if meta.mode() & others != 0 && !spares_others {
        return Err(Distrust::Writable { path: path(), mode: meta.mode() & 0o7777 });
    }
    Ok(())
}

/// What a process runs must not be a program that does something for others by itself.
///
/// # Errors
/// It is one.
pub fn no_setuid(path: &Path, meta: &Metadata) -> Result<(), Distrust> {
    match meta.mode() & SETUID_SETGID {
        0 => Ok(()),
        _ => Err(Distrust::Setuid { path: path.to_owned() }),
    }
}

/// Can nobody but root change this file, or put another one in its place?
///
/// # Errors
/// Somebody can.
pub fn whole(path: &Path) -> Result<(), Distrust> {
    let failed = |path: &Path, error| Distrust::Io { path: path.to_owned(), error };
    let real = fs::canonicalize(path).map_err(|error| failed(path, error))?;
    // As it is written too: a link may be in somebody's folder.
    for place in path.ancestors().chain(real.ancestors()).filter(|place| !place.as_os_str().is_empty()) {
        let meta = fs::metadata(place).map_err(|error| failed(place, error))?;
        own(place, &meta)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, chown};

    use super::*;

    #[test]
    fn what_others_can_change_is_not_trusted() {
        assert!(whole(Path::new("/etc/passwd")).is_ok());
        let folder = tempfile::tempdir().unwrap();
        let (inner, file) = (folder.path().join("a"), folder.path().join("a/file"));
        fs::create_dir(&inner).unwrap();
        fs::write(&file, "x").unwrap();
        let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        if fs::metadata(&file).unwrap().uid() != 0 {
            assert!(matches!(whole(&file), Err(Distrust::Owner { .. })));
            assert!(matches!(is_roots(std::process::id()), Err(Distrust::User { .. })));
            return;
        }
        assert!(is_roots(std::process::id()).is_ok());
        mode(&inner, 0o755);
        mode(&file, 0o644);
        whole(&file).unwrap();
        for (path, bad) in [(&file, 0o646), (&inner, 0o757)] {
            mode(path, bad);
            assert!(matches!(whole(&file), Err(Distrust::Writable { .. })), "{path:?}");
            mode(path, 0o755);
        }
        mode(&inner, 0o1777);
        whole(&file).unwrap();
        chown(&file, Some(4242), None).unwrap();
        assert!(matches!(whole(&file), Err(Distrust::Owner { uid: 4242, .. })));
        chown(&file, Some(0), Some(4242)).unwrap();
        mode(&file, 0o664);
        assert!(matches!(whole(&file), Err(Distrust::Writable { .. })));
        chown(&file, Some(0), Some(0)).unwrap();
        let link = inner.join("link");
        std::os::unix::fs::symlink(&file, &link).unwrap();
        whole(&link).unwrap();
        mode(&inner, 0o757);
        assert!(whole(&link).is_err(), "whoever may change the link chooses the file");
        mode(&file, 0o4755);
        assert!(no_setuid(&file, &fs::metadata(&file).unwrap()).is_err());
    }
}
