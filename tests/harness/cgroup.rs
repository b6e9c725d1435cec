//! A control group of a test: programs that are attached to it meet only the sockets that were made in it.

use std::fs;
use std::path::{Path, PathBuf};

/// Removed when dropped; whatever ran in it must have ended.
pub struct Cgroup {
    folder: PathBuf,
    /// Where this process was.
    home: PathBuf,
}

impl Cgroup {
    /// Needs root and cgroup v2. The name tells several of one test apart.
    pub fn new(name: &str) -> Cgroup {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let mut fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let mount = fields.find(|field| field[2] == "cgroup2").expect("cgroup v2 is mounted")[1].to_owned();
        let own = fs::read_to_string("/proc/self/cgroup").unwrap();
        let own = own.lines().find_map(|line| line.strip_prefix("0::/")).expect("a place in cgroup v2");
        let folder = Path::new(&mount).join(format!("bm-{name}-{}", std::process::id()));
        fs::create_dir(&folder).unwrap();
        Cgroup { folder, home: Path::new(&mount).join(own) }
    }

    pub fn path(&self) -> &Path {
        &self.folder
    }

    /// Runs `body` with this process inside: what it starts stays there.
    pub fn run<T>(&self, body: impl FnOnce() -> T) -> T {
        let enter = |folder: &Path| fs::write(folder.join("cgroup.procs"), "0").unwrap();
        enter(&self.folder);
        let result = body();
        enter(&self.home);
        result
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.folder);
    }
}
