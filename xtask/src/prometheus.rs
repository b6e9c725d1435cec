//! Debian's Prometheus, which reads what the agent tells in the tests. Owns where it is: unpacked and not installed,
//! since the package starts a service.

use crate::shell::find_program;
use crate::{packages, paths};
use anyhow::{Result, bail};
use std::fs;
use std::path::PathBuf;

const PACKAGE: &str = "prometheus";

/// Where its programs are if the machine has none; the tests' harness looks there too.
fn folder() -> PathBuf {
    paths::tools().join(PACKAGE)
}

/// Downloads it if there is none.
///
/// # Errors
/// No Debian, or no network.
pub fn install_missing() -> Result<()> {
    let both = find_program(&["promtool"]).is_some() && find_program(&[PACKAGE]).is_some();
    if both || folder().join("usr/bin/promtool").exists() {
        return Ok(());
    }
    if !packages::is_debian() {
        bail!("the tests of the metrics need prometheus and promtool in the PATH");
    }
    eprintln!("xtask: downloading {PACKAGE}");
    // A name of its own until it is whole, so that an interrupted download is not taken for a finished one.
    let partial = folder().with_extension("partial");
    let _ = fs::remove_dir_all(&partial);
    fs::create_dir_all(&partial)?;
    packages::unpack(&[PACKAGE], &partial)?;
    fs::rename(&partial, folder())?;
    Ok(())
}
