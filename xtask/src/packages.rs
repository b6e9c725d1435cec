//! Debian packages. Owns which are needed for what, and installs them only when they are missing,
//! only as root and only on Debian or a derivative.

use crate::shell::{clean, find_program, is_root, succeed};
use anyhow::{Result, bail};
use std::path::Path;

/// A package is needed when none of its marks is on the machine; marks make the check quick and right on
/// machines which have the thing from elsewhere.
pub struct Package {
    pub name: &'static str,
    marks: &'static [&'static str],
}

/// What building and testing need besides the compiler for the kernel programs.
pub const BASE: &[Package] = &[
    Package { name: "gcc", marks: &["cc"] },
    Package { name: "libc6-dev", marks: &["/usr/include/stdio.h"] },
    Package { name: "iproute2", marks: &["ip"] },
    Package { name: "curl", marks: &["curl"] },
    Package { name: "python3", marks: &["python3"] },
    Package { name: "python3-venv", marks: &["pip", "pip3", "/usr/share/doc/python3-venv"] },
    Package { name: "ca-certificates", marks: &["/etc/ssl/certs/ca-certificates.crt"] },
];

/// What the tests in a browser need: the browser, what drives it, and Chinese letters.
pub const BROWSER: &[Package] = &[
    Package { name: "chromium", marks: &["chromium"] },
    Package { name: "fonts-noto-cjk", marks: &["/usr/share/fonts/opentype/noto/NotoSansCJK-Regular.ttc"] },
    Package { name: "nodejs", marks: &["node"] },
    Package { name: "npm", marks: &["npm"] },
];

/// A rustc with a prebuilt `core` for the kernel's instruction set, and the LLVM library it uses.
pub const BPF: &[&str] = &["rustc-web", "libstd-rust-web-dev-bpf"];

/// Emulates the machine that the older kernel runs on.
pub const QEMU: &str = "qemu-system-x86";

fn present(mark: &str) -> bool {
    if mark.starts_with('/') { Path::new(mark).exists() } else { find_program(&[mark]).is_some() }
}

/// Names of the base packages that are missing here.
pub fn missing_base() -> Vec<&'static str> {
    missing(BASE)
}

/// Names of those packages that are missing here.
pub fn missing(packages: &[Package]) -> Vec<&'static str> {
    packages.iter().filter(|p| !p.marks.iter().any(|m| present(m))).map(|p| p.name).collect()
}

/// Downloads packages and unpacks them into a folder, without installing them.
///
/// # Errors
/// No network, or lists of packages that are too old and may not be brought up to date.
pub fn unpack(names: &[&str], into: &Path) -> Result<()> {
    let fetch = || {
        let mut apt = clean("apt-get");
        // apt's own user cannot write to our folder.
        apt.args(["-q", "-o", "APT::Sandbox::User=root", "download"]).args(names).current_dir(into);
        succeed(&mut apt)
    };
    if fetch().is_err() {
        update()?;
        fetch()?;
    }
    for entry in std::fs::read_dir(into)? {
        let package = entry?.path();
        if package.extension().is_some_and(|it| it == "deb") {
            succeed(clean("dpkg").arg("-x").arg(&package).arg(into))?;
            std::fs::remove_file(package)?;
        }
    }
    Ok(())
}

/// Lists of packages that are too old name files which are gone.
pub fn update() -> Result<()> {
    if !is_root() {
        bail!("the lists of packages are missing or too old. As root: apt-get update");
    }
    succeed(clean("apt-get").args(["-q", "update"]))
}

/// Does this machine have apt?
pub fn is_debian() -> bool {
    Path::new("/etc/debian_version").exists() && find_program(&["apt-get"]).is_some()
}

/// Installs packages.
///
/// # Errors
/// Not root, not Debian, or apt-get failed; the text names what to install by hand.
pub fn install(names: &[&str]) -> Result<()> {
    if names.is_empty() {
        return Ok(());
    }
    let list = names.join(" ");
    if !is_debian() {
        bail!("this machine is no Debian: install the equivalents of these packages by hand: {list}");
    }
    if !is_root() {
        bail!("missing: {list}. As root: apt-get install --no-install-recommends {list}");
    }
    eprintln!("xtask: installing {list}");
    let apt = || {
        let mut command = clean("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive");
        command
    };
    succeed(apt().args(["update", "-q"]))?;
    succeed(apt().args(["install", "-y", "-q", "--no-install-recommends"]).args(names))
}
