//! Where its API is asked.

use super::*;
use crate::{service::Kind, singbox::GrpcApi};

/// Its address is one of its own network namespace: while no process is known, somebody else may answer there.
#[test]
fn its_api_is_asked_only_while_it_runs() {
    let service = Service { kind: Kind::V2ray, name: "v2ray".into() };
    let mut proxy = Proxy::new(service, vec![], Owners::Nobody, Removed::default());
    let grpc_api = Some(GrpcApi { addr: ([127, 0, 0, 1], 10085).into(), handler: true, stats: true });
    proxy.config = Some(ProxyConfig { grpc_api, ..ProxyConfig::default() });
    assert_eq!((proxy.api(), proxy.stats_api()), (None, None));
    let pid = std::process::id();
    let found = process::Process {
        kind: Kind::V2ray,
        pid,
        start_ticks: process::start_ticks(pid).expect("a time"),
        exe: PathBuf::new(),
        cwd: PathBuf::new(),
        netns: 1,
        other_netns: true,
        other_mount_ns: false,
        unit: None,
        user_id: 0,
        is_services: true,
        distrust: None,
        config_args: vec![],
        raw_args: vec![],
    };
    proxy.process = Some(found.clone());
    let asked = proxy.stats_api().expect("it runs");
    assert_eq!(asked.process, (pid, found.start_ticks));
    assert_eq!(asked.netns, Some(PathBuf::from(format!("/proc/{pid}/ns/net"))));
    // Another process has its pid by now.
    proxy.process = Some(process::Process { start_ticks: found.start_ticks + 1, ..found });
    assert_eq!(proxy.api(), None);
}
