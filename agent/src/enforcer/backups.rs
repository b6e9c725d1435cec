//! The last good versions of sing-box's files, and which of them the running sing-box has read.

use std::{
    collections::{BTreeMap, HashSet},
    ffi::OsString,
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::SystemTime,
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{added::Added, swap::SwapError, users_edit::hex};
use crate::{
    clock,
    singbox::{
        files::{self, FileText},
        process::Process,
    },
};

/// Versions that are kept of a file.
const KEPT: usize = 20;

/// Between a file's name and the hash of a version that is kept of it.
const VERSION: &str = ".";

/// The same of a text that was edited by hand.
const BY_HAND: &str = ".by-hand.";

/// Bytes of the hash in a kept file's name.
const NAME_HASH: usize = 6;

const NOTE: &str = "running.json";

/// What `doctor --fix` has put into the files.
const ADDED: &str = "added.json";

/// What boxmeter has changed since a process last read its files.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Running {
    /// Its pid and start time; zeros where none ran.
    pub process: (u32, u64),
    /// All files that it reads.
    pub files: BTreeMap<PathBuf, RunningFile>,
    /// When the last of them was written. Without it that is under way, or a crash came before its end.
    #[serde(default)]
    pub written_at: Option<Moment>,
    /// It was told to read them, and is not known to have come up with them.
    #[serde(default)]
    pub told: bool,
    /// To start it again.
    #[serde(default)]
    pub unit: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct RunningFile {
    /// Hash of the text that it runs with.
    pub loaded: [u8; 32],
    /// Of the text that boxmeter wrote last; the same as `loaded` where it wrote nothing.
    pub written: [u8; 32],
    /// Of the last text by hand that boxmeter's next edit was made from: `loaded` lacks that.
    #[serde(default)]
    pub by_hand: Option<[u8; 32]>,
}

/// A point in time that can be compared with the begin of a process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Moment {
    /// Of the machine's uptime: each has its own clock.
    boot: String,
    /// `CLOCK_BOOTTIME`.
    ns: u64,
}

impl Moment {
    pub fn now() -> Self {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        Moment { boot, ns: clock::boot_ns() }
    }
}

impl Running {
    /// Does this say what the process runs with? Of another one than it was written for only if that may have
    /// begun, and read the files, before they were written.
    pub fn concerns(&self, process: &Process) -> bool {
        if self.process == (process.pid, process.start_ticks) {
            return true;
        }
        let this_boot = Moment::now().boot;
        self.written_at.as_ref().is_none_or(|at| at.boot == this_boot && at.ns >= process.started_boot_ns())
    }
}

/// A folder that only root can read.
pub(super) struct Backups {
    folder: PathBuf,
}

impl Backups {
    pub fn new(folder: PathBuf) -> Self {
        Backups { folder }
    }

    /// Where a version of a file is kept.
    pub fn path(&self, file: &Path, hash: &[u8; 32]) -> PathBuf {
        let mut name = OsString::from(file.file_name().unwrap_or_default());
        name.push(format!("{VERSION}{}", hex(&hash[..NAME_HASH])));
        self.folder.join(name)
    }

    /// Keeps a version, and the newest ones before it.
    pub fn keep(&self, file: &FileText) -> Result<PathBuf, SwapError> {
        let path = self.path(&file.path, &file.sha256);
        self.write(&path, file.text.as_bytes())?;
        // Too many old versions are no reason to fail.
        drop(self.prune(&file.path, VERSION, &path));
        Ok(path)
    }

    /// Keeps a text that somebody has edited by hand and that is in the file no more, apart from the versions: people
    /// were told where it is.
    pub fn keep_aside(&self, file: &Path, hash: &[u8; 32]) -> Result<PathBuf, SwapError> {
        let text = self.text(file, hash)?;
        let mut name = OsString::from(file.file_name().unwrap_or_default());
        name.push(format!("{BY_HAND}{}", hex(&hash[..NAME_HASH])));
        let path = self.folder.join(name);
        self.write(&path, text.as_bytes())?;
        drop(self.prune(file, BY_HAND, &path));
        Ok(path)
    }

    pub fn text(&self, file: &Path, hash: &[u8; 32]) -> Result<String, SwapError> {
        let path = self.path(file, hash);
        let damaged = || io::Error::new(io::ErrorKind::InvalidData, "it is not what was kept");
        match files::read_file(&path) {
            Ok(kept) if kept.sha256 == *hash => Ok(kept.text),
            Ok(_) => Err(SwapError::Io { path, error: damaged() }),
            Err(error) => Err(SwapError::Io { path, error: io::Error::other(error) }),
        }
    }

    pub fn running(&self) -> Result<Option<Running>, SwapError> {
        self.read_note(NOTE)
    }

    pub fn note(&self, running: &Running) -> Result<(), SwapError> {
        self.write_note(NOTE, running)
    }

    pub fn forget(&self) -> Result<(), SwapError> {
        self.remove(NOTE)
    }

    pub fn added(&self) -> Result<Vec<Added>, SwapError> {
        Ok(self.read_note(ADDED)?.unwrap_or_default())
    }

    /// Keeps what is there now; nothing is no file.
    pub fn set_added(&self, added: &[Added]) -> Result<(), SwapError> {
        if added.is_empty() { self.remove(ADDED) } else { self.write_note(ADDED, &added) }
    }

    fn read_note<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, SwapError> {
        let path = self.folder.join(name);
        match fs::read(&path) {
            Ok(bytes) => match serde_json::from_slice(&bytes) {
                Ok(note) => Ok(Some(note)),
                Err(error) => Err(SwapError::Io { path, error: error.into() }),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(SwapError::Io { path, error }),
        }
    }

    fn write_note(&self, name: &str, note: &impl Serialize) -> Result<(), SwapError> {
        let path = self.folder.join(name);
        let bytes =
            serde_json::to_vec(note).map_err(|e| SwapError::Io { path: path.clone(), error: e.into() })?;
        self.write(&path, &bytes)
    }

    fn remove(&self, name: &str) -> Result<(), SwapError> {
        let path = self.folder.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(SwapError::Io { path, error }),
            _ => Ok(()),
        }
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> Result<(), SwapError> {
        let write = || {
            fs::create_dir_all(&self.folder)?;
            fs::set_permissions(&self.folder, fs::Permissions::from_mode(0o700))?;
            let mut new = tempfile::NamedTempFile::new_in(&self.folder)?;
            io::Write::write_all(&mut new, bytes)?;
            new.as_file().sync_all()?;
            new.persist(path).map_err(|e| e.error)?;
            fs::File::open(&self.folder)?.sync_all()
        };
        write().map_err(|error| SwapError::Io { path: path.to_owned(), error })
    }

    fn prune(&self, file: &Path, kind: &str, newest: &Path) -> Result<(), SwapError> {
        let io = |error| SwapError::Io { path: self.folder.clone(), error };
        let needed: HashSet<PathBuf> = match self.running()? {
            Some(running) => {
                let of = |(path, file): (&PathBuf, &RunningFile)| {
                    let hashes = std::iter::once(file.loaded).chain(file.by_hand);
                    hashes.map(|hash| self.path(path, &hash)).collect::<Vec<_>>()
                };
                running.files.iter().flat_map(of).collect()
            }
            None => HashSet::new(),
        };
        let mut prefix = OsString::from(file.file_name().unwrap_or_default());
        prefix.push(kind);
        let mut kept: Vec<(SystemTime, PathBuf)> = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(io)? {
            let entry = entry.map_err(io)?;
            let name = entry.file_name();
            let rest = name.as_encoded_bytes().strip_prefix(prefix.as_encoded_bytes());
            if rest.is_some_and(|rest| rest.len() == 2 * NAME_HASH && rest.iter().all(u8::is_ascii_hexdigit))
            {
                let written = entry.metadata().and_then(|meta| meta.modified()).map_err(io)?;
                kept.push((written, entry.path()));
            }
        }
        kept.sort();
        let old = kept.len().saturating_sub(KEPT);
        for (_, path) in
            kept.into_iter().take(old).filter(|(_, path)| path != newest && !needed.contains(path))
        {
            fs::remove_file(&path).map_err(io)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::enforcer::swap::sha256;

    fn version(number: usize) -> FileText {
        let text = format!("version {number}");
        FileText {
            service: crate::service::Service::singbox(),
            path: std::sync::Arc::new("/etc/c.json".into()),
            sha256: sha256(text.as_bytes()),
            text,
        }
    }

    #[test]
    fn the_newest_versions_and_the_one_in_force_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let backups = Backups::new(dir.path().join("kept"));
        assert!(backups.running().unwrap().is_none());
        let first = backups.keep(&version(0)).unwrap();
        fs::File::options().write(true).open(first).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
        let file = RunningFile { loaded: version(0).sha256, written: version(2).sha256, by_hand: None };
        let files = BTreeMap::from([(PathBuf::from("/etc/c.json"), file)]);
        backups.note(&Running { process: (7, 9), files, ..Running::default() }).unwrap();
        for number in 1..40 {
            let path = backups.keep(&version(number)).unwrap();
            let written = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(number as u64);
            fs::File::options().write(true).open(path).unwrap().set_modified(written).unwrap();
        }
        let count = fs::read_dir(dir.path().join("kept")).unwrap().count();
        assert!((KEPT..=KEPT + 2).contains(&count), "{count}");
        let aside = backups.keep_aside(Path::new("/etc/c.json"), &version(39).sha256).unwrap();
        for number in 40..70 {
            backups.keep(&version(number)).unwrap();
        }
        assert_eq!(fs::read_to_string(aside).unwrap(), "version 39", "people were told where it is");
        let text = |number| backups.text(Path::new("/etc/c.json"), &version(number).sha256);
        assert_eq!(text(0).unwrap(), "version 0");
        assert_eq!(text(69).unwrap(), "version 69");
        assert!(text(10).is_err());
        assert_eq!(backups.running().unwrap().unwrap().process, (7, 9));
        let mode = fs::metadata(dir.path().join("kept")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        backups.forget().unwrap();
        backups.forget().unwrap();
        assert!(backups.running().unwrap().is_none());
    }
}
