//! A folder of a test, with mounts that nobody else sees and that end with the test.

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use std::path::{Path, PathBuf};

/// A temporary folder whose mounts are private to this thread and what it starts.
pub struct Scratch {
    folder: tempfile::TempDir,
}

impl Scratch {
    /// Needs root. Everything that shall see the mounts must be started from the calling thread.
    pub fn new() -> Scratch {
        unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace");
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).expect("private mounts");
        // A short name: paths of unix sockets are limited to 107 bytes.
        Scratch { folder: tempfile::Builder::new().prefix("bm-").tempdir().unwrap() }
    }

    /// A folder more, of whoever runs in the mount namespace of another.
    pub fn beside(_: &Scratch) -> Scratch {
        Scratch { folder: tempfile::Builder::new().prefix("bm-").tempdir().unwrap() }
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Mounts a file system on a new folder: `bpf` for pins, `tmpfs` with `size=…` for a small disk.
    pub fn mount(&self, name: &str, kind: &str, options: Option<&str>) -> PathBuf {
        let folder = self.join(name);
        std::fs::create_dir_all(&folder).unwrap();
        mount(Some(kind), &folder, Some(kind), MsFlags::empty(), options)
            .unwrap_or_else(|error| panic!("mount {kind}: {error}"));
        folder
    }

    /// A file of the machine with a line more, and without those that begin with `without`.
    pub fn instead(&self, path: &str, without: &str, line: &str) {
        let own = self.join(Path::new(path).file_name().and_then(|it| it.to_str()).unwrap());
        let text = std::fs::read_to_string(path).unwrap();
        let kept: String =
            text.lines().filter(|it| !it.starts_with(without)).map(|it| format!("{it}\n")).collect();
        std::fs::write(&own, format!("{kept}{line}\n")).unwrap();
        mount(Some(&own), path, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // The folder can only be removed when nothing is mounted below it. The mounts are those of this thread:
        // /proc/self would show those of the process's first thread, which has another namespace.
        let table = std::fs::read_to_string("/proc/thread-self/mounts").unwrap_or_default();
        for point in table.lines().rev().filter_map(|l| l.split(' ').nth(1)) {
            if Path::new(point).starts_with(self.folder.path()) {
                let _ = nix::mount::umount2(point, nix::mount::MntFlags::MNT_DETACH);
            }
        }
    }
}
