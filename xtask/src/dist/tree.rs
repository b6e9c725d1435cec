//! The files of a package where they will be, with their modes and times. Package and tarball are made of it.

use super::{Wanted, licences};
use crate::paths;
use crate::shell::{clean, succeed};
use anyhow::{Context, Result, ensure};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

const EXECUTABLE: u32 = 0o755;
const READABLE: u32 = 0o644;

/// Files of the repository: where from, where to, mode.
const FILES: &[(&str, &str, u32)] = &[
    ("dist/systemd/boxmeter.service", "lib/systemd/system/boxmeter.service", READABLE),
    ("dist/systemd/boxmeter-panel.service", "lib/systemd/system/boxmeter-panel.service", READABLE),
    ("dist/debian/sysusers.conf", "usr/lib/sysusers.d/boxmeter.conf", READABLE),
    // There may be passwords in it.
    ("dist/config.toml", "etc/boxmeter/config.toml", 0o640),
    ("dist/prometheus/boxmeter.rules.yml", "usr/share/doc/boxmeter/examples/boxmeter.rules.yml", READABLE),
    ("dist/grafana/boxmeter.json", "usr/share/doc/boxmeter/examples/grafana.json", READABLE),
];

/// Where completions are looked for.
const COMPLETIONS: &[(&str, &str)] = &[
    ("bash", "usr/share/bash-completion/completions/boxmeter"),
    ("zsh", "usr/share/zsh/vendor-completions/_boxmeter"),
    ("fish", "usr/share/fish/vendor_completions.d/boxmeter.fish"),
];

const DOC: &str = "usr/share/doc/boxmeter";
const MAN: &str = "usr/share/man/man1";

/// Puts everything into a folder, which is removed by whoever asked.
///
/// # Errors
/// A file is missing, or the program does not print what it should.
pub fn stage(wanted: &Wanted) -> Result<PathBuf> {
    let root = wanted.folder.join(format!("tree-{}", wanted.machine.debian));
    let _ = fs::remove_dir_all(&root);
    fs::create_dir_all(&root)?;
    program(&root, wanted)?;
    for (from, to, mode) in FILES {
        let text = fs::read(paths::root().join(from)).with_context(|| (*from).to_owned())?;
        write(&root.join(to), &text, *mode)?;
    }
    for (shell, to) in COMPLETIONS {
        write(&root.join(to), &said(wanted.native, &["completions", shell])?, READABLE)?;
    }
    let man = root.join(MAN);
    fs::create_dir_all(&man)?;
    said(wanted.native, &["man", "--dir", &man.display().to_string()])?;
    documents(&root)?;
    gzip_all(&man)?;
    for name in ["CHANGELOG.md", "third-party.txt"] {
        compress(&root.join(DOC).join(name))?;
    }
    fs::rename(root.join(DOC).join("CHANGELOG.md.gz"), root.join(DOC).join("changelog.gz"))?;
    settle(&root, wanted.epoch)?;
    Ok(root)
}

/// The program, without debug information: that of a debug build is ten times as large.
fn program(root: &Path, wanted: &Wanted) -> Result<()> {
    let to = root.join("usr/bin/boxmeter");
    fs::create_dir_all(root.join("usr/bin"))?;
    let strip = if wanted.program == wanted.native { "strip" } else { "aarch64-linux-gnu-strip" };
    succeed(
        clean(strip)
            .args(["--remove-section=.comment", "--remove-section=.note", "-o"])
            .arg(&to)
            .arg(wanted.program),
    )?;
    fs::set_permissions(&to, fs::Permissions::from_mode(EXECUTABLE))?;
    Ok(())
}

fn documents(root: &Path) -> Result<()> {
    let repository = paths::root();
    let doc = root.join(DOC);
    let mut names: Vec<PathBuf> =
        fs::read_dir(repository.join("docs"))?.flatten().map(|e| e.path()).collect();
    names.retain(|path| path.extension().is_some_and(|it| it == "md"));
    names.extend(["README.md", "README.zh-CN.md", "CHANGELOG.md"].map(|name| repository.join(name)));
    for path in names {
        let name = path.file_name().context("a document without a name")?;
        write(&doc.join(name), &fs::read(&path)?, READABLE)?;
    }
    let copyright = fs::read(repository.join("dist/debian/copyright"))?;
    write(&doc.join("copyright"), &copyright, READABLE)?;
    write(&doc.join("third-party.txt"), licences::of_dependencies()?.as_bytes(), READABLE)
}

/// What the program prints, in English whatever the machine speaks.
fn said(program: &Path, words: &[&str]) -> Result<Vec<u8>> {
    let output = clean(program).args(["--lang", "en"]).args(words).output()?;
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{} {}: {errors}", program.display(), words.join(" "));
    Ok(output.stdout)
}

pub fn write(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    fs::create_dir_all(path.parent().context("a file at /")?)?;
    fs::write(path, content)?;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(mode))?)
}

fn gzip_all(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder)?.flatten() {
        compress(&entry.path())?;
    }
    Ok(())
}

/// Without the name and the time, which differ from one build to the next.
pub fn compress(path: &Path) -> Result<()> {
    succeed(clean("gzip").args(["-9", "-n", "-f"]).arg(path))
}

/// One time for everything, modes that do not depend on who builds.
pub fn settle(root: &Path, epoch: u64) -> Result<()> {
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(epoch);
    for entry in fs::read_dir(root)?.flatten() {
        let path = entry.path();
        if path.is_dir() {
            settle(&path, epoch)?;
        } else {
            // Those that programs made have whatever mode these chose.
            let mode = fs::metadata(&path)?.permissions().mode() & 0o777;
            let mode = if mode == 0o640 || mode & 0o111 != 0 { mode } else { READABLE };
            fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
            fs::File::options().append(true).open(&path)?.set_modified(time)?;
        }
    }
    fs::set_permissions(root, fs::Permissions::from_mode(EXECUTABLE))?;
    Ok(fs::File::open(root)?.set_modified(time)?)
}
