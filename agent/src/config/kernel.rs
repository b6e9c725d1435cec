//! `[kernel]`: where the programs live, and what they are not to let pass.

use std::path::PathBuf;

use boxmeter_web::units::parse_size;
use serde::{Deserialize, Serialize};

use super::AutoPath;

/// Smaller connections without a user may be a client that failed to sign in.
const GUARD_MIN: u64 = 4 << 20;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Kernel {
    /// The mount point of cgroup v2, or a cgroup below it.
    pub cgroup: AutoPath,
    pub pins: PathBuf,
    /// A TCP connection that moved so much while nobody tells its user is ended; `off`: none is.
    pub guard: String,
}

impl Default for Kernel {
    fn default() -> Self {
        Kernel {
            cgroup: AutoPath::Auto,
            pins: PathBuf::from("/sys/fs/bpf/boxmeter"),
            guard: "off".to_owned(),
        }
    }
}

impl Kernel {
    /// `None`: off.
    ///
    /// # Errors
    /// For what is no size.
    pub fn guard_bytes(&self) -> Result<Option<u64>, String> {
        parse_size(&self.guard).map_err(|error| error.to_string())
    }

    pub(super) fn check(&self) -> Result<(), (&'static str, String)> {
        let guard = self.guard_bytes();
        let guard = guard
            .map_err(|error| ("kernel.guard", format!("{error}; give a size as \"64MiB\", or \"off\"")))?;
        match guard {
            Some(..GUARD_MIN) => Err(("kernel.guard", "must be at least 4MiB, or \"off\"".to_owned())),
            _ => Ok(()),
        }
    }
}
