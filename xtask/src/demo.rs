//! The demonstration: a real sing-box with two users on loopback, real clients, and beside them the agent and
//! the panel.
//! Owns everything below `target/demo` and removes it at the end: processes, kernel programs, mount.

mod config;
mod traffic;

use crate::paths;
use anyhow::{Context, Result, bail};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigHandler, Signal, kill, signal};
use std::fs::{self, File};
use std::io::IsTerminal;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// A part that is not up by then will not come up.
const START_LIMIT: Duration = Duration::from_secs(20);
/// The ledger commits once a second: two ticks show everything.
const SETTLE: Duration = Duration::from_secs(2);

static STOP: AtomicBool = AtomicBool::new(false);

extern "C" fn on_stop(_: nix::libc::c_int) {
    STOP.store(true, Ordering::Relaxed);
}

/// A program of the demonstration; ended when it goes out of scope.
struct Part {
    name: &'static str,
    log: PathBuf,
    child: Child,
}

impl Part {
    fn start(name: &'static str, folder: &Path, command: &mut Command) -> Result<Part> {
        let log = folder.join(format!("{name}.log"));
        let file = File::create(&log)?;
        // A group of its own: Ctrl-C reaches us only, and we end the parts in the right order.
        command.stdout(file.try_clone()?).stderr(file).process_group(0);
        let child = command.spawn().with_context(|| format!("{name} does not start"))?;
        Ok(Part { name, log, child })
    }

    fn wait_until(&mut self, what: &str, mut ready: impl FnMut() -> bool) -> Result<()> {
        let deadline = Instant::now() + START_LIMIT;
        while !ready() {
            if let Some(status) = self.child.try_wait()? {
                let said = fs::read_to_string(&self.log).unwrap_or_default();
                bail!("{} ended with {status}:\n{}", self.name, said.trim());
            }
            if Instant::now() > deadline {
                let said = fs::read_to_string(&self.log).unwrap_or_default();
                bail!("{}: {what} not within {} s:\n{said}", self.name, START_LIMIT.as_secs());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let _ = kill(nix::unistd::Pid::from_raw(self.child.id().cast_signed()), Signal::SIGTERM);
        let deadline = Instant::now() + Duration::from_secs(5);
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                let _ = self.child.kill();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// The agent's command line with the demonstration's own paths.
struct Agent<'a> {
    program: &'a Path,
    config: PathBuf,
}

impl Agent<'_> {
    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(self.program);
        command.arg("--config").arg(&self.config).args(words);
        command
    }

    fn show(&self, words: &[&str]) -> Result<()> {
        println!("\n$ boxmeter {}", words.join(" "));
        let status = self.command(words).status()?;
        if !status.success() {
            bail!("boxmeter {} failed: {status}", words.join(" "));
        }
        Ok(())
    }

    /// Is the word in the answer?
    fn says(&self, words: &[&str], word: &str) -> bool {
        let output = self.command(&[&["--json"], words].concat()).output();
        output.is_ok_and(|o| String::from_utf8_lossy(&o.stdout).contains(&format!("\"{word}\"")))
    }

    fn ready(&self) -> bool {
        let output = self.command(&["--json", "status"]).output();
        output.is_ok_and(|o| o.status.success())
    }
}

/// Shows the main job with two users; ends after `seconds`, by Ctrl-C, or at once without a terminal.
pub fn run(program: &Path, seconds: Option<u64>) -> Result<()> {
    let folder = paths::target().join("demo");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(folder.join("bpf"))?;
    private_bpffs(&folder.join("bpf"))?;
    // SAFETY: the handler only stores to an atomic.
    unsafe {
        signal(Signal::SIGINT, SigHandler::Handler(on_stop))?;
        signal(Signal::SIGTERM, SigHandler::Handler(on_stop))?;
    }
    let ports = config::Ports::free()?;
    let plan = config::Plan::write(&folder, &ports)?;
    let sing_box = crate::singbox::binary(crate::singbox::NEWEST);
    let mut server =
        Part::start("server", &folder, Command::new(&sing_box).arg("run").arg("-c").arg(&plan.server))?;
    server.wait_until("the trojan port", || TcpStream::connect(ports.loopback(ports.trojan)).is_ok())?;
    let agent = Agent { program, config: plan.agent };
    let mut running = Part::start("agent", &folder, &mut agent.command(&["run"]))?;
    running.wait_until("`boxmeter status`", || agent.ready())?;
    let shown = Part::start("panel", &folder, &mut agent.command(&panel_words())).and_then(|mut panel| {
        panel.wait_until("its address", || panel_says(&folder).is_some())?;
        show(&agent, &sing_box, &plan.client, &folder, &ports, seconds)
    });
    // The agent ends before its programs are removed, even when something above failed: nothing of a
    // demonstration stays in the kernel.
    drop(running);
    let detached = agent.command(&["detach", "--yes"]).output().context("detach does not start")?;
    shown?;
    if !detached.status.success() {
        bail!("boxmeter detach failed: {}", String::from_utf8_lossy(&detached.stderr).trim());
    }
    println!("The demonstration has ended; its kernel programs are removed.");
    Ok(())
}

/// The pins live in a BPF file system of our own, in a mount namespace of our own: it ends with this process.
fn private_bpffs(folder: &Path) -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).context("no mount namespace")?;
    let nothing = None::<&str>;
    mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing).context("private mounts")?;
    mount(Some("bpf"), folder, Some("bpf"), MsFlags::empty(), nothing)
        .context("this kernel or container does not allow a BPF file system; boxmeter cannot run here")
}

fn show(
    agent: &Agent<'_>,
    sing_box: &Path,
    client: &Path,
    folder: &Path,
    ports: &config::Ports,
    seconds: Option<u64>,
) -> Result<()> {
    let mut clients = Part::start("client", folder, Command::new(sing_box).arg("run").arg("-c").arg(client))?;
    for (_, port) in ports.clients() {
        clients.wait_until("a client's port", || TcpStream::connect(ports.loopback(port)).is_ok())?;
    }
    println!("alice and bob use a stock sing-box {} now …", crate::singbox::NEWEST);
    let web = traffic::serve()?;
    traffic::drive(ports, web)?;
    wait(SETTLE);
    agent.show(&["usage"])?;
    agent.show(&["flows"])?;
    agent.show(&["audit"])?;
    quota(agent, ports, web)?;
    print_next(agent, ports);
    println!("\n{}", panel_says(folder).unwrap_or_default());
    println!("Ctrl-C ends the demonstration and removes everything it made.");
    let limit = match (seconds, std::io::stdout().is_terminal()) {
        (Some(seconds), _) => Duration::from_secs(seconds),
        (None, true) => Duration::MAX,
        (None, false) => Duration::ZERO,
    };
    wait(limit);
    Ok(())
}

/// alice's quota runs out in the middle of a download, while bob streams on over one connection.
fn quota(agent: &Agent<'_>, ports: &config::Ports, web: SocketAddr) -> Result<()> {
    let [(alice, alices), (bob, bobs)] = ports.clients();
    println!("\n{alice} may use 32 MiB a month from now on, and tries to load more; {bob} streams on …");
    agent.show(&["users", "set", alice, "--quota", "32MiB"])?;
    let bobs = traffic::Stream::start(ports.loopback(bobs), web)?;
    let loaded = traffic::load(ports.loopback(alices), web, traffic::TOO_MUCH)?;
    if loaded >= traffic::TOO_MUCH {
        bail!("{alice} loaded {loaded} bytes: the quota did not hold");
    }
    let deadline = Instant::now() + START_LIMIT;
    while !agent.says(&["users", "show", alice], "limited") {
        if Instant::now() > deadline {
            bail!("{alice} is not limited");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let streamed = bobs.stop().with_context(|| format!("{bob}'s connection, which should live"))?;
    println!("{alice}'s download ended by itself; {bob} went on and has {} MiB by now.", streamed >> 20);
    agent.show(&["users", "show", alice])?;
    agent.show(&["events", "--user", alice])
}

/// The panel's usual port if it is free, else any.
fn panel_words() -> [&'static str; 5] {
    let usual = "127.0.0.1:8790";
    let listen = if TcpListener::bind(usual).is_ok() { usual } else { "127.0.0.1:0" };
    ["--lang", "en", "panel", "--listen", listen]
}

/// What the panel told when it started: its address and the first password.
fn panel_says(folder: &Path) -> Option<String> {
    let log = fs::read_to_string(folder.join("panel.log")).ok()?;
    let at = log.find("The panel is at ")?;
    Some(log[at..].trim_end().to_owned())
}

fn wait(limit: Duration) {
    let started = Instant::now();
    while !STOP.load(Ordering::Relaxed) && started.elapsed() < limit {
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn print_next(agent: &Agent<'_>, ports: &config::Ports) {
    let boxmeter = format!("{} --config {}", agent.program.display(), agent.config.display());
    println!("\nTry in another terminal, while this one stays open:");
    let tries = [
        "top",
        "usage --by minute",
        "status",
        "users set alice --speed-down 1MiB/s",
        "packages add alice 1GiB",
        "users add carol --policy basic",
        "events",
    ];
    for words in tries {
        println!("  {boxmeter} {words}");
    }
    println!("Be one of the users:");
    for (name, port) in ports.clients() {
        let proxy: SocketAddr = ports.loopback(port);
        println!("  curl -x socks5h://{proxy} http://example.com/   # {name}");
    }
}
