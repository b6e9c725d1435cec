//! Where things are in the repository and below `target/`. Owns names of folders, reads nothing.

use std::path::{Path, PathBuf};

/// The repository: the folder above this package. Cargo says where that is now; where it was when this was
/// compiled may be another checkout, if its `target` was copied.
pub fn root() -> PathBuf {
    let package = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    let package = Path::new(&package);
    package.parent().expect("the xtask package lies inside the repository").to_path_buf()
}

/// Everything that is built or downloaded; `cargo clean` removes it.
pub fn target() -> PathBuf {
    root().join("target")
}

/// Tools that setup builds or downloads, each in a folder named by its version.
pub fn tools() -> PathBuf {
    target().join("tools")
}

/// The program, as `cargo build` leaves it.
pub fn program(release: bool) -> PathBuf {
    target().join(if release { "release" } else { "debug" }).join("boxmeter")
}

/// The kernel object that is committed and embedded by the agent.
pub fn object() -> PathBuf {
    root().join("agent/src/kernel/boxmeter.bpf.o")
}

/// What built the committed object, and its checksum.
pub fn object_record() -> PathBuf {
    root().join("agent/src/kernel/boxmeter.bpf.json")
}
