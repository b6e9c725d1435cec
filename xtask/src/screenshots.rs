//! `cargo xtask screenshots`: pictures of the panel over made-up data, for the documentation.

use crate::shell::{cargo, clean, succeed};
use crate::{browser, paths};
use anyhow::{Context, Result, ensure};
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};

/// A child that ends with this.
struct Ending(Child);

impl Drop for Ending {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Writes `docs/images/*.png`.
///
/// # Errors
/// The build, the browser or the panel failed, or a picture became too large.
pub fn run() -> Result<()> {
    browser::install_missing()?;
    succeed(cargo().args(["build", "-p", "boxmeter", "--locked"]))?;
    let folder = paths::root().join("docs/images");
    std::fs::create_dir_all(&folder)?;
    // As it looks where phones reach it.
    let settings = tempfile::NamedTempFile::new()?;
    std::fs::write(settings.path(), "[panel]\npublic_url = \"https://panel.example.org\"\n")?;
    let mut panel = clean(paths::program(false));
    panel.arg("--config").arg(settings.path());
    panel.args(["--lang", "en", "panel", "--demo", "--listen", "127.0.0.1:0"]);
    let mut panel = Ending(panel.stdout(Stdio::piped()).spawn().context("the panel does not start")?);
    let output = panel.0.stdout.take().context("no output of the panel")?;
    let mut lines = BufReader::new(output).lines();
    let mut line = || lines.next().transpose().map(Option::unwrap_or_default);
    let (address, password) = (line()?, line()?);
    let word = |text: &str| text.rsplit(' ').next().unwrap_or_default().trim_end_matches('/').to_string();
    let (url, password) = (word(&address), word(&password));
    ensure!(url.starts_with("http://"), "the panel said {address:?}");
    succeed(
        clean("node")
            .arg(paths::root().join("tests/browser/screenshots.mjs"))
            .env("BOXMETER_TOOLS", paths::tools())
            .env("FOLDER", &folder)
            .env("PANEL_URL", url)
            .env("PANEL_PASSWORD", password),
    )?;
    println!("written: {}", folder.display());
    Ok(())
}
