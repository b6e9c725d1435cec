//! schemathesis, which asks an API everything that its OpenAPI document allows. Owns where it is: an
//! environment of its own with the exact versions of `tests/panel/requirements.txt`.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result};

use crate::{
    paths,
    shell::{clean, succeed},
};

/// Written last, so that only what was installed to its end is taken for installed.
const LIST: &str = "requirements.txt";

fn folder() -> PathBuf {
    paths::tools().join("schemathesis")
}

/// # Errors
/// No network, or no Python with `venv`.
pub fn install_missing() -> Result<()> {
    let (wanted, folder) = (paths::root().join("tests/panel").join(LIST), folder());
    let list = fs::read(&wanted).with_context(|| wanted.display().to_string())?;
    if fs::read(folder.join(LIST)).is_ok_and(|found| found == list) {
        return Ok(());
    }
    eprintln!("xtask: installing schemathesis (PyPI)");
    let _ = fs::remove_dir_all(&folder);
    succeed(clean("python3").args(["-m", "venv"]).arg(&folder))
        .context("on Debian, as root: apt-get install python3-venv")?;
    let mut pip = clean(folder.join("bin/pip"));
    pip.args(["--disable-pip-version-check", "install", "-q", "--only-binary", ":all:", "-r"]).arg(&wanted);
    succeed(&mut pip).context("schemathesis could not be installed by pip; without network it cannot be")?;
    fs::write(folder.join(LIST), list)?;
    Ok(())
}
