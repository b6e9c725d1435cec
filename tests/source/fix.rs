//! `doctor --fix` on real versions: works, keeps every other byte, or changes nothing.

use std::net::TcpListener;

use boxmeter::{
    doctor::{Severity, check, fix, gather},
    enforcer::{
        added,
        editor::{Edit, EditError, Editor, Reload},
    },
    service::Service,
    singbox::{files, process},
    source::Setting,
};

use crate::server::{Server, USERS, V12, V13, V14, binary, free_port, mixed, wait_for};

fn singbox(server: &Server) -> Editor {
    Editor {
        service: Service::singbox(),
        config: server.config(),
        process: Some(process::find(&server.config()).unwrap()),
        last: None,
        binary: None,
        reload: Reload::Auto,
        backups: Some(server.dir.path().join("kept")),
    }
}

/// As the packaged one: level warn, no API, comments and odd spacing.
fn packaged(port: u16) -> String {
    format!(
        "// main\r\n{{\r\n    \"log\": {{ \"level\": \"warn\" }}, # quiet\r\n    \"inbounds\": [ /* one */\r\n        {{\"type\": \"mixed\", \"tag\": \"m\",  \"listen\": \"127.0.0.1\", \"listen_port\": {port}, \"users\": {USERS}}}\r\n    ]\r\n}}\r\n"
    )
}

/// What was added, if everything that was there is still there in its order.
fn is_supersequence(old: &str, new: &str) -> bool {
    let mut rest = new.chars();
    old.chars().all(|wanted| rest.any(|found| found == wanted))
}

#[test]
fn fix_ends_with_a_working_source_on_every_version() {
    for version in [V12, V13, V14] {
        let port = free_port();
        let old = packaged(port);
        let server = Server::start(version, port, &[("config.json", &old)]);
        let before = gather::gather(&server.config(), Setting::Auto);
        let found = check(&before.inputs(Vec::new()));
        assert!(
            found.iter().any(|f| f.id == "source" && f.severity == Severity::Fail),
            "{version}: {found:#?}"
        );
        let singbox = singbox(&server);
        let plan = fix::prepare(&singbox, version, None).unwrap().unwrap();
        assert!(plan.diff.contains("\"secret\": \"…\""), "{}", plan.diff);
        let applied = fix::apply(&singbox, &plan).unwrap_or_else(|e| panic!("{version}: {e}\n{}", plan.diff));
        assert!(applied.reloaded);
        assert_eq!(std::fs::read_to_string(&applied.backups[0]).unwrap(), old);
        assert_eq!(fix::answers(&plan.choice).unwrap(), version);
        let new = server.text("config.json");
        assert!(is_supersequence(&old.replace("\"warn\"", "\"\""), &new), "{version}: {new}");
        assert_eq!(new.contains("\"warn\""), version == V14, "the API needs no log: {new}");
        assert!(!new.replace("\r\n", "").contains('\n'), "line ends stay");
        let after = gather::gather(&server.config(), Setting::Auto);
        let found = check(&after.inputs(Vec::new()));
        assert!(found.iter().all(|f| f.severity != Severity::Fail), "{version}: {found:#?}");
        assert_eq!(after.process.unwrap().pid, server.child.id());
        assert!(fix::prepare(&singbox, version, None).unwrap().is_none(), "a second fix has nothing to do");
        let files = files::read(&server.config()).unwrap();
        let taken = added::take_out(&files, &singbox.added().unwrap());
        assert_eq!((taken.edits[0].content.as_str(), taken.kept.len()), (old.as_str(), 0), "{version}");
    }
}

#[test]
fn several_files_are_one_change() {
    let port = free_port();
    let base = mixed(port, "");
    let server = Server::start(
        V12,
        port,
        &[
            ("00-log.json", "{\"log\": {\"disabled\": true, \"level\": \"error\"}}"),
            ("10-in.json", &base),
            ("20-x.json", "{\"experimental\": {\"clash_api\": {}}}"),
        ],
    );
    let singbox = singbox(&server);
    let plan = fix::prepare(&singbox, V12, None).unwrap().unwrap();
    assert_eq!(plan.edits.len(), 2);
    let before = ["00-log.json", "20-x.json"].map(|name| server.text(name));
    fix::apply(&singbox, &plan).unwrap();
    let taken = added::take_out(&files::read(&server.config()).unwrap(), &singbox.added().unwrap());
    let texts: Vec<_> = taken.edits.iter().map(|edit| edit.content.clone()).collect();
    assert_eq!(texts, before);
    assert_eq!(server.text("10-in.json"), base);
    assert_eq!(server.text("00-log.json"), "{\"log\": {\"disabled\": false, \"level\": \"info\"}}");
    assert_eq!(fix::answers(&plan.choice).unwrap(), V12);
}

#[test]
fn an_empty_secret_fails_and_is_filled() {
    let (port, api) = (free_port(), free_port());
    let text = mixed(port, &format!(r#", "services": [{{"type": "api", "listen_port": {api}}}]"#));
    let server = Server::start(V14, port, &[("a.json", &text)]);
    let gathered = gather::gather(&server.config(), Setting::Auto);
    assert!(
        check(&gathered.inputs(Vec::new()))
            .iter()
            .any(|f| f.id == "api-secret" && f.severity == Severity::Fail)
    );
    let singbox = singbox(&server);
    let plan = fix::prepare(&singbox, V14, None).unwrap().unwrap();
    fix::apply(&singbox, &plan).unwrap();
    assert_eq!(fix::answers(&plan.choice).unwrap(), V14);
    let config = files::parse(&files::read(&server.config()).unwrap()).unwrap();
    let service = config.api_service.unwrap();
    assert_eq!((service.listen_port, service.secret.0.len()), (api, 64));
}

#[test]
fn a_taken_port_is_seen_before_anything_changes() {
    let port = free_port();
    let server = Server::start(V14, port, &[("a.json", &mixed(port, ""))]);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let error = fix::prepare(&singbox(&server), V14, Some(taken.local_addr().unwrap().port())).unwrap_err();
    assert!(error.to_string().contains("taken"), "{error}");
    assert_eq!(server.text("a.json"), mixed(port, ""));
}

fn edit(server: &Server, content: String) -> Edit {
    let path = server.file("a.json");
    let service = Service::singbox();
    Edit { service, expected: files::read_file(&path).unwrap().sha256, path, content }
}

#[test]
fn what_check_refuses_is_not_written() {
    for version in [V12, V13, V14] {
        let port = free_port();
        let server = Server::start(version, port, &[("a.json", &mixed(port, ""))]);
        let edit = edit(&server, mixed(port, r#", "stats": {}"#));
        let error = singbox(&server).apply(&[edit], || Ok(())).unwrap_err();
        assert!(matches!(error, EditError::Refused { .. }), "{error}");
        assert!(error.to_string().contains("stats") && error.to_string().contains("a.json"), "{error}");
        assert_eq!(server.text("a.json"), mixed(port, ""));
    }
}

#[test]
fn a_reload_that_ends_sing_box_is_taken_back_and_said() {
    let port = free_port();
    let server = Server::start(V14, port, &[("a.json", &mixed(port, ""))]);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let service = format!(
        r#", "services": [{{"type": "api", "listen_port": {}, "secret": "s"}}]"#,
        taken.local_addr().unwrap().port()
    );
    let edit = edit(&server, mixed(port, &service));
    let error = singbox(&server).apply(&[edit], || Ok(())).unwrap_err();
    assert!(matches!(error, EditError::RolledBack { .. }), "{error}");
    assert!(error.to_string().contains("start it"), "{error}");
    assert_eq!(server.text("a.json"), mixed(port, ""));
}

#[test]
fn an_unhealthy_reload_is_taken_back_and_reloaded() {
    let (port, second) = (free_port(), free_port());
    let server = Server::start(V14, port, &[("a.json", &mixed(port, ""))]);
    let edit = edit(&server, mixed(second, ""));
    let singbox = singbox(&server);
    let start = std::time::Instant::now();
    // Unhealthy for longer than it may be.
    let error = singbox.apply(&[edit], || Err("no".into())).unwrap_err();
    assert!(matches!(error, EditError::RolledBack { .. }), "{error} after {:?}", start.elapsed());
    assert_eq!(server.text("a.json"), mixed(port, ""));
    wait_for("the old port again", || std::net::TcpStream::connect(("127.0.0.1", port)).ok());
}

/// A command of the admin's that restarts sing-box: another process runs after it, and is the one to be told.
#[test]
fn an_unhealthy_restart_by_a_command_is_taken_back_by_it() {
    let (port, second) = (free_port(), free_port());
    let server = Server::start(V14, port, &[("a.json", &mixed(port, ""))]);
    let pid = server.dir.path().join("pid");
    std::fs::write(&pid, process::find(&server.config()).unwrap().pid.to_string()).unwrap();
    let script = format!(
        "kill $(cat {pid}); while [ -d /proc/$(cat {pid}) ] && ! grep -q '^State:.Z' /proc/$(cat {pid})/status; \
         do sleep 0.02; done; setsid {} run -C {} >/dev/null 2>&1 </dev/null & echo $! > {pid}",
        binary(V14).display(),
        server.dir.path().display(),
        pid = pid.display(),
    );
    let singbox = Editor { reload: Reload::Command(script), ..singbox(&server) };
    let _ends = Ends(pid);
    let edit = edit(&server, mixed(second, ""));
    let error = singbox.apply(&[edit], || Err("no".into())).unwrap_err();
    assert!(matches!(error, EditError::RolledBack { .. }), "{error}");
    assert!(error.to_string().contains("was told to read it"), "{error}");
    assert_eq!(server.text("a.json"), mixed(port, ""));
    wait_for("the old port again", || std::net::TcpStream::connect(("127.0.0.1", port)).ok());
}

/// Ends the process whose number a file has.
struct Ends(std::path::PathBuf);

impl Drop for Ends {
    fn drop(&mut self) {
        if let Some(pid) = std::fs::read_to_string(&self.0).ok().and_then(|text| text.trim().parse().ok()) {
            let _ =
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
        }
    }
}

#[test]
fn a_file_that_somebody_else_changes_is_left_alone() {
    let port = free_port();
    let server = Server::start(V14, port, &[("a.json", &mixed(port, ""))]);
    let edit = edit(&server, mixed(port, " "));
    std::fs::write(server.file("a.json"), mixed(port, "  ")).unwrap();
    let error = singbox(&server).apply(&[edit], || Ok(())).unwrap_err();
    assert!(error.to_string().contains("changed by somebody else"), "{error}");
    assert_eq!(server.text("a.json"), mixed(port, "  "));
}
