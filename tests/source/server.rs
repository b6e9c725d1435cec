//! A real sing-box on loopback, and SOCKS5 clients for it.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

pub const V12: &str = "1.12.23";
pub const V13: &str = "1.13.21";
pub const V14: &str = "1.14.4";

/// Conditions are waited for this long; they come in milliseconds unless something is wrong.
pub const DEADLINE: Duration = Duration::from_secs(60);

pub fn binary(version: &str) -> PathBuf {
    let place = std::env::var_os("BOXMETER_SINGBOX_DIR").map_or_else(
        || {
            Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("../target/tools")
                .join(format!("sing-box-{version}/sing-box"))
        },
        |folder| PathBuf::from(folder).join(format!("sing-box-{version}/sing-box")),
    );
    assert!(place.is_file(), "{} is missing: `cargo xtask setup` fetches it", place.display());
    place
}

pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

pub fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub struct Server {
    pub child: Child,
    pub dir: tempfile::TempDir,
}

impl Server {
    /// Starts it with `files` in a directory of its own, and waits until `port` answers.
    pub fn start(version: &str, port: u16, files: &[(&str, &str)]) -> Server {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(dir.path().join(name), text).unwrap();
        }
        Server { child: spawn(version, dir.path(), port), dir }
    }

    pub fn config(&self) -> Vec<PathBuf> {
        vec![self.dir.path().to_owned()]
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn text(&self, name: &str) -> String {
        fs::read_to_string(self.file(name)).unwrap()
    }

    pub fn hup(&self) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGHUP).unwrap();
    }
}

fn spawn(version: &str, dir: &Path, port: u16) -> Child {
    let child = Command::new(binary(version))
        .args(["run", "-C"])
        .arg(dir)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(fs::File::create(dir.join("stderr.txt")).unwrap())
        .spawn()
        .unwrap();
    wait_for("sing-box listens", || TcpStream::connect(("127.0.0.1", port)).ok());
    child
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Answers every connection with what it reads, until the test ends.
pub fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            std::thread::spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok(count @ 1..) = stream.read(&mut buffer) {
                    if stream.write_all(&buffer[..count]).is_err() {
                        return;
                    }
                }
            });
        }
    });
    addr
}

/// A SOCKS5 connection of a user to `target`, with `bytes` echoed through it.
pub fn socks(port: u16, user: &str, target: SocketAddr, bytes: usize) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let read = |stream: &mut TcpStream, count: usize| {
        let mut buffer = vec![0; count];
        stream.read_exact(&mut buffer).unwrap();
        buffer
    };
    stream.write_all(&[5, 1, 2]).unwrap();
    assert_eq!(read(&mut stream, 2), [5, 2]);
    let login = [&[1, user.len() as u8], user.as_bytes(), &[2], b"pw"].concat();
    stream.write_all(&login).unwrap();
    assert_eq!(read(&mut stream, 2), [1, 0]);
    let SocketAddr::V4(target) = target else { panic!("IPv4") };
    let connect = [&[5, 1, 0, 1], &target.ip().octets()[..], &target.port().to_be_bytes()].concat();
    stream.write_all(&connect).unwrap();
    assert_eq!(read(&mut stream, 10)[..2], [5, 0]);
    stream.write_all(&vec![7; bytes]).unwrap();
    assert_eq!(read(&mut stream, bytes).len(), bytes);
    stream
}

pub const USERS: &str = r#"[{"username": "alice", "password": "pw"}, {"username": "bob", "password": "pw"}]"#;

/// A mixed inbound with alice and bob, and whatever stands in `more`.
pub fn mixed(port: u16, more: &str) -> String {
    format!(
        r#"{{"inbounds": [{{"type": "mixed", "tag": "m", "listen": "127.0.0.1", "listen_port": {port}, "users": {USERS}}}]{more}}}"#
    )
}
