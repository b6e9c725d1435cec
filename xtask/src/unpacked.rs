//! Programs of Debian that the tests run beside the agent: Prometheus, which reads what it tells, and V2Ray. Owns where
//! they are: unpacked and not installed, since the packages start services.

use crate::shell::find_program;
use crate::{packages, paths};
use anyhow::{Result, bail};
use std::fs;
use std::path::PathBuf;

/// Each package with the programs that are needed of it.
const PACKAGES: &[(&str, &[&str])] = &[("prometheus", &["promtool", "prometheus"]), ("v2ray", &["v2ray"])];

/// Where a package's programs are if the machine has none; the tests' harness looks there too.
fn folder(package: &str) -> PathBuf {
    paths::tools().join(package)
}

/// Downloads what is not there.
///
/// # Errors
/// No Debian, or no network.
pub fn install_missing() -> Result<()> {
    for (package, programs) in PACKAGES {
        let unpacked = |program: &&str| folder(package).join("usr/bin").join(program).exists();
        if programs.iter().all(|program| find_program(&[program]).is_some() || unpacked(program)) {
            continue;
        }
        if !packages::is_debian() {
            bail!("the tests need {} in the PATH", programs.join(" and "));
        }
        eprintln!("xtask: downloading {package}");
        // A name of its own until it is whole, so that an interrupted download is not taken for a finished one.
        let partial = folder(package).with_extension("partial");
        let _ = fs::remove_dir_all(&partial);
        fs::create_dir_all(&partial)?;
        packages::unpack(&[package], &partial)?;
        let _ = fs::remove_dir_all(folder(package));
        fs::rename(&partial, folder(package))?;
    }
    Ok(())
}
