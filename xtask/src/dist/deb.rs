//! The Debian package, by `dpkg-deb`: control files from `dist/debian`, filled in.

use super::{Wanted, tree};
use crate::paths;
use crate::shell::{clean, output, succeed};
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};

/// Control files that are taken as they are, with their modes.
const AS_THEY_ARE: &[(&str, u32)] =
    &[("conffiles", 0o644), ("postinst", 0o755), ("prerm", 0o755), ("postrm", 0o755)];

/// Makes the package of a tree.
///
/// # Errors
/// dpkg-deb is missing or refuses.
pub fn build(tree: &Path, wanted: &Wanted) -> Result<PathBuf> {
    let version = format!("{}-{}", wanted.version, wanted.revision);
    let name = format!("boxmeter_{version}_{}.deb", wanted.machine.debian);
    let file = wanted.folder.join(&name);
    let doc = tree.join("usr/share/doc/boxmeter");
    let changelog = doc.join("changelog.Debian");
    tree::write(&changelog, changes(&version, wanted.epoch)?.as_bytes(), 0o644)?;
    tree::compress(&changelog)?;
    tree::write(
        &tree.join("usr/share/lintian/overrides/boxmeter"),
        &source("lintian-overrides")?.into_bytes(),
        0o644,
    )?;
    let debian = tree.join("DEBIAN");
    tree::write(&debian.join("control"), control(tree, wanted, &version)?.as_bytes(), 0o644)?;
    let preinst = source("preinst.in")?.replace("@SCHEMA@", &schema()?.to_string());
    let preinst = preinst.replace("@ABI@", &wanted.abi.to_string());
    tree::write(&debian.join("preinst"), preinst.as_bytes(), 0o755)?;
    for (name, mode) in AS_THEY_ARE {
        tree::write(&debian.join(name), source(name)?.as_bytes(), *mode)?;
    }
    tree::write(&debian.join("md5sums"), sums(tree)?.as_bytes(), 0o644)?;
    tree::settle(tree, wanted.epoch)?;
    let mut command = clean("dpkg-deb");
    command.args(["--root-owner-group", if wanted.compress { "-Zxz" } else { "-Zgzip" }]);
    command.arg(if wanted.compress { "-z9" } else { "-z1" });
    command.env("SOURCE_DATE_EPOCH", wanted.epoch.to_string()).arg("--build").arg(tree).arg(&file);
    succeed(command.stdout(std::process::Stdio::null())).context("dpkg-deb")?;
    for gone in [debian, tree.join("usr/share/lintian")] {
        fs::remove_dir_all(gone)?;
    }
    fs::remove_file(doc.join("changelog.Debian.gz"))?;
    Ok(file)
}

fn source(name: &str) -> Result<String> {
    let path = paths::root().join("dist/debian").join(name);
    fs::read_to_string(&path).with_context(|| path.display().to_string())
}

fn control(tree: &Path, wanted: &Wanted, version: &str) -> Result<String> {
    let kib =
        files(tree)?.iter().map(|path| Ok(fs::metadata(path)?.len().div_ceil(1024))).sum::<Result<u64>>()?;
    Ok(source("control.in")?
        .replace("@VERSION@", version)
        .replace("@ARCH@", wanted.machine.debian)
        .replace("@SIZE@", &kib.to_string())
        .replace("@ABI@", &wanted.abi.to_string())
        .replace("@GLIBC@", &glibc(wanted.program)?))
}

/// The newest version of the C library whose symbols the program uses.
fn glibc(program: &Path) -> Result<String> {
    let text = output(clean("objdump").arg("-p").arg(program)).context("objdump (binutils) does not run")?;
    let versions = text.lines().filter_map(|line| line.split("GLIBC_").nth(1));
    let newest = versions
        .filter_map(|version| {
            let (major, minor) = version.trim().split_once('.')?;
            Some((major.parse::<u32>().ok()?, minor.split('.').next()?.parse::<u32>().ok()?))
        })
        .max();
    let (major, minor) = newest.context("the program names no version of the C library")?;
    Ok(format!("{major}.{minor}"))
}

/// What the program writes: an older package must not take the place of a newer one's ledger.
fn schema() -> Result<u32> {
    constant("agent/src/ledger/schema.rs", "const SCHEMA: i64 = ")
}

/// The shape of the counters in the kernel.
pub fn abi() -> Result<u32> {
    constant("agent-common/src/lib.rs", "pub const ABI_VERSION: u32 = ")
}

fn constant(file: &str, declared: &str) -> Result<u32> {
    let path = paths::root().join(file);
    let text = fs::read_to_string(&path)?;
    let value = text.lines().find_map(|line| line.split(declared).nth(1)?.strip_suffix(';'));
    let value = value.with_context(|| format!("{} has no `{declared}`", path.display()))?;
    Ok(value.parse()?)
}

fn changes(version: &str, epoch: u64) -> Result<String> {
    let date = output(clean("date").args(["-u", "-R", "-d", &format!("@{epoch}")])).context("date")?;
    let author = "boxmeter authors <boxmeter@localhost.localdomain>";
    Ok(format!(
        "boxmeter ({version}) unstable; urgency=medium\n\n  * What changed is in changelog.gz.\n\n -- {author}  {date}\n"
    ))
}

/// Every file of the tree but dpkg's own, sorted.
fn files(tree: &Path) -> Result<Vec<PathBuf>> {
    let (mut found, mut folders) = (Vec::new(), vec![tree.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)?.flatten() {
            let path = entry.path();
            match path.is_dir() {
                true if path.ends_with("DEBIAN") => {}
                true => folders.push(path),
                false => found.push(path),
            }
        }
    }
    found.sort();
    Ok(found)
}

/// dpkg's list, by which `dpkg --verify` finds files that were changed.
fn sums(tree: &Path) -> Result<String> {
    let files = files(tree)?;
    let names = files.iter().filter_map(|path| path.strip_prefix(tree).ok());
    let names: Vec<_> = names.filter(|name| !name.starts_with("etc")).collect();
    let text = output(clean("md5sum").current_dir(tree).args(&names)).context("md5sum")?;
    ensure!(text.lines().count() == names.len(), "md5sum did not read every file");
    Ok(format!("{text}\n"))
}
