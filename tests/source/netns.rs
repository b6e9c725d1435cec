//! sing-box in a network namespace of its own, as in a container, with boxmeter outside.

use std::{
    net::TcpStream,
    process::{Command, Stdio},
};

use boxmeter::{
    core::event::Network,
    doctor::fix,
    enforcer::editor::{Editor, Reload},
    service::Service,
    singbox::process,
    source::{KnownInbounds, connect},
};

use crate::{
    owners::Source,
    server::{Server, V12, V14, binary, free_port, mixed, wait_for},
};

#[test]
fn fix_and_sources_work_across_namespaces() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    for version in [V12, V14] {
        let (port, dir) = (free_port(), tempfile::tempdir().unwrap());
        std::fs::write(dir.path().join("a.json"), mixed(port, "")).unwrap();
        // Both namespaces end with the process.
        let child = Command::new("unshare")
            .args(["--net", "--mount", "/bin/sh", "-c", "ip link set lo up; exec \"$@\"", "sh"])
            .arg(binary(version))
            .args(["run", "-C"])
            .arg(dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let server = Server { child, dir };
        let found = wait_for("the process", || {
            process::find(&server.config()).ok().filter(|p| p.listeners(&[(Network::Tcp, port)]).len() == 1)
        });
        assert!(found.other_netns && found.other_mount_ns);
        assert!(TcpStream::connect(("127.0.0.1", port)).is_err(), "not reachable from here");
        let netns = found.netns_path().unwrap();
        let singbox = Editor {
            service: Service::singbox(),
            config: server.config(),
            process: Some(found),
            last: None,
            binary: None,
            reload: Reload::Auto,
            backups: None,
        };
        let plan = fix::prepare(&singbox, version, None).unwrap().unwrap();
        fix::apply(&singbox, &plan).unwrap();
        assert_eq!(fix::answers(&plan.choice).unwrap(), version);
        let mut source = Source::start(plan.choice, KnownInbounds::default(), None);
        source.connected();
        let inside =
            std::thread::spawn(move || connect::in_netns(&netns, || TcpStream::connect(("127.0.0.1", port))));
        inside.join().unwrap().unwrap();
    }
}
