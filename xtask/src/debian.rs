//! A clean Debian 12 in a file: made once by debootstrap, kept in `target/vm`, unpacked for each test of packages.

use crate::shell::{clean, find_program, is_root, succeed};
use crate::{packages, paths};
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};

const RELEASE: &str = "bookworm";
/// What a server has beside the base, and what the tests use inside.
const INCLUDED: &str = "curl,dbus,iproute2,jq,kmod,procps,systemd,systemd-sysv";

/// The archive; made if it is not there.
///
/// # Errors
/// No Debian, no root, no network.
pub fn archive() -> Result<PathBuf> {
    let folder = paths::target().join("vm");
    let archive = folder.join(format!("debian-{RELEASE}.tar"));
    if archive.exists() {
        return Ok(archive);
    }
    if !packages::is_debian() {
        bail!("a clean Debian is made by debootstrap, and this machine has no apt");
    }
    if !is_root() {
        bail!("debootstrap needs root");
    }
    if find_program(&["debootstrap"]).is_none() {
        packages::install(&["debootstrap"])?;
    }
    fs::create_dir_all(&folder)?;
    let root = folder.join("debian.partial");
    let _ = fs::remove_dir_all(&root);
    eprintln!("xtask: making a clean Debian ({RELEASE}) by debootstrap");
    let mut debootstrap = clean("debootstrap");
    debootstrap.args(["--variant=minbase", &format!("--include={INCLUDED}"), RELEASE]).arg(&root);
    succeed(debootstrap.stdout(std::process::Stdio::null())).context("debootstrap")?;
    // Nothing of the download is needed any more.
    for path in ["var/cache/apt/archives", "var/log"] {
        empty(&root.join(path))?;
    }
    // A name of its own until it is whole.
    let partial = folder.join("debian.tar.partial");
    succeed(clean("tar").arg("-cf").arg(&partial).arg("-C").arg(&root).arg("--numeric-owner").arg("."))?;
    fs::remove_dir_all(&root)?;
    fs::rename(&partial, &archive)?;
    Ok(archive)
}

fn empty(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder)?.flatten() {
        match entry.path().is_dir() {
            true => fs::remove_dir_all(entry.path())?,
            false => fs::remove_file(entry.path())?,
        }
    }
    Ok(())
}

/// Unpacks it into a new folder.
///
/// # Errors
/// As [`archive`].
pub fn unpack(into: &Path) -> Result<()> {
    let archive = archive()?;
    let _ = fs::remove_dir_all(into);
    fs::create_dir_all(into)?;
    succeed(clean("tar").arg("-xf").arg(archive).arg("-C").arg(into).arg("--numeric-owner"))
}
