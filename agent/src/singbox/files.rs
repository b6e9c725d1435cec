//! Finds and reads the files of a proxy's configuration as the proxy itself does, and notices when they
//! change. Reads only.

use std::{
    fs, io,
    io::Read as _,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use sha2::{Digest as _, Sha256};

use super::{
    config::{self, ProxyConfig},
    tree::{self, SyntaxError},
};
use crate::service::Service;

/// Bytes of one configuration file. 10,000 users with long credentials are below 2 MiB.
pub const FILE_MAX: u64 = 32 << 20;

/// Files of one configuration.
pub const FILES_MAX: usize = 1024;

/// Why the configuration cannot be read. The caller keeps the last good one.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error(
        "{path}: {error}; name sing-box's file or directory in `[singbox] config`, another proxy's in `config` of its `[[service]]`",
        path = path.display()
    )]
    Read { path: PathBuf, error: io::Error },
    #[error("{path}: larger than {FILE_MAX} bytes; this is not a configuration", path = path.display())]
    TooLarge { path: PathBuf },
    #[error("{path}: not UTF-8 at byte {at}; save the file as UTF-8", path = path.display())]
    NotUtf8 { path: PathBuf, at: usize },
    #[error("{path}: no *.json file in this directory, and the proxy reads only *.json", path = path.display())]
    NoFiles { path: PathBuf },
    #[error("more than {FILES_MAX} configuration files")]
    TooManyFiles,
    #[error(
        "no file is named in `[singbox] config`, or in `config` of the `[[service]]`; name the proxy's file or directory there"
    )]
    Nothing,
    #[error(transparent)]
    Syntax(#[from] SyntaxError),
    #[error("{file}:{line}: {what}", file = file.display())]
    Meaning { file: PathBuf, line: usize, what: String },
}

/// One file's text as it was read.
#[derive(Clone, Debug)]
pub struct FileText {
    /// Which proxy reads it.
    pub service: Service,
    pub path: Arc<PathBuf>,
    pub text: String,
    pub sha256: [u8; 32],
}

/// What changes when a file is written or replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    mtime: (i64, i64),
    ctime: (i64, i64),
}

impl Stamp {
    fn of(meta: &fs::Metadata) -> Self {
        Stamp {
            device: meta.dev(),
            inode: meta.ino(),
            size: meta.size(),
            mtime: (meta.mtime(), meta.mtime_nsec()),
            ctime: (meta.ctime(), meta.ctime_nsec()),
        }
    }
}

/// The files that sing-box reads, in its order: all of them sorted by path, wherever they were
/// named; of a directory only its `*.json`, not its subdirectories.
pub fn list(paths: &[PathBuf]) -> Result<Vec<PathBuf>, ConfigError> {
    let mut files = list_in_order(paths)?;
    // As strings, not by component: sing-box compares the texts.
    files.sort_by(|a, b| a.as_os_str().cmp(b.as_os_str()));
    files.dedup();
    Ok(files)
}

/// The files in the order in which they are named; those of a directory sorted by name.
pub fn list_in_order(paths: &[PathBuf]) -> Result<Vec<PathBuf>, ConfigError> {
    if paths.is_empty() {
        return Err(ConfigError::Nothing);
    }
    let mut files = Vec::new();
    for path in paths {
        let read = |error| ConfigError::Read { path: path.clone(), error };
        if fs::metadata(path).map_err(read)?.is_dir() {
            let before = files.len();
            for entry in fs::read_dir(path).map_err(read)? {
                let entry = entry.map_err(read)?.path();
                if entry.as_os_str().as_encoded_bytes().ends_with(b".json") && !entry.is_dir() {
                    files.push(entry);
                }
            }
            if files.len() == before {
                return Err(ConfigError::NoFiles { path: path.clone() });
            }
            files[before..].sort_by(|a, b| a.as_os_str().cmp(b.as_os_str()));
        } else {
            files.push(path.clone());
        }
        if files.len() > FILES_MAX {
            return Err(ConfigError::TooManyFiles);
        }
    }
    Ok(files)
}

/// Reads one file whole, of sing-box if nobody says otherwise.
pub fn read_file(path: &Path) -> Result<FileText, ConfigError> {
    let fail = |error| ConfigError::Read { path: path.to_owned(), error };
    let file = fs::File::open(path).map_err(fail)?;
    let meta = file.metadata().map_err(fail)?;
    if !meta.is_file() {
        let error = io::Error::new(io::ErrorKind::InvalidInput, "not a regular file");
        return Err(fail(error));
    }
    let mut bytes = Vec::new();
    file.take(FILE_MAX + 1).read_to_end(&mut bytes).map_err(fail)?;
    if bytes.len() as u64 > FILE_MAX {
        return Err(ConfigError::TooLarge { path: path.to_owned() });
    }
    let sha256 = Sha256::digest(&bytes).into();
    let text = String::from_utf8(bytes).map_err(|error| ConfigError::NotUtf8 {
        path: path.to_owned(),
        at: error.utf8_error().valid_up_to(),
    })?;
    Ok(FileText { service: Service::singbox(), path: Arc::new(path.to_owned()), text, sha256 })
}

/// Reads all files of sing-box's configuration.
pub fn read(paths: &[PathBuf]) -> Result<Vec<FileText>, ConfigError> {
    list(paths)?.iter().map(|path| read_file(path)).collect()
}

/// Parses and merges files of sing-box's configuration that were read.
pub fn parse(files: &[FileText]) -> Result<ProxyConfig, ConfigError> {
    parse_as(files, tree::merge, config::read)
}

/// Parses and merges files: `merge` puts a later one into the earlier ones, `read` understands them all.
pub fn parse_as(
    files: &[FileText],
    merge: impl Fn(&mut tree::Node, tree::Node),
    read: impl FnOnce(&tree::Node) -> Result<ProxyConfig, config::Wrong>,
) -> Result<ProxyConfig, ConfigError> {
    let mut merged: Option<tree::Node> = None;
    let mut repeated = Vec::new();
    for file in files {
        let (node, again) = tree::parse(&file.path, &file.text)?;
        repeated.extend(again);
        match &mut merged {
            None => merged = Some(node),
            Some(earlier) => merge(earlier, node),
        }
    }
    let root = merged.ok_or(ConfigError::Nothing)?;
    let mut config = read(&root).map_err(|wrong| ConfigError::Meaning {
        line: files
            .iter()
            .find(|file| *file.path == wrong.file)
            .map_or(0, |file| tree::line_column(&file.text, wrong.at).0),
        file: wrong.file,
        what: wrong.what,
    })?;
    for key in repeated {
        config.warnings.push(config::Warning::RepeatedKey { file: key.file, line: key.line, key: key.key });
    }
    config.files = files.iter().map(|file| file.path.as_ref().clone()).collect();
    Ok(config)
}

/// Follows the configuration's files. No inotify: a poll of a few `stat` calls is cheap, and works
/// for bind mounts, symlinks and directories alike.
#[derive(Debug)]
pub struct ConfigWatch {
    service: Service,
    paths: Vec<PathBuf>,
    seen: Vec<(PathBuf, Option<Stamp>)>,
    hash: Option<[u8; 32]>,
}

impl ConfigWatch {
    pub fn new(service: Service, paths: Vec<PathBuf>) -> Self {
        ConfigWatch { service, paths, seen: Vec::new(), hash: None }
    }

    pub fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// Reads the configuration, and remembers what was read, also when it was broken: the same broken
    /// file is not tried again.
    pub fn load(&mut self) -> Result<ProxyConfig, ConfigError> {
        self.seen = self.stamps();
        self.hash = None;
        let files = self.service.read(&self.paths)?;
        self.hash = Some(hash(&files));
        self.service.parse(&files)
    }

    /// Has the content changed since `load`? Stamps first; the content is only read and hashed when
    /// one of them differs, so that a touched file is no change. Unreadable files are a change, whose
    /// error `load` tells.
    pub fn changed(&mut self) -> bool {
        let now = self.stamps();
        if now == self.seen {
            return false;
        }
        let same = match (self.hash, self.service.read(&self.paths)) {
            (Some(before), Ok(files)) => hash(&files) == before,
            _ => false,
        };
        if same {
            self.seen = now;
        }
        !same
    }

    fn stamps(&self) -> Vec<(PathBuf, Option<Stamp>)> {
        // A directory's own stamp shows nothing about its files, so the files are listed anew.
        let files = self.service.list(&self.paths).unwrap_or_else(|_| self.paths.clone());
        files
            .into_iter()
            .map(|path| {
                let stamp = fs::metadata(&path).ok().map(|meta| Stamp::of(&meta));
                (path, stamp)
            })
            .collect()
    }
}

fn hash(files: &[FileText]) -> [u8; 32] {
    let mut hasher = Sha256::new();
    for file in files {
        hasher.update(file.path.as_os_str().as_encoded_bytes());
        hasher.update([0]);
        hasher.update(file.sha256);
    }
    hasher.finalize().into()
}
