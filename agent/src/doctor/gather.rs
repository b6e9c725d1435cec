//! Gathers what `check` needs to know about sing-box: reads files and `/proc`, asks the source once.

use std::{fs, path::PathBuf};

use super::{
    check::{Inputs, KernelFact, ProcessFact},
    fix,
};
use crate::{
    singbox::{
        ProxyConfig,
        files::{self, ConfigError},
        process::{self, NotFound, Process},
        sockets,
    },
    source::{Setting, choose},
};

/// What was read; `inputs` borrows from it.
#[derive(Debug)]
pub struct Gathered {
    pub config: Result<ProxyConfig, ConfigError>,
    pub process: Result<Process, NotFound>,
    pub version: Option<String>,
    setting: Setting,
    answers: Option<Result<String, String>>,
    loopback_peers: Vec<String>,
}

/// Reads everything. Blocks: a few seconds at most if sing-box does not answer.
pub fn gather(paths: &[PathBuf], setting: Setting) -> Gathered {
    let config = files::read(paths).and_then(|files| files::parse(&files));
    let process = process::find(paths);
    let version = process.as_ref().ok().and_then(|process| process.version().ok());
    let mut answers = None;
    let mut loopback_peers = Vec::new();
    if let (Ok(config), Ok(process)) = (&config, &process) {
        let known = version.as_deref().and_then(process::major_minor);
        if let Ok(choice) = choose(config, setting, known) {
            answers = Some(fix::answers(&choice.in_netns(process.netns_path())));
        }
        loopback_peers = peers_on_loopback(config, process);
    }
    Gathered { config, process, version, setting, answers, loopback_peers }
}

impl Gathered {
    pub fn inputs(&self, kernel: Vec<KernelFact>) -> Inputs<'_> {
        Inputs {
            config: self.config.as_ref().map_err(ToString::to_string),
            process: self.process.as_ref().map(|process| self.fact(process)).map_err(ToString::to_string),
            setting: self.setting,
            answers: self.answers.clone(),
            loopback_peers: self.loopback_peers.clone(),
            kernel,
        }
    }

    fn fact(&self, process: &Process) -> ProcessFact {
        ProcessFact {
            pid: process.pid,
            version: self.version.clone(),
            unit: process.unit.clone(),
            contained: process.other_netns || process.other_mount_ns,
            user_id: process.user_id,
            mptcp: sockets::listens_with_mptcp(process.pid).unwrap_or_default(),
        }
    }
}

/// Tags of inbounds that have established connections from loopback now.
fn peers_on_loopback(config: &ProxyConfig, process: &Process) -> Vec<String> {
    let mut ports = Vec::new();
    for name in ["net/tcp", "net/tcp6"] {
        let text = fs::read_to_string(process.proc(name)).unwrap_or_default();
        ports.extend(text.lines().skip(1).filter_map(loopback_port));
    }
    let seen = |port: Option<u16>| port.is_some_and(|port| ports.contains(&port));
    config.inbounds.iter().filter(|i| seen(i.listen_port)).map(|i| i.tag.to_string()).collect()
}

/// The local port of an established connection with a peer on loopback.
fn loopback_port(line: &str) -> Option<u16> {
    let mut fields = line.split_ascii_whitespace();
    let (local, peer, state) = (fields.nth(1)?, fields.next()?, fields.next()?);
    // 127.0.0.0/8 ends with 7F as the kernel prints it, mapped or not; ::1 ends with 01000000.
    let address = peer.split_once(':')?.0;
    let loopback =
        address.ends_with("7F") || (address.len() == 32 && address == "00000000000000000000000001000000");
    let port = u16::from_str_radix(local.rsplit_once(':')?.1, 16).ok()?;
    (state == "01" && loopback).then_some(port)
}
