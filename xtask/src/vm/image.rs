//! The machine's only file system: test programs, the agent, sing-box, what they need of this machine's
//! libraries, and a script that runs the tests and switches off.

use super::folder;
use super::linux::Linux;
use crate::shell::{cargo, clean, find_program, output, succeed};
use crate::{paths, singbox};
use anyhow::{Context, Result, bail, ensure};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Loaded in this order: each after what it needs.
const MODULES: &[&str] = &["inet_diag", "tcp_diag", "udp_diag", "veth", "tun", "dummy", "sch_fq", "tcp_bbr"];

/// What runs in the machine. `mount` and the like are busybox's.
const INIT: &str = "#!/bin/busybox sh
export PATH=/bin
/bin/busybox --install -s /bin 2>/dev/null
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs run /run
mount -t tmpfs tmp /tmp
mount -t cgroup2 cgroup /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
for module in $(cat /modules/order); do insmod /modules/$module.ko; done
ip link set lo up
uname -a
export BOXMETER_TOOLS=/tools BOXMETER_BIN=/bin/boxmeter
[ -e /object ] && export BOXMETER_BPF_OBJECT=/object
ended=well
";

/// Builds the image; `tests` are programs of boxmeter-tests with the filters of what runs.
pub fn build(linux: &Linux, object: Option<&Path>, tests: &[(&str, String)]) -> Result<PathBuf> {
    let root = folder().join("root");
    let _ = fs::remove_dir_all(&root);
    for name in ["bin", "dev", "etc", "modules", "proc", "run", "sys", "tmp", "tools"] {
        fs::create_dir_all(root.join(name))?;
    }
    fs::copy(&linux.busybox, root.join("bin/busybox"))?;
    // Without one there is no local time.
    fs::copy("/etc/localtime", root.join("etc/localtime")).context("/etc/localtime")?;
    add_program(&root, &paths::program(false), "boxmeter")?;
    add_program(&root, &find_program(&["ip"]).context("iproute2 is missing")?, "ip")?;
    for (name, _) in tests {
        add_program(&root, &test_program(name)?, name)?;
    }
    for version in singbox::versions() {
        let binary = singbox::binary(version);
        let to = root.join("tools").join(format!("sing-box-{version}"));
        fs::create_dir_all(&to)?;
        fs::copy(&binary, to.join("sing-box")).with_context(|| binary.display().to_string())?;
    }
    add_modules(&root, &linux.modules)?;
    if let Some(object) = object {
        fs::copy(object, root.join("object")).with_context(|| object.display().to_string())?;
    }
    write_init(&root, tests)?;
    pack(&root, &linux.busybox, "initrd")
}

fn write_init(root: &Path, tests: &[(&str, String)]) -> Result<()> {
    let mut script = String::from(INIT);
    for (name, filters) in tests {
        script.push_str(&format!("{name} --test-threads=1 {filters} || ended=badly\n"));
    }
    script.push_str("echo \"guest ended: $ended\"\npoweroff -f\n");
    let init = root.join("init");
    fs::write(&init, script)?;
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// The program of a test target, as cargo builds it.
fn test_program(target: &str) -> Result<PathBuf> {
    let mut command = cargo();
    command.args(["test", "--locked", "-p", "boxmeter-tests", "--test", target, "--no-run"]);
    let text =
        output(command.args(["--message-format", "json", "--quiet"])).context("cargo test --no-run")?;
    let program = text.lines().find_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        let named = message["target"]["name"] == target;
        message["executable"].as_str().filter(|_| named).map(PathBuf::from)
    });
    program.with_context(|| format!("cargo built no test {target}"))
}

/// A program without its debug information, and the libraries it needs at the places where it looks for them.
fn add_program(root: &Path, program: &Path, name: &str) -> Result<()> {
    succeed(clean("objcopy").arg("--strip-debug").arg(program).arg(root.join("bin").join(name)))?;
    let Some(needs) = output(clean("ldd").arg(program)) else { return Ok(()) };
    for path in needs.split_whitespace().filter(|word| word.starts_with('/')) {
        let to = root.join(path.trim_start_matches('/'));
        fs::create_dir_all(to.parent().context("a library at /")?)?;
        fs::copy(path, to).with_context(|| path.to_string())?;
    }
    Ok(())
}

fn add_modules(root: &Path, folder: &Path) -> Result<()> {
    for name in MODULES {
        let file = format!("{name}.ko");
        let Some(found) = search(folder, &file) else { bail!("the kernel's package has no {file}") };
        fs::copy(found, root.join("modules").join(file))?;
    }
    fs::write(root.join("modules/order"), MODULES.join("\n"))?;
    Ok(())
}

fn search(folder: &Path, name: &str) -> Option<PathBuf> {
    for entry in fs::read_dir(folder).ok()?.flatten() {
        let path = entry.path();
        if path.is_dir() {
            if let Some(found) = search(&path, name) {
                return Some(found);
            }
        } else if entry.file_name() == name {
            return Some(path);
        }
    }
    None
}

/// The archive that the kernel unpacks; busybox makes it, so that no package is needed for that.
pub fn pack(root: &Path, busybox: &Path, name: &str) -> Result<PathBuf> {
    let image = folder().join(name);
    let mut command = clean(busybox);
    command.args(["sh", "-c", "\"$0\" find . | \"$0\" cpio -o -H newc > \"$1\""]);
    command.arg(busybox).arg(&image);
    let made = command.current_dir(root).output()?;
    ensure!(made.status.success(), "packing the image: {}", String::from_utf8_lossy(&made.stderr));
    fs::remove_dir_all(root)?;
    Ok(image)
}
