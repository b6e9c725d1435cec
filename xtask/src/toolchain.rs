//! The compiler and the linker for the kernel programs. Owns where they are looked for and in which order;
//! builds the linker once below `target/tools` and changes nothing else on the machine.

use crate::paths;
use crate::shell::{clean, output};
use anyhow::{Context, Result, bail};
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// The version that is built; another one may write another object.
const LINKER_VERSION: &str = "0.13.0";
/// The LLVM majors which that version of the linker knows; compiler and linker must share one.
const LINKER_LLVM: &[u32] = &[21, 22, 23];
/// The target the kernel programs are compiled for.
pub const TARGET: &str = "bpfel-unknown-none";

/// Where `core` for the kernel's instruction set comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Core {
    /// The compiler has it.
    Prebuilt,
    /// It is built from rust-src with `-Z build-std`.
    BuildStd,
}

/// A compiler that can build the kernel programs.
#[derive(Debug)]
pub struct Toolchain {
    pub rustc: PathBuf,
    pub sysroot: PathBuf,
    pub core: Core,
    /// As `rustc -vV` says it, for example `1.96.0`.
    pub version: String,
    /// LLVM's full version, for example `22.1.8`.
    pub llvm: String,
    pub llvm_major: u32,
}

fn probe(rustc: &Path, accept_source: bool) -> Result<Toolchain, String> {
    let sysroot = output(clean(rustc).args(["--print", "sysroot"])).ok_or("does not run")?;
    let sysroot = PathBuf::from(sysroot);
    let verbose = output(clean(rustc).arg("-vV")).ok_or("rustc -vV fails")?;
    let field = |key: &str| verbose.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
    let version = field("release:").ok_or("rustc -vV has no release")?.to_string();
    let llvm = field("LLVM version:").ok_or("rustc -vV has no LLVM version")?.to_string();
    let major = llvm.split('.').next().and_then(|m| m.parse().ok());
    let llvm_major = major.ok_or_else(|| format!("LLVM version {llvm} has no number"))?;
    let library = sysroot.join("lib/rustlib").join(TARGET).join("lib");
    let prebuilt = fs::read_dir(library).is_ok_and(|entries| {
        entries.flatten().any(|e| e.file_name().to_string_lossy().starts_with("libcore-"))
    });
    let core = if prebuilt {
        Core::Prebuilt
    } else if accept_source && sysroot.join("lib/rustlib/src/rust/library/core").exists() {
        Core::BuildStd
    } else {
        let source = if accept_source { " and no rust-src" } else { "" };
        return Err(format!("rustc {version}: no core for {TARGET}{source}"));
    };
    if !LINKER_LLVM.contains(&llvm_major) {
        return Err(format!("rustc {version}: bpf-linker {LINKER_VERSION} does not know LLVM {llvm_major}"));
    }
    Ok(Toolchain { rustc: rustc.into(), sysroot, core, version, llvm, llvm_major })
}

fn candidates() -> Vec<PathBuf> {
    if let Some(chosen) = std::env::var_os("BPF_RUSTC") {
        return vec![chosen.into()];
    }
    // Debian's rustc-web by its full name: the rustup proxy comes first in the PATH.
    let mut found = vec![PathBuf::from("/usr/bin/rustc")];
    for toolchain in ["nightly", "stable"] {
        let which = output(clean("rustup").args(["which", "--toolchain", toolchain, "rustc"]));
        found.extend(which.map(PathBuf::from));
    }
    found
}

/// Finds a compiler: `$BPF_RUSTC`, Debian's, then rustup's; first one with a prebuilt `core`, else rust-src.
///
/// # Errors
/// None can build for the kernel; the text has both remedies and what was tried.
pub fn find() -> Result<Toolchain> {
    let mut tried = Vec::new();
    for accept_source in [false, true] {
        for rustc in candidates() {
            match probe(&rustc, accept_source) {
                Ok(toolchain) => return Ok(toolchain),
                Err(why) if accept_source => tried.push(format!("{}: {why}", rustc.display())),
                Err(_) => {}
            }
        }
    }
    bail!(
        "no compiler for {TARGET} was found. Either\n  Debian 12, as root: apt-get install \
         --no-install-recommends {}\n  or rustup: rustup toolchain install nightly --component rust-src\n  \
         or set BPF_RUSTC to a rustc that has one.\nTried:\n  {}",
        crate::packages::BPF.join(" "),
        tried.join("\n  ")
    )
}

fn llvm_library(toolchain: &Toolchain) -> Result<PathBuf> {
    let start = format!("libLLVM.so.{}", toolchain.llvm_major);
    let arch = std::env::consts::ARCH;
    let folders = [
        toolchain.sysroot.join("lib"),
        toolchain.sysroot.join(format!("lib/{arch}-linux-gnu")),
        PathBuf::from(format!("/usr/lib/{arch}-linux-gnu")),
        PathBuf::from(format!("/usr/lib/llvm-{}/lib", toolchain.llvm_major)),
    ];
    for folder in &folders {
        let Ok(entries) = fs::read_dir(folder) else { continue };
        for entry in entries.flatten() {
            if entry.file_name().to_string_lossy().starts_with(&start) {
                return entry.path().canonicalize().context("the LLVM library cannot be followed");
            }
        }
    }
    bail!("no {start}* beside {}: install the LLVM library of that compiler", toolchain.rustc.display())
}

/// The linker for this compiler, built once into `target/tools`; `$BPF_LINKER` overrides it.
///
/// # Errors
/// The LLVM library is missing or the build of the linker failed.
pub fn linker(toolchain: &Toolchain) -> Result<PathBuf> {
    if let Some(chosen) = std::env::var_os("BPF_LINKER") {
        return Ok(chosen.into());
    }
    let folder = paths::tools().join(format!("bpf-linker-{LINKER_VERSION}-llvm{}", toolchain.llvm_major));
    let binary = folder.join("bin/bpf-linker");
    let works = || output(clean(&binary).arg("--version")).is_some_and(|v| v.contains(LINKER_VERSION));
    if works() {
        return Ok(binary);
    }
    // The linker looks for `libLLVM.so` when it is built and for the library's own name when it runs; both
    // resolve in this folder, which becomes its run path. No llvm-dev package is needed.
    let library = llvm_library(toolchain)?;
    let links = folder.join("llvm/lib");
    fs::create_dir_all(&links)?;
    let own_name = library.file_name().context("the LLVM library has no name")?.to_os_string();
    for name in [OsString::from("libLLVM.so"), own_name] {
        let link = links.join(name);
        let _ = fs::remove_file(&link);
        symlink(&library, link)?;
    }
    eprintln!("xtask: building bpf-linker {LINKER_VERSION} against {} (once)", library.display());
    let mut install = clean("cargo");
    install
        .args(["install", "bpf-linker", "--version", LINKER_VERSION, "--locked", "--no-default-features"])
        .args(["--features", &format!("llvm-{}", toolchain.llvm_major), "--root"])
        .arg(&folder)
        .env("LLVM_PREFIX", folder.join("llvm"))
        .env("CARGO_PROFILE_RELEASE_DEBUG", "0");
    crate::shell::succeed(&mut install)?;
    if !works() {
        bail!("{} was built but does not run", binary.display());
    }
    Ok(binary)
}
