//! `cargo xtask dist`: what is handed out, into `target/dist`: a Debian package, a tarball with an install script,
//! and their checksums. Built twice from one commit they are the same bytes.

mod cross;
mod deb;
mod licences;
mod tarball;
mod tree;

use crate::paths;
use crate::shell::{clean, find_program, output, sha256_bytes, succeed};
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

#[derive(clap::Args)]
pub struct Args {
    /// Pack a debug build: quick, for trying out
    #[arg(long)]
    pub debug: bool,
    /// The package's revision: which build of this version it is
    #[arg(long, value_name = "N", default_value = "1")]
    pub revision: String,
    /// Also for arm64, by a cross compiler
    #[arg(long)]
    pub arm64: bool,
}

/// A kind of machine, in the words of those who name it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Machine {
    /// Debian's word.
    pub debian: &'static str,
    /// The compiler's target.
    pub target: &'static str,
}

const AMD64: Machine = Machine { debian: "amd64", target: "x86_64-unknown-linux-gnu" };
const ARM64: Machine = Machine { debian: "arm64", target: "aarch64-unknown-linux-gnu" };

impl Machine {
    /// This one.
    ///
    /// # Errors
    /// Neither of the two that packages are made for.
    pub fn here() -> Result<Machine> {
        match std::env::consts::ARCH {
            "x86_64" => Ok(AMD64),
            "aarch64" => Ok(ARM64),
            other => bail!("packages are made for x86-64 and arm64, and this is {other}"),
        }
    }
}

/// What a package is made of.
pub struct Wanted<'a> {
    /// Where it goes.
    pub folder: PathBuf,
    pub machine: Machine,
    /// What goes into it.
    pub program: &'a Path,
    /// The same for this machine, which is asked for manual pages and completions.
    pub native: &'a Path,
    pub version: &'a str,
    pub revision: &'a str,
    /// The shape of its counters in the kernel.
    pub abi: u32,
    /// Small rather than quick to make.
    pub compress: bool,
    /// Seconds since 1970 of everything in it.
    pub epoch: u64,
}

pub fn run(args: &Args) -> Result<()> {
    let machine = Machine::here()?;
    // What was made before is not of this commit.
    match fs::remove_dir_all(folder()) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    let native = match args.debug {
        true => debug_build()?,
        false => remapped_build(false, None)?,
    };
    let mut made = pack(&wanted(folder(), machine, &native, &native, args)?)?;
    if args.arm64 && machine != ARM64 {
        let program = remapped_build(args.debug, Some(ARM64))?;
        made.extend(pack(&wanted(folder(), ARM64, &program, &native, args)?)?);
    }
    checksums(&made)?;
    check(&made)?;
    for file in &made {
        println!("{}", file.display());
    }
    Ok(())
}

fn wanted<'a>(
    folder: PathBuf,
    machine: Machine,
    program: &'a Path,
    native: &'a Path,
    args: &'a Args,
) -> Result<Wanted<'a>> {
    Ok(Wanted {
        folder,
        machine,
        program,
        native,
        version: env!("CARGO_PKG_VERSION"),
        revision: &args.revision,
        abi: deb::abi()?,
        compress: !args.debug,
        epoch: epoch()?,
    })
}

/// Where everything goes that is handed out, and nothing else.
fn folder() -> PathBuf {
    paths::target().join("dist")
}

/// Where packages of the debug build go that tests install: whoever takes everything from [`folder`] must not get
/// one of these.
fn folder_of_tests() -> PathBuf {
    paths::target().join("test-packages")
}

/// Makes the package and the tarball.
///
/// # Errors
/// A tool is missing, or the program does not say what it is asked.
pub fn pack(wanted: &Wanted) -> Result<Vec<PathBuf>> {
    fs::create_dir_all(&wanted.folder)?;
    let tree = tree::stage(wanted)?;
    let made = vec![deb::build(&tree, wanted)?, tarball::build(&tree, wanted)?];
    fs::remove_dir_all(&tree)?;
    Ok(made)
}

/// Only the package, of the debug build: what tests install. `abi`: another one that it says to have.
///
/// # Errors
/// As [`pack`].
pub fn package_for_tests(revision: &str, abi: Option<u32>) -> Result<PathBuf> {
    let program = debug_build()?;
    let args = Args { debug: true, revision: revision.to_owned(), arm64: false };
    let mut wanted = wanted(folder_of_tests(), Machine::here()?, &program, &program, &args)?;
    wanted.abi = abi.unwrap_or(wanted.abi);
    fs::create_dir_all(&wanted.folder)?;
    let tree = tree::stage(&wanted)?;
    let made = deb::build(&tree, &wanted)?;
    fs::remove_dir_all(&tree)?;
    Ok(made)
}

/// The tarball of the debug build.
///
/// # Errors
/// As [`pack`].
pub fn tarball_for_tests() -> Result<PathBuf> {
    let program = debug_build()?;
    let args = Args { debug: true, revision: "1".to_owned(), arm64: false };
    let wanted = wanted(folder_of_tests(), Machine::here()?, &program, &program, &args)?;
    fs::create_dir_all(&wanted.folder)?;
    let tree = tree::stage(&wanted)?;
    let made = tarball::build(&tree, &wanted)?;
    fs::remove_dir_all(&tree)?;
    Ok(made)
}

/// The time of the commit that is packed: `SOURCE_DATE_EPOCH`, as other tools take it too.
fn epoch() -> Result<u64> {
    if let Ok(said) = std::env::var("SOURCE_DATE_EPOCH") {
        return said.parse().context("SOURCE_DATE_EPOCH is no number of seconds");
    }
    let mut git = Command::new("git");
    git.current_dir(paths::root()).args(["log", "-1", "--format=%ct"]);
    let text = output(&mut git).context("git does not tell when the commit was: set SOURCE_DATE_EPOCH")?;
    text.parse().context("git log --format=%ct")
}

fn debug_build() -> Result<PathBuf> {
    succeed(crate::shell::cargo().args(["build", "--locked", "-p", "boxmeter"]))?;
    Ok(paths::program(false))
}

/// The program, without names of this machine's folders in it.
fn remapped_build(debug: bool, cross: Option<Machine>) -> Result<PathBuf> {
    let (profile, place) = if debug { ("dev", "debug") } else { ("dist", "dist") };
    let mut cargo = crate::shell::cargo();
    cargo.args(["build", "--locked", "--profile", profile, "-p", "boxmeter"]);
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")));
    let mut flags = format!("--remap-path-prefix={}=/boxmeter", paths::root().display());
    if let Some(home) = home {
        flags.push_str(&format!(" --remap-path-prefix={}=/cargo", home.display()));
    }
    let mut program = paths::target();
    if let Some(machine) = cross {
        flags.push_str(&cross::prepare(machine, &mut cargo)?);
        program.push(machine.target);
    }
    succeed(cargo.env("RUSTFLAGS", flags))?;
    Ok(program.join(place).join("boxmeter"))
}

/// The sums of what was made, in the form that `sha256sum -c` reads.
fn checksums(made: &[PathBuf]) -> Result<()> {
    let mut text = String::new();
    for file in made {
        let name = file.file_name().context("a file without a name")?.to_string_lossy();
        text.push_str(&format!("{}  {name}\n", sha256_bytes(&fs::read(file)?)));
    }
    Ok(fs::write(folder().join("SHA256SUMS"), text)?)
}

/// What Debian's checker says, where the machine has it: errors fail.
pub fn check(made: &[PathBuf]) -> Result<()> {
    if find_program(&["lintian"]).is_none() {
        eprintln!("xtask: lintian is not installed, the package is not checked by it");
        return Ok(());
    }
    let packages = made.iter().filter(|file| file.extension().is_some_and(|it| it == "deb"));
    succeed(clean("lintian").args(["--fail-on", "error", "--allow-root"]).args(packages))
}
