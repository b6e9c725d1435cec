//! Owns the pin directory: the lock that only one agent holds, the bpf file system below it, and
//! which of the pins are ours.
//!
//! `META` is written last when maps are made: a directory without its version was left by an agent
//! that died on the way, counted nothing yet, and is made anew.

use std::{
    fs::{self, File},
    io::{self, Read, Seek, Write},
    os::fd::{AsFd, OwnedFd},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use boxmeter_common::{ABI_VERSION, Meta, maps};

use super::{error::KernelError, kept, sys};

const BPF_FS_MAGIC: i64 = 0xcafe_4a11;

/// Pinned links, in the order in which they are removed: no packet is counted after the first two.
pub const LINKS: [&str; 3] = ["link_ingress", "link_egress", "link_sock_ops"];

/// Every pinned map.
pub const MAPS: [&str; 20] = [
    maps::ACCOUNTS,
    maps::BLOCKED,
    maps::CLOCK,
    maps::CLOSED,
    maps::COMMAND,
    maps::EVENTS,
    maps::INBOUNDS,
    maps::MAILBOX,
    maps::META,
    maps::OWNERS,
    maps::PACES,
    maps::PEERS,
    maps::PORTS,
    maps::RATES,
    maps::RECENT,
    maps::SOCKETS,
    maps::STATS,
    maps::USERS,
    maps::WATCH,
    maps::WATCHED,
];

/// How the names of pinned programs begin.
pub const PROGRAM: &str = "program_";

/// The pin directory, locked.
#[derive(Debug)]
pub struct Pins {
    pub path: PathBuf,
    /// Holds the lock as long as the agent lives; the kernel frees it with the process.
    _lock: File,
}

/// What an agent finds.
pub enum State {
    Empty,
    /// Made by an agent that died before it was done.
    HalfMade,
    Whole(Meta),
}

impl Pins {
    /// Locks the pin directory, and makes it and its file system if they are missing.
    pub fn lock(path: &Path) -> Result<Self, KernelError> {
        let lock = lock_file(path)?;
        if !path.is_dir() {
            mount_if_missing(path)?;
            fs::create_dir_all(path).map_err(KernelError::io(format!("making {}", path.display())))?;
        }
        if !is_bpffs(path) {
            let parent = path.parent().unwrap_or(path).to_path_buf();
            return Err(KernelError::NotBpffs { path: path.to_path_buf(), parent });
        }
        Ok(Pins { path: path.to_path_buf(), _lock: lock })
    }

    pub fn at(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Opens a pinned map or link.
    pub fn open(&self, name: &str) -> Result<OwnedFd, KernelError> {
        let path = self.at(name);
        sys::obj_get(&path).map_err(KernelError::io(format!("bpf: opening {}", path.display())))
    }

    pub fn state(&self) -> Result<State, KernelError> {
        let mut any = false;
        let entries =
            fs::read_dir(&self.path).map_err(KernelError::io(format!("reading {}", self.path.display())))?;
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let ours = LINKS.contains(&&*name) || MAPS.contains(&&*name) || kept::is_program(&name);
            if !ours {
                return Err(KernelError::ForeignPins { path: self.path.clone(), what: name });
            }
            any = true;
        }
        if !any {
            return Ok(State::Empty);
        }
        let mut meta = Meta::default();
        if self.at(maps::META).exists() {
            let map = self.open(maps::META)?;
            sys::lookup(map.as_fd(), &0u32, &mut meta).map_err(KernelError::io("bpf: reading META"))?;
        }
        match meta.abi_version {
            0 => Ok(State::HalfMade),
            ABI_VERSION => Ok(State::Whole(meta)),
            found => Err(KernelError::OtherAbi { path: self.path.clone(), found, expected: ABI_VERSION }),
        }
    }

    /// Removes what boxmeter pinned: links first, so that nothing counts into maps that go away.
    pub fn clear(&self) -> Result<(), KernelError> {
        for name in LINKS.iter().chain(MAPS.iter()) {
            self.remove_pin(name)?;
        }
        self.clear_programs()
    }

    pub(super) fn remove_pin(&self, name: &str) -> Result<(), KernelError> {
        remove(&self.at(name))
    }

    /// Clears, and removes the directory and the lock.
    pub fn remove(self) -> Result<(), KernelError> {
        self.clear()?;
        fs::remove_dir(&self.path).map_err(KernelError::io(format!("removing {}", self.path.display())))?;
        remove(&lock_path(&self.path))
    }
}

/// The epoch of the programs that are loaded, if there are any.
///
/// # Errors
/// `Busy` while an agent works with them; see [`KernelError`].
pub fn present_epoch(path: &Path) -> Result<Option<[u8; 16]>, KernelError> {
    if !path.is_dir() {
        return Ok(None);
    }
    match Pins::lock(path)?.state()? {
        State::Whole(meta) => Ok(Some(meta.epoch)),
        State::Empty | State::HalfMade => Ok(None),
    }
}

fn remove(path: &Path) -> Result<(), KernelError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(KernelError::io(format!("removing {}", path.display()))(error))
        }
        _ => Ok(()),
    }
}

/// Where locks are: the one folder of /run that the unit may write to, and that it does not remove when it stops,
/// since `detach` and `restore` hold the lock then.
const LOCKS: &str = "/run/boxmeter";

/// A bpf file system holds no ordinary files: the lock is elsewhere, named by the directory.
fn lock_path(pins: &Path) -> PathBuf {
    let absolute = std::path::absolute(pins).unwrap_or_else(|_| pins.to_path_buf());
    let name = absolute.to_string_lossy().replace('%', "%25").replace('/', "%2F");
    Path::new(LOCKS).join(format!("pins-{name}.lock"))
}

fn lock_file(pins: &Path) -> Result<File, KernelError> {
    let path = lock_path(pins);
    fs::create_dir_all(LOCKS).map_err(KernelError::io(format!("making {LOCKS}")))?;
    loop {
        let mut file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&path)
            .map_err(KernelError::io(format!("opening {}", path.display())))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => {
                let mut text = String::new();
                let pid = file.read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok());
                return Err(KernelError::Busy { path: pins.to_path_buf(), pid });
            }
            Err(fs::TryLockError::Error(error)) => {
                return Err(KernelError::io(format!("locking {}", path.display()))(error));
            }
        }
        // `detach` removes the file: a lock on a removed file keeps nobody out.
        let same = match (file.metadata(), fs::metadata(&path)) {
            (Ok(mine), Ok(named)) => mine.ino() == named.ino(),
            _ => false,
        };
        if same {
            let written = file.set_len(0).and_then(|()| file.rewind());
            written
                .and_then(|()| write!(file, "{}", std::process::id()))
                .map_err(KernelError::io(format!("writing {}", path.display())))?;
            return Ok(file);
        }
    }
}

/// Whether `path`, or the nearest directory above it that exists, lies on a bpf file system.
fn is_bpffs(path: &Path) -> bool {
    let existing = path.ancestors().find(|p| p.exists()).unwrap_or(path);
    nix::sys::statfs::statfs(existing).is_ok_and(|fs| fs.filesystem_type().0 == BPF_FS_MAGIC)
}

/// Minimal systems do not mount it: at its usual place, and only there, boxmeter does.
fn mount_if_missing(path: &Path) -> Result<(), KernelError> {
    let usual = Path::new("/sys/fs/bpf");
    if is_bpffs(path) || !path.starts_with(usual) {
        return Ok(());
    }
    tracing::info!(path = %usual.display(), "mounting the bpf file system, which was missing");
    nix::mount::mount(Some("bpf"), usual, Some("bpf"), nix::mount::MsFlags::empty(), Some("mode=0700"))
        .map_err(|errno| KernelError::io("mounting the bpf file system at /sys/fs/bpf")(errno.into()))
}
