//! The whole way, as an admin with a phone goes it: the panel, the agent, sing-box and a client are real.

use crate::browser::{Panel, script};
use crate::needs_browser;
use crate::rig::Rig;
use boxmeter_tests::cases::named;
use boxmeter_tests::singbox::VERSIONS;
use boxmeter_tests::{boxmeter, needs_machine, wait};
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

const USER: &str = "gast";

/// Above 3 MiB in all after a few of them, with what TLS adds.
const PIECE: u64 = 200_000;

#[test]
fn from_signing_in_to_a_cut_and_back() {
    needs_machine!();
    needs_browser!();
    let rig = Rig::new(VERSIONS[2], &[named("trojan-tls")]);
    let mut command = Command::new(boxmeter());
    command.arg("--config").arg(rig.site.scratch.join("boxmeter.toml"));
    command.args(["--lang", "en", "panel", "--listen", "127.0.0.1:8790"]);
    let panel = Panel::start(rig.site.inside.enter(&mut command));
    let password = panel.said.rsplit(' ').next().unwrap().to_owned();

    let mut command = script("full.mjs");
    command.env("PANEL_URL", panel.url()).env("PANEL_PASSWORD", password).env("PANEL_USER", USER);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut browser = rig.site.inside.enter(&mut command).spawn().unwrap();
    let mut go = browser.stdin.take().unwrap();
    let mut client = None;
    let mut said = String::new();
    for line in BufReader::new(browser.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        let moved = |proxy: &boxmeter_tests::socks::Proxy, up, down| {
            proxy.exchange(rig.target, up, down).map_err(|error| error.to_string())
        };
        match line.strip_prefix("step ") {
            Some("added") => {
                let running = rig.start(&rig.import(USER, ""));
                // sing-box reads its users anew a little later.
                wait("the new user's subscription carries traffic", || moved(&running.1, 1_000, 1_000));
                client = Some(running);
            }
            Some("watching") => {
                let (_, proxy) = client.as_ref().unwrap();
                moved(proxy, PIECE, PIECE).unwrap();
            }
            Some("cut") => {
                let (_, proxy) = client.as_ref().unwrap();
                wait("the quota cuts", || match moved(proxy, PIECE, PIECE) {
                    Ok(()) => Err("it goes on".to_owned()),
                    Err(_) => Ok(()),
                });
            }
            Some("back") => {
                let (_, proxy) = client.as_ref().unwrap();
                wait("the package brings the user back", || moved(proxy, PIECE, PIECE));
            }
            _ => {
                said.push_str(&line);
                said.push('\n');
                continue;
            }
        }
        go.write_all(b"go\n").unwrap();
    }
    let status = browser.wait().unwrap();
    assert!(status.success() && said.is_empty(), "{said}");
}
