//! The browser of the tests: Debian's Chromium, driven by playwright-core, with axe for accessibility. Owns
//! where they are; nothing of it is needed to build or run boxmeter.

use crate::shell::{clean, output, succeed};
use crate::{packages, paths};
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};

/// What a line-up is recognised by: exact versions with checksums.
const LOCK: &str = "package-lock.json";

/// The oldest Node.js that playwright-core runs on.
const NODE_MIN: u32 = 20;

/// Where the scripts of the tests find their libraries.
pub fn folder() -> PathBuf {
    paths::tools().join("browser")
}

/// Installs packages and libraries that are missing.
///
/// # Errors
/// No browser, no network, or a library that is not the one of the lock file.
pub fn install_missing() -> Result<()> {
    packages::install(&packages::missing(packages::BROWSER))?;
    let (source, folder) = (paths::root().join("tests/browser"), folder());
    if is_installed(&source, &folder) {
        return Ok(());
    }
    check_node()?;
    eprintln!("xtask: installing the libraries that drive the browser (npm)");
    fs::create_dir_all(&folder)?;
    // The lock file last: only what was installed to its end is taken for installed.
    let _ = fs::remove_file(folder.join(LOCK));
    fs::copy(source.join("package.json"), folder.join("package.json"))?;
    let partial = folder.join("partial");
    fs::create_dir_all(&partial)?;
    for name in ["package.json", LOCK] {
        fs::copy(source.join(name), partial.join(name))?;
    }
    succeed(
        clean("npm")
            .args(["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"])
            .current_dir(&partial),
    )
    .context("playwright-core and axe-core could not be installed by npm; without network they cannot be")?;
    let _ = fs::remove_dir_all(folder.join("node_modules"));
    fs::rename(partial.join("node_modules"), folder.join("node_modules"))?;
    fs::remove_dir_all(&partial)?;
    fs::copy(source.join(LOCK), folder.join(LOCK))?;
    Ok(())
}

/// playwright-core says so itself, but only when it is used.
fn check_node() -> Result<()> {
    let said = output(clean("node").arg("--version")).unwrap_or_default();
    let major = said.trim_start_matches('v').split('.').next().and_then(|major| major.parse::<u32>().ok());
    if major.is_none_or(|major| major < NODE_MIN) {
        bail!("the tests in a browser need Node.js {NODE_MIN} or newer, and `node --version` says {said:?}");
    }
    Ok(())
}

fn is_installed(source: &Path, folder: &Path) -> bool {
    let same = |name: &str| match (fs::read(source.join(name)), fs::read(folder.join(name))) {
        (Ok(wanted), Ok(found)) => wanted == found,
        _ => false,
    };
    same(LOCK) && folder.join("node_modules/playwright-core").is_dir()
}
