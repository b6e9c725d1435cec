//! Programs of Python that tests use: schemathesis, which asks an API everything that its OpenAPI document
//! allows, and aiosmtpd, a mail server. Owns where they are: each has an environment of its own with the exact
//! versions of its list.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result};

use crate::{
    paths,
    shell::{clean, succeed},
};

/// Written last, so that only what was installed to its end is taken for installed.
const LIST: &str = "requirements.txt";

/// Programs, and the folder of tests that has the list.
const PROGRAMS: [(&str, &str); 2] = [("schemathesis", "tests/panel"), ("aiosmtpd", "tests/notify")];

fn folder(name: &str) -> PathBuf {
    paths::tools().join(name)
}

/// # Errors
/// No network, or no Python with `venv`.
pub fn install_missing() -> Result<()> {
    PROGRAMS.iter().try_for_each(|(name, tests)| install(name, tests))
}

fn install(name: &str, tests: &str) -> Result<()> {
    let (wanted, folder) = (paths::root().join(tests).join(LIST), folder(name));
    let list = fs::read(&wanted).with_context(|| wanted.display().to_string())?;
    if fs::read(folder.join(LIST)).is_ok_and(|found| found == list) {
        return Ok(());
    }
    eprintln!("xtask: installing {name} (PyPI)");
    let _ = fs::remove_dir_all(&folder);
    succeed(clean("python3").args(["-m", "venv"]).arg(&folder))
        .context("on Debian, as root: apt-get install python3-venv")?;
    let mut pip = clean(folder.join("bin/pip"));
    pip.args(["--disable-pip-version-check", "install", "-q", "--only-binary", ":all:", "-r"]).arg(&wanted);
    succeed(&mut pip)
        .with_context(|| format!("{name} could not be installed by pip; without network it cannot be"))?;
    fs::write(folder.join(LIST), list)?;
    Ok(())
}
