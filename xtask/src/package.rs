//! Tests of the package in a clean Debian: installed, upgraded, downgraded, removed, purged, and the tarball. Nothing
//! is started there; that is tested in a virtual machine (`server`).

use crate::report::Stage;
use crate::shell::{clean, is_root};
use crate::{debian, dist, paths, test};
use anyhow::{Result, bail};
use std::fs;
use std::process::ExitCode;
use std::time::Duration;

/// What the stage is called.
pub const STAGE: &str = "package";
const LIMIT: Duration = Duration::from_secs(10 * 60);
/// Runs inside, and prints as `cargo test` does.
const SCRIPT: &str = include_str!("package/inside.sh");

pub fn run() -> Result<ExitCode> {
    let failed = crate::report::print(&[stage()?], &[]);
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Makes two builds of the package and tries them.
///
/// # Errors
/// The clean Debian or the packages cannot be made.
pub fn stage() -> Result<Stage> {
    if !is_root() {
        bail!("the package is tried in a root of its own, which needs root");
    }
    let root = paths::target().join("vm/clean");
    debian::unpack(&root)?;
    let packages = root.join("packages");
    fs::create_dir_all(&packages)?;
    for (revision, name, abi) in
        [("1", "first.deb", None), ("2", "second.deb", None), ("3", "other.deb", Some(999))]
    {
        let made = dist::package_for_tests(revision, abi)?;
        fs::copy(&made, packages.join(name))?;
        if revision == "1" {
            // Built again it is the same, to the bit.
            let before = fs::read(&made)?;
            let again = dist::package_for_tests(revision, abi)?;
            if fs::read(again)? != before {
                bail!("two builds of one package differ");
            }
            dist::check(&[made])?;
        }
    }
    let tarball = dist::tarball_for_tests()?;
    fs::copy(tarball, packages.join("boxmeter.tar.gz"))?;
    fs::write(packages.join("inside.sh"), SCRIPT)?;
    // Mounts end with the command.
    let mut command = clean("unshare");
    command.args(["--mount", "--propagation", "private", "--kill-child", "--fork", "--pid", "sh", "-c"]);
    command
        .arg("mount -t proc proc \"$0/proc\" && exec chroot \"$0\" /bin/bash /packages/inside.sh")
        .arg(&root);
    command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("LC_ALL", "C");
    let stage = test::run_stage(STAGE, &mut command, LIMIT)?;
    fs::remove_dir_all(&root)?;
    Ok(stage)
}
