//! `cargo xtask setup`: whatever a fresh machine lacks, in one go. Idempotent, and quick when nothing is missing.

use crate::shell::{clean, is_root, output, succeed};
use crate::{browser, packages, python, singbox, toolchain, unpacked};
use anyhow::{Context, Result};
use std::time::Instant;

#[derive(clap::Args)]
pub struct Args {
    /// Do not install or download anything; only say what is missing
    #[arg(long)]
    pub check: bool,
}

/// What is ready after set-up.
pub struct Ready {
    pub toolchain: toolchain::Toolchain,
    pub linker: std::path::PathBuf,
}

pub fn run(args: &Args) -> Result<()> {
    if args.check {
        return check();
    }
    let started = Instant::now();
    let ready = everything()?;
    println!(
        "ready after {:.1} s: rustc {} (LLVM {}, core {:?}), {}, sing-box {}",
        started.elapsed().as_secs_f64(),
        ready.toolchain.version,
        ready.toolchain.llvm,
        ready.toolchain.core,
        ready.linker.display(),
        singbox::NEWEST,
    );
    Ok(())
}

/// Everything that `test` needs.
pub fn everything() -> Result<Ready> {
    let ready = without_browser()?;
    browser::install_missing()?;
    python::install_missing()?;
    unpacked::install_missing()?;
    Ok(ready)
}

/// What `bench` needs.
pub fn without_browser() -> Result<Ready> {
    packages::install(&packages::missing_base())?;
    components()?;
    let ready = kernel_toolchain()?;
    singbox::install_missing()?;
    singbox::verify()?;
    Ok(ready)
}

/// The compiler and linker for the kernel programs.
pub fn kernel_toolchain() -> Result<Ready> {
    let found = match toolchain::find() {
        Ok(found) => found,
        Err(_) if packages::is_debian() && is_root() && std::env::var_os("BPF_RUSTC").is_none() => {
            packages::install(packages::BPF)?;
            toolchain::find()?
        }
        Err(error) => return Err(error),
    };
    let linker = toolchain::linker(&found)?;
    Ok(Ready { toolchain: found, linker })
}

/// rustup's minimal profile comes without the formatter and the linter.
fn components() -> Result<()> {
    for (component, tool) in [("rustfmt", "fmt"), ("clippy", "clippy")] {
        if output(crate::shell::cargo().args([tool, "--version"])).is_none() {
            succeed(clean("rustup").args(["component", "add", component]))
                .with_context(|| format!("`cargo {tool}` is missing: rustup component add {component}"))?;
        }
    }
    Ok(())
}

fn check() -> Result<()> {
    let mut missing = packages::missing_base();
    missing.extend(packages::missing(packages::BROWSER));
    println!("packages missing: {}", if missing.is_empty() { "none".into() } else { missing.join(" ") });
    let found = toolchain::find()?;
    println!("compiler for the kernel: {} ({})", found.rustc.display(), found.version);
    singbox::verify()
}
