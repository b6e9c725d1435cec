//! Replaces one configuration file as a whole, or not at all: same owner, mode and attributes, only if
//! nobody else has changed it meanwhile. Knows nothing of what is in it.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, fchown},
    path::{Path, PathBuf},
};

use rustix::{fs::IFlags, io::Errno};
use sha2::{Digest as _, Sha256};

use crate::fault;

/// Bytes of one extended attribute, the kernel's own limit.
const ATTRIBUTE_MAX: usize = 64 << 10;

/// Why a file was not replaced. It is unchanged.
#[derive(Debug, thiserror::Error)]
pub enum SwapError {
    #[error("{path}: {error}", path = path.display())]
    Io { path: PathBuf, error: io::Error },
    #[error("{path} was changed by somebody else meanwhile; nothing was written, try again", path = path.display())]
    Changed { path: PathBuf },
    #[error("{path} is immutable (chattr +i); `chattr -i` it, or make the change by hand", path = path.display())]
    Immutable { path: PathBuf },
    #[error("{path} is on a read-only file system; make the change where the file comes from (an image, a configuration management). Where only boxmeter.service may not write there, `systemctl edit boxmeter` with [Service] ReadWritePaths= and its directory", path = path.display())]
    ReadOnly { path: PathBuf },
    #[error("{path} is a mount of its own (as Docker's `-v FILE:FILE`), which cannot be replaced as a whole; mount its directory instead, or make the change by hand", path = path.display())]
    Mount { path: PathBuf },
    #[error("{path} has {links} names (hard links), and replacing it would separate them; make the change by hand", path = path.display())]
    HardLinks { path: PathBuf, links: u64 },
    #[error("{path} is no regular file", path = path.display())]
    NotRegular { path: PathBuf },
}

/// SHA-256 of a file's content.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// The file behind symlinks, if it can be replaced.
pub fn replaceable(path: &Path) -> Result<PathBuf, SwapError> {
    let io = |error| SwapError::Io { path: path.to_owned(), error };
    let real = fs::canonicalize(path).map_err(io)?;
    let meta = fs::metadata(&real).map_err(io)?;
    if !meta.is_file() {
        return Err(SwapError::NotRegular { path: real });
    }
    if is_mount_point(&real).map_err(io)? {
        return Err(SwapError::Mount { path: real });
    }
    let stat = rustix::fs::statvfs(&real).map_err(|e| io(e.into()))?;
    if stat.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY) {
        return Err(SwapError::ReadOnly { path: real });
    }
    if meta.nlink() > 1 {
        return Err(SwapError::HardLinks { path: real, links: meta.nlink() });
    }
    let directory = real.parent().unwrap_or(Path::new("/"));
    for place in [real.as_path(), directory] {
        let file = File::open(place).map_err(io)?;
        // File systems without such flags answer with an error.
        if let Ok(flags) = rustix::fs::ioctl_getflags(&file)
            && flags.intersects(IFlags::IMMUTABLE | IFlags::APPEND)
        {
            return Err(SwapError::Immutable { path: place.to_owned() });
        }
    }
    Ok(real)
}

fn is_mount_point(path: &Path) -> io::Result<bool> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let wanted = path.to_string_lossy();
    Ok(mounts.lines().filter_map(|line| line.split(' ').nth(4)).any(|point| unescape(point) == wanted))
}

/// mountinfo writes space, tab, line break and backslash in octal.
fn unescape(text: &str) -> String {
    ["\\040", "\\011", "\\012", "\\134"]
        .iter()
        .zip([" ", "\t", "\n", "\\"])
        .fold(text.to_owned(), |text, (escape, plain)| text.replace(escape, plain))
}

/// Replaces the file if its content still has the hash `expected`. On an error nothing has changed. Else it has,
/// for everybody who reads it; where the disk refuses to say that it would last a loss of power, that is logged:
/// the text that the file had before is kept, and an edit that a crash undoes is made again.
pub fn replace(path: &Path, expected: [u8; 32], content: &[u8]) -> Result<(), SwapError> {
    let real = replaceable(path)?;
    let io = |error: io::Error| match Errno::from_io_error(&error) {
        Some(Errno::ROFS) => SwapError::ReadOnly { path: real.clone() },
        _ => SwapError::Io { path: real.clone(), error },
    };
    let old = File::open(&real).map_err(io)?;
    let meta = old.metadata().map_err(io)?;
    let directory = real.parent().unwrap_or(Path::new("/"));
    // Not *.json: sing-box -C would read it.
    let mut new =
        tempfile::Builder::new().prefix(".boxmeter-").suffix(".new").tempfile_in(directory).map_err(io)?;
    new.write_all(content).map_err(io)?;
    fchown(new.as_file(), Some(meta.uid()), Some(meta.gid())).map_err(io)?;
    // After the owner, which clears the bits that give privileges.
    new.as_file().set_permissions(fs::Permissions::from_mode(meta.mode() & 0o7777)).map_err(io)?;
    copy_attributes(&old, new.as_file()).map_err(io)?;
    new.as_file().sync_all().map_err(io)?;
    if sha256(&fs::read(&real).map_err(io)?) != expected {
        return Err(SwapError::Changed { path: real });
    }
    new.persist(&real).map_err(|e| io(e.error))?;
    if let Err(error) = sync(directory) {
        tracing::warn!("{}: written, but the disk does not say that it lasts: {error}", real.display());
    }
    Ok(())
}

fn sync(directory: &Path) -> io::Result<()> {
    if fault::refuses("folder-sync") {
        return Err(io::Error::other("the folder could not be synced, as a test wants"));
    }
    File::open(directory)?.sync_all()
}

/// ACLs and security labels.
fn copy_attributes(from: &File, to: &File) -> io::Result<()> {
    let mut names = vec![0u8; ATTRIBUTE_MAX];
    let length = match rustix::fs::flistxattr(from, names.as_mut_slice()) {
        Ok(length) => length,
        Err(Errno::OPNOTSUPP) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    for name in names[..length].split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0u8; ATTRIBUTE_MAX];
        let length = rustix::fs::fgetxattr(from, name, value.as_mut_slice())?;
        match rustix::fs::fsetxattr(to, name, &value[..length], rustix::fs::XattrFlags::empty()) {
            // The new file has the label of its directory, which the kernel decides.
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::PERM) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owner_mode_symlink_and_hash_are_respected() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.json");
        fs::write(&file, "old").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        let root = rustix::process::geteuid().is_root();
        if root {
            std::os::unix::fs::chown(&file, Some(12), Some(34)).unwrap();
        }
        let link = dir.path().join("link.json");
        std::os::unix::fs::symlink(&file, &link).unwrap();
        replace(&link, sha256(b"old"), b"new").unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read(&file).unwrap(), b"new");
        let meta = fs::metadata(&file).unwrap();
        assert_eq!(meta.mode() & 0o7777, 0o640);
        if root {
            assert_eq!((meta.uid(), meta.gid()), (12, 34));
        }
        assert!(matches!(replace(&link, sha256(b"old"), b"x"), Err(SwapError::Changed { .. })));
        fs::hard_link(&file, dir.path().join("other")).unwrap();
        assert!(matches!(replace(&file, sha256(b"new"), b"x"), Err(SwapError::HardLinks { links: 2, .. })));
        assert_eq!(fs::read(&file).unwrap(), b"new");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3, "no temporary file stays");
    }
}
