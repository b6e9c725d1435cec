//! The kernel and a shell for the machine, from Debian's packages. Downloads them once into `target/vm`.

use super::folder;
use crate::packages::{self, is_debian};
use crate::shell::{clean, output};
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};

/// Always depends on the newest build of the release's kernel.
const META: &str = "linux-image-cloud-amd64";
/// One program that is a shell, mount, insmod and all else that the machine needs.
const SHELL: &str = "busybox-static";
/// The oldest kernel that boxmeter supports.
const FLOOR: &str = "linux-image-6.1.";

pub struct Linux {
    /// What QEMU boots.
    pub image: PathBuf,
    /// A folder with modules somewhere below.
    pub modules: PathBuf,
    pub busybox: PathBuf,
}

/// Downloads what is not there yet.
///
/// # Errors
/// No Debian, no network, or a package without the expected files.
pub fn install() -> Result<Linux> {
    let unpacked = folder().join("linux");
    if !unpacked.exists() {
        // A name of its own until it is whole, so that an interrupted download is not taken for a finished one.
        let partial = folder().join("linux.partial");
        let _ = fs::remove_dir_all(&partial);
        fs::create_dir_all(&partial)?;
        download(&partial)?;
        fs::rename(&partial, &unpacked)?;
    }
    let image = find(&unpacked.join("boot"), |name| name.starts_with("vmlinuz-"))?;
    Ok(Linux { image, modules: unpacked.join("lib/modules"), busybox: unpacked.join("bin/busybox") })
}

fn download(into: &Path) -> Result<()> {
    if !is_debian() {
        bail!("the older kernel comes from Debian's packages: this machine has no apt");
    }
    let kernel = match kernel_package() {
        Some(name) => name,
        None => {
            packages::update()?;
            kernel_package().with_context(|| format!("apt knows no {META}"))?
        }
    };
    if !kernel.starts_with(FLOOR) {
        eprintln!("warning: boxmeter supports kernels from 6.1 on; this Debian brings {kernel}");
    }
    eprintln!("xtask: downloading {kernel} and {SHELL}");
    packages::unpack(&[&kernel, SHELL], into)
}

fn kernel_package() -> Option<String> {
    let text = output(clean("apt-cache").args(["depends", META]))?;
    let name = text.lines().find_map(|line| line.trim().strip_prefix("Depends: linux-image-"))?;
    Some(format!("linux-image-{name}"))
}

/// The file of a folder whose name fits.
fn find(folder: &Path, fits: impl Fn(&str) -> bool) -> Result<PathBuf> {
    let entries = fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    let found = entries.flatten().find(|entry| fits(&entry.file_name().to_string_lossy()));
    found.map(|entry| entry.path()).with_context(|| format!("{} lacks a file", folder.display()))
}
