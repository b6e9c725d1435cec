//! The tarball for systems without dpkg: the same files, and a script that installs them.

use super::{Wanted, tree};
use crate::paths;
use crate::shell::{clean, succeed};
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};

/// Makes the tarball of a tree.
///
/// # Errors
/// tar or gzip fail.
pub fn build(files: &Path, wanted: &Wanted) -> Result<PathBuf> {
    let name = format!("boxmeter-{}-linux-{}", wanted.version, wanted.machine.debian);
    let place = wanted.folder.join("tarball");
    let _ = fs::remove_dir_all(&place);
    let root = place.join(&name);
    fs::create_dir_all(&root)?;
    succeed(clean("cp").arg("-a").arg(files).arg(root.join("files")))?;
    let repository = paths::root();
    tree::write(&root.join("install.sh"), &fs::read(repository.join("dist/tarball/install.sh"))?, 0o755)?;
    for name in ["LICENSE-APACHE", "LICENSE-MIT", "README.md"] {
        tree::write(&root.join(name), &fs::read(repository.join(name))?, 0o644)?;
    }
    tree::settle(&root, wanted.epoch)?;
    let tar = wanted.folder.join(format!("{name}.tar"));
    let mut command = clean("tar");
    command.arg("--create").arg("--file").arg(&tar).arg("--directory").arg(&place);
    command.args(["--sort=name", "--format=gnu", "--owner=0", "--group=0", "--numeric-owner"]);
    succeed(command.arg(format!("--mtime=@{}", wanted.epoch)).arg(&name))?;
    fs::remove_dir_all(&place)?;
    let file = wanted.folder.join(format!("{name}.tar.gz"));
    succeed(clean("gzip").args(["-n", "-f", if wanted.compress { "-9" } else { "-1" }]).arg(&tar))?;
    ensure!(file.exists(), "gzip made no {}", file.display());
    fs::metadata(&file).with_context(|| file.display().to_string())?;
    Ok(file)
}
