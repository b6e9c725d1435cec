//! The whole way, as an admin with a phone goes it: the panel, the agent, sing-box and a client are real.

use crate::browser::{Panel, script};
use crate::needs_browser;
use crate::qr_reader;
use crate::rig::Rig;
use boxmeter_tests::cases::named;
use boxmeter_tests::singbox::{SERVER, VERSIONS};
use boxmeter_tests::{boxmeter, needs_machine, wait};
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

const USER: &str = "gast";

/// Above 5 MiB in all after some of them, with what TLS adds.
const PIECE: u64 = 200_000;

/// What the page of a new user has to hand over.
#[derive(serde::Deserialize)]
struct Given {
    qr: String,
    link: String,
    status: u16,
    subscription: String,
}

/// The trojan outbound of a client's configuration.
fn outbound(config: &str) -> serde_json::Value {
    let config: serde_json::Value = serde_json::from_str(config).unwrap();
    let all = config["outbounds"].as_array().unwrap();
    all.iter().find(|it| it["type"] == "trojan").unwrap().clone()
}

#[test]
fn from_signing_in_to_a_cut_and_back() {
    needs_machine!();
    needs_browser!();
    let mut rig = Rig::new(VERSIONS[2], &[named("trojan-tls")]);
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
        let (step, rest) = line
            .strip_prefix("step ")
            .unwrap_or_default()
            .split_once(' ')
            .unwrap_or_else(|| (line.strip_prefix("step ").unwrap_or_default(), ""));
        match step {
            "added" => {
                let given: Given = serde_json::from_str(rest).unwrap();
                assert_eq!(given.status, 200, "{}", given.subscription);
                // By a tunnel the first code is that of the direct link, with the server's own address.
                assert_eq!(qr_reader::read(&given.qr), given.link);
                let outbound = outbound(&given.subscription);
                let password = outbound["password"].as_str().unwrap();
                let place = format!("{password}@{}:{}", SERVER[0], outbound["server_port"]);
                assert!(given.link.contains(&place), "{} and {place}", given.link);
                let file = rig.site.scratch.join("given.json");
                std::fs::write(&file, given.subscription).unwrap();
                let running = rig.start(&file);
                // sing-box reads its users anew a little later.
                wait("the new user's subscription carries traffic", || moved(&running.1, 1_000, 1_000));
                client = Some(running);
            }
            "watching" | "moving" => {
                let (_, proxy) = client.as_ref().unwrap();
                moved(proxy, PIECE, PIECE).unwrap();
            }
            "cut" => {
                let (_, proxy) = client.as_ref().unwrap();
                wait("the quota cuts", || match moved(proxy, PIECE, PIECE) {
                    Ok(()) => Err("it goes on".to_owned()),
                    Err(_) => Ok(()),
                });
            }
            "back" => {
                let (_, proxy) = client.as_ref().unwrap();
                wait("the package brings the user back", || moved(proxy, PIECE, PIECE));
            }
            "away" => rig.site.server = None,
            "there" => rig.site.start_server(),
            "stop" => rig.agent.stop(),
            "restart" => rig.agent.start(),
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
