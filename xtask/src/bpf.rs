//! `cargo xtask bpf`: builds the kernel object that is committed, reproducibly, or compares it with the sources.
//! Owns the compiler flags of the kernel programs and the record of what built the committed object.

use crate::shell::{clean, sha256_bytes, succeed};
use crate::toolchain::{Core, TARGET, Toolchain};
use crate::{elf, paths, setup};
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};

#[derive(clap::Args)]
pub struct Args {
    /// Rebuild beside the committed object and compare; change nothing
    #[arg(long)]
    pub check: bool,
}

/// Stands beside the object. Another compiler or LLVM may write another object from the same sources, so the
/// checksum is only demanded under the recorded ones.
#[derive(Debug, Serialize, Deserialize, PartialEq, Eq)]
struct Record {
    sha256: String,
    rustc: String,
    llvm: String,
}

/// What the comparison found.
pub enum Comparison {
    Same,
    /// The committed object is not what these sources give; tests use the rebuilt one.
    OtherCompiler {
        warning: String,
        rebuilt: PathBuf,
    },
}

pub fn run(args: &Args) -> Result<()> {
    if args.check {
        match check()? {
            Comparison::Same => println!("the committed kernel object is what the sources give"),
            Comparison::OtherCompiler { warning, .. } => println!("warning: {warning}"),
        }
        return Ok(());
    }
    let ready = setup::kernel_toolchain()?;
    let bytes = build(&ready)?;
    let record =
        Record { sha256: sha256_bytes(&bytes), rustc: ready.toolchain.version, llvm: ready.toolchain.llvm };
    fs::write(paths::object(), &bytes)?;
    fs::write(paths::object_record(), serde_json::to_string_pretty(&record)? + "\n")?;
    println!("{} bytes, sha256 {}", bytes.len(), record.sha256);
    Ok(())
}

/// Rebuilds the object and compares it with the committed one.
///
/// # Errors
/// It differs under the very compiler that is recorded, or the record does not fit the object.
pub fn check() -> Result<Comparison> {
    let text = fs::read_to_string(paths::object_record())
        .context("no record beside the kernel object: run `cargo xtask bpf` and commit what it writes")?;
    let record: Record = serde_json::from_str(&text).context("the record of the kernel object is damaged")?;
    let committed = fs::read(paths::object()).context("the kernel object is missing: `cargo xtask bpf`")?;
    if sha256_bytes(&committed) != record.sha256 {
        bail!("the committed kernel object does not have its recorded SHA-256: run `cargo xtask bpf`");
    }
    let ready = setup::kernel_toolchain()?;
    let bytes = build(&ready)?;
    if bytes == committed {
        return Ok(Comparison::Same);
    }
    let tool = &ready.toolchain;
    if (&tool.version, &tool.llvm) == (&record.rustc, &record.llvm) {
        bail!(
            "the committed kernel object is not what the sources give: run `cargo xtask bpf` and commit it"
        );
    }
    let rebuilt = paths::target().join("bpf/boxmeter.bpf.o");
    fs::write(&rebuilt, &bytes)?;
    let warning = format!(
        "the kernel object was built by rustc {} (LLVM {}); rustc {} (LLVM {}) here gives other bytes, \
         so the kernel tests run on the rebuilt one",
        record.rustc, record.llvm, tool.version, tool.llvm
    );
    Ok(Comparison::OtherCompiler { warning, rebuilt })
}

/// Every path of this machine that the compiler could write into the object, by a fixed name.
fn remaps() -> Vec<String> {
    let home = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")));
    let mut flags = vec![format!("--remap-path-prefix={}=/boxmeter", paths::root().display())];
    // The folder below registry/src is named after the registry in use: a mirror has another name.
    let registries = home.and_then(|h| fs::read_dir(h.join("registry/src")).ok());
    for registry in registries.into_iter().flatten().flatten() {
        flags.push(format!("--remap-path-prefix={}=/cargo", registry.path().display()));
    }
    flags
}

fn build(ready: &setup::Ready) -> Result<Vec<u8>> {
    let Toolchain { rustc, core, .. } = &ready.toolchain;
    let target = paths::target().join("bpf");
    let mut flags = vec![
        // No program reads machine registers, so one object serves all machines; the crate only wants a name.
        "--cfg=bpf_target_arch=\"x86_64\"".to_string(),
        // Fetching atomics need v3 (kernel 5.12); the generic processor cannot link them.
        "-Ctarget-cpu=v3".to_string(),
        // BTF is made from debug information; the debug sections themselves are dropped afterwards.
        "-Cdebuginfo=2".to_string(),
        "-Clink-arg=--btf".to_string(),
    ];
    flags.extend(remaps());
    let mut cargo = clean("cargo");
    cargo
        .current_dir(paths::root())
        // A member of the workspace: cargo then names the crates by paths within it, so that symbols do not
        // depend on where the checkout is.
        .args([
            "build",
            "-p",
            "boxmeter-ebpf",
            "--profile",
            "bpf",
            "--locked",
            "--target",
            TARGET,
            "--target-dir",
        ])
        .arg(&target)
        .env("RUSTC", rustc)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &ready.linker)
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
    if *core == Core::BuildStd {
        cargo.args(["-Z", "build-std=core"]);
    }
    succeed(&mut cargo).context("the kernel programs do not build")?;
    let linked = linked_object(&target.join(TARGET).join("bpf"))?;
    elf::without_debug(&fs::read(&linked)?).with_context(|| linked.display().to_string())
}

/// The one program that cargo left: named by the kernel package, without an extension.
fn linked_object(folder: &Path) -> Result<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_file() && path.extension().is_none() && !path.ends_with(".cargo-lock") {
            found.push(path);
        }
    }
    match found.as_slice() {
        [one] => Ok(one.clone()),
        _ => bail!("expected one kernel object in {}, found {}", folder.display(), found.len()),
    }
}
