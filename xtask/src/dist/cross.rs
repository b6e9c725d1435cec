//! What building for another kind of machine needs: a C compiler for SQLite, and a standard library. The compiler's
//! own is taken where rustup has it for the target; else Debian's compiler with Debian's library, unpacked below
//! `target`, so that the machine's set of packages stays as it is.

use super::Machine;
use crate::shell::{clean, find_program, is_root, output, succeed};
use crate::{packages, paths};
use anyhow::{Context, Result, bail, ensure};
use std::fs;
use std::path::PathBuf;
use std::process::Command;

const COMPILER: &str = "aarch64-linux-gnu-gcc";
const PACKAGES: &[&str] = &["gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross"];
/// Debian's compiler and its library are of one version, and only fit each other.
const RUSTC: &str = "/usr/bin/rustc";
const LIBRARY: &str = "libstd-rust-web-dev";

/// Readies `cargo` to build for `machine`, and answers with more flags for the compiler.
///
/// # Errors
/// Something is missing and cannot be installed: the text says what.
pub fn prepare(machine: Machine, cargo: &mut Command) -> Result<String> {
    if find_program(&[COMPILER]).is_none() {
        if !is_root() {
            bail!("{COMPILER} is missing. As root: apt-get install {}", PACKAGES.join(" "));
        }
        packages::install(PACKAGES)?;
    }
    cargo.args(["--target", machine.target]);
    cargo.env("CC_aarch64_unknown_linux_gnu", COMPILER);
    cargo.env("AR_aarch64_unknown_linux_gnu", "aarch64-linux-gnu-ar");
    cargo.env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", COMPILER);
    if !has_library(machine) {
        // Where there is no rustup, or it does not get through, the next way is tried.
        let _ = Command::new("rustup").args(["target", "add", machine.target]).status();
    }
    if has_library(machine) {
        return Ok(String::new());
    }
    let sysroot = sysroot(machine)?;
    cargo.env("RUSTC", RUSTC);
    Ok(format!(" --sysroot={}", sysroot.display()))
}

fn has_library(machine: Machine) -> bool {
    let arguments = ["--print", "target-libdir", "--target", machine.target];
    let Some(folder) = output(Command::new("rustc").args(arguments)) else { return false };
    let mut entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.any(|entry| entry.file_name().to_string_lossy().starts_with("libstd-"))
}

/// A root for Debian's compiler that has both its own library and that of the other machine.
fn sysroot(machine: Machine) -> Result<PathBuf> {
    let version = output(clean("dpkg-query").args(["-W", "-f", "${Version}", "rustc-web"]))
        .filter(|version| !version.is_empty())
        .with_context(|| {
            format!(
                "no standard library for {0}: `rustup target add {0}`, or Debian's: apt-get install rustc-web",
                machine.target
            )
        })?;
    let root = paths::target().join("cross").join(format!("{}-{version}", machine.debian));
    let libraries = root.join("lib/rustlib");
    if !libraries.join(machine.target).exists() {
        let partial = root.with_extension("partial");
        let _ = fs::remove_dir_all(&partial);
        fs::create_dir_all(&partial)?;
        download(machine, &version, &partial)?;
        fs::create_dir_all(&libraries)?;
        let unpacked = partial.join("usr/lib/rustlib").join(machine.target);
        fs::rename(&unpacked, libraries.join(machine.target))
            .with_context(|| format!("{LIBRARY} has no {}", unpacked.display()))?;
        fs::remove_dir_all(&partial)?;
    }
    Ok(root)
}

/// With lists of packages of its own: the machine's know only its own kind.
fn download(machine: Machine, version: &str, into: &std::path::Path) -> Result<()> {
    let state = into.join("apt");
    for folder in ["state/lists/partial", "cache/archives/partial"] {
        fs::create_dir_all(state.join(folder))?;
    }
    let apt = || {
        let mut apt = clean("apt-get");
        apt.current_dir(into).args(["-q", "-o", "APT::Sandbox::User=root"]);
        apt.arg("-o").arg(format!("APT::Architectures::={}", machine.debian));
        apt.arg("-o").arg(format!("Dir::State={}/state", state.display()));
        apt.arg("-o").arg(format!("Dir::Cache={}/cache", state.display()));
        apt.args(["-o", "Dir::State::status=/var/lib/dpkg/status"]);
        apt
    };
    // Sources that have nothing for that machine fail; whether Debian's did not is seen next.
    let _ = apt().arg("update").status();
    let package = format!("{LIBRARY}:{}={version}", machine.debian);
    succeed(apt().arg("download").arg(&package)).with_context(|| format!("Debian has no {package} here"))?;
    let entries = fs::read_dir(into)?.flatten().map(|entry| entry.path());
    let packages: Vec<_> = entries.filter(|path| path.extension().is_some_and(|it| it == "deb")).collect();
    ensure!(!packages.is_empty(), "apt-get ended well and left no package");
    for package in packages {
        succeed(clean("dpkg").arg("-x").arg(package).arg(into))?;
    }
    Ok(())
}
