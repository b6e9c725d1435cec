//! Machines and containers that lack something: `run` and `doctor` say exactly what, and what to do.

use std::process::Output;

use boxmeter_tests::{
    agent::Agent,
    cases::named,
    needs_machine,
    singbox::{Site, VERSIONS},
};
use serde_json::Value;

/// What is missing, how to take it away from a program that is started, and what is said of it.
const LACKS: &[(&str, &str, &str, &str)] = &[
    (
        "rights",
        "exec setpriv --bounding-set=-bpf,-sys_admin,-perfmon,-net_admin \"$@\"",
        "no permission for loading BPF programs: run as root, or with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON",
        "bpf",
    ),
    (
        "control groups",
        "umount -l $(awk '$3 == \"cgroup2\" {print $2}' /proc/self/mounts) && exec \"$@\"",
        "cgroup v2 is not mounted: `mount -t cgroup2 none /sys/fs/cgroup`, or set `kernel.cgroup`",
        "cgroup v2",
    ),
    (
        "type information",
        "mount -t tmpfs none /sys/kernel/btf && exec \"$@\"",
        "this kernel has no type information at /sys/kernel/btf/vmlinux: it needs CONFIG_DEBUG_INFO_BTF",
        "btf",
    ),
];

/// In a mount namespace of its own, so that nothing else misses it; whatever goes on for too long is ended.
fn without(agent: &Agent, taking: &str, words: &[&str]) -> Output {
    agent.command_in(
        &["timeout", "60", "unshare", "-m", "--propagation", "private", "sh", "-c", taking, "sh"],
        words,
    )
}

#[test]
fn what_a_machine_lacks_is_said_by_run_and_doctor() {
    needs_machine!();
    let site = Site::new(VERSIONS[2], &[named("trojan-tls")]);
    let mut agent = Agent::new(&site.scratch, &site.config(), &site.inside);
    for (name, taking, said, id) in LACKS {
        let run = without(&agent, taking, &["run"]);
        let text = String::from_utf8_lossy(&run.stderr).into_owned();
        assert!(!run.status.success() && text.contains(said), "{name}: {} {text}", run.status);
        let doctor = without(&agent, taking, &["doctor"]);
        assert!(!doctor.status.success(), "{name}: {}", doctor.status);
        let found: Value = serde_json::from_slice(&doctor.stdout).unwrap();
        let rows = found["findings"].as_array().unwrap_or_else(|| panic!("{found}"));
        let fails = rows.iter().filter(|row| row["severity"] == "fail").map(Value::to_string);
        assert!(fails.clone().any(|row| row.contains(said)), "{name}, {id}: {:?}", fails.collect::<Vec<_>>());
    }
    // With everything it runs, after all that.
    agent.start();
}
