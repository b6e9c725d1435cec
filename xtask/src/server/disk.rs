//! The machine's disk: a clean Debian with the kernel's modules, a sing-box service, the packages and the drill. And the
//! small first file system that mounts it.

use crate::shell::{clean, output, succeed};
use crate::vm::linux::Linux;
use crate::vm::{folder, image};
use crate::{debian, singbox};
use anyhow::{Context, Result};
use serde_json::json;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

const SIZE: &str = "1800M";
/// What is needed to mount the disk.
const MODULES: &[&str] = &["virtio_pci", "virtio_blk", "crc32c_generic", "ext4"];

const INIT: &str = "#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
for module in $(/bin/busybox cat /order); do /bin/busybox insmod /modules/$module; done
# The disk's driver takes a moment.
for wait in $(/bin/busybox seq 100); do
    /bin/busybox mount -t ext4 /dev/vda /disk 2>/dev/null && break
    /bin/busybox sleep 0.1
done
exec /bin/busybox switch_root /disk /sbin/init
";

/// As sing-box's own package has it.
const SING_BOX_UNIT: &str = "[Unit]
Description=sing-box service
After=network.target

[Service]
User=sing-box
StateDirectory=sing-box
CapabilityBoundingSet=CAP_NET_ADMIN CAP_NET_RAW CAP_NET_BIND_SERVICE CAP_SYS_PTRACE CAP_DAC_READ_SEARCH
AmbientCapabilities=CAP_NET_ADMIN CAP_NET_RAW CAP_NET_BIND_SERVICE CAP_SYS_PTRACE CAP_DAC_READ_SEARCH
ExecStart=/usr/bin/sing-box -D /var/lib/sing-box -C /etc/sing-box run
ExecReload=/bin/kill -HUP $MAINPID
Restart=on-failure
RestartSec=10s

[Install]
WantedBy=multi-user.target
";

const DRILL_UNIT: &str = "[Unit]
Description=drill
After=dbus.service sing-box.service boxmeter.service boxmeter-panel.service

[Service]
Type=simple
ExecStart=/bin/bash /packages/drill.sh
StandardOutput=tty
StandardError=tty
TTYPath=/dev/ttyS0

[Install]
WantedBy=multi-user.target
";

/// Not worth an emulated machine's time.
const OFF: &[&str] = &[
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "fstrim.timer",
    "serial-getty@ttyS0.service",
    "getty@tty1.service",
    "systemd-networkd.service",
    "systemd-pstore.service",
];

/// What QEMU gets.
pub struct Machine {
    pub disk: PathBuf,
    pub initrd: PathBuf,
}

/// Makes both; the disk anew, so that each drill begins with a clean machine.
///
/// # Errors
/// Something is missing, or a tool fails.
pub fn build(linux: &Linux, packages: &[PathBuf; 2]) -> Result<Machine> {
    let root = folder().join("server");
    debian::unpack(&root)?;
    let version = modules(&root, linux)?;
    let initrd = initrd(&root, linux, &version)?;
    sing_box(&root)?;
    let place = root.join("packages");
    fs::create_dir_all(&place)?;
    for (package, name) in packages.iter().zip(["first.deb", "second.deb"]) {
        fs::copy(package, place.join(name))?;
    }
    fs::write(place.join("drill.sh"), include_str!("drill.sh"))?;
    fs::copy(&linux.busybox, root.join("usr/local/bin/busybox"))?;
    unit(&root, "drill.service", DRILL_UNIT)?;
    for name in OFF {
        symlink("/dev/null", root.join("etc/systemd/system").join(name))?;
    }
    fs::write(root.join("etc/fstab"), "/dev/vda / ext4 defaults 0 0\n")?;
    fs::write(root.join("etc/hostname"), "server\n")?;
    let disk = folder().join("server.img");
    let _ = fs::remove_file(&disk);
    let mut mkfs = clean("mke2fs");
    mkfs.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").args(["-q", "-t", "ext4", "-d"]).arg(&root);
    succeed(mkfs.arg(&disk).arg(SIZE)).context("mke2fs (e2fsprogs)")?;
    fs::remove_dir_all(&root)?;
    Ok(Machine { disk, initrd })
}

/// The kernel's modules with their list, by the machine's own depmod; the kernel's version.
fn modules(root: &Path, linux: &Linux) -> Result<String> {
    let entries = fs::read_dir(&linux.modules)?.flatten();
    let version = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).next();
    let version = version.context("the kernel's package has no modules")?;
    let to = root.join("usr/lib/modules");
    fs::create_dir_all(&to)?;
    succeed(clean("cp").arg("-a").arg(linux.modules.join(&version)).arg(&to))?;
    succeed(clean("chroot").arg(root).args(["depmod", "-a", &version]))?;
    Ok(version)
}

fn initrd(root: &Path, linux: &Linux, version: &str) -> Result<PathBuf> {
    let place = folder().join("first");
    let _ = fs::remove_dir_all(&place);
    for name in ["bin", "dev", "disk", "modules"] {
        fs::create_dir_all(place.join(name))?;
    }
    fs::copy(&linux.busybox, place.join("bin/busybox"))?;
    let mut order: Vec<String> = Vec::new();
    for module in MODULES {
        let mut modprobe = clean("chroot");
        modprobe.arg(root).args(["modprobe", "-S", version, "--show-depends", module]);
        let list = output(&mut modprobe).with_context(|| format!("the kernel has no module {module}"))?;
        // What is built in is not loaded.
        for file in list.lines().filter_map(|line| line.strip_prefix("insmod ")).map(str::trim) {
            let name = file.rsplit('/').next().unwrap_or(file).to_owned();
            if !order.contains(&name) {
                fs::copy(root.join(file.trim_start_matches('/')), place.join("modules").join(&name))?;
                order.push(name);
            }
        }
    }
    fs::write(place.join("order"), order.join("\n"))?;
    let init = place.join("init");
    fs::write(&init, INIT)?;
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755))?;
    image::pack(&place, &linux.busybox, "first.initrd")
}

/// A server as people have it: a user of its own, one inbound, two users, no API; written by hand, so that what is put
/// back must be what was there and not what a program would write.
fn sing_box(root: &Path) -> Result<()> {
    let binary = root.join("usr/bin/sing-box");
    fs::copy(singbox::binary(singbox::NEWEST), &binary)?;
    fs::set_permissions(&binary, fs::Permissions::from_mode(0o755))?;
    let user = |name: &str| json!({"username": name, "password": format!("secret-of-{name}")}).to_string();
    let text = format!(
        "// The server's own configuration.\n{{\n\t\"log\": {{ \"level\": \"warn\" }},\n\t\"inbounds\": [{{\n\t\t\"type\": \
         \"socks\", \"tag\": \"socks-in\",\n\t\t\"listen\": \"127.0.0.1\",   \"listen_port\": 1080,\n\t\t\"users\": [\n\t\t\t{}, \
         // the first\n\t\t\t\t{}\n\t\t]\n\t}}],\n\n\t\"outbounds\": [ {{ \"type\": \"direct\" }} ]\n}}\n",
        user("alice"),
        user("bob")
    );
    let folder = root.join("etc/sing-box");
    fs::create_dir_all(&folder)?;
    fs::write(folder.join("config.json"), text)?;
    let sysusers = root.join("etc/sysusers.d");
    fs::create_dir_all(&sysusers)?;
    fs::write(sysusers.join("sing-box.conf"), "u sing-box - \"sing-box\" /var/lib/sing-box\n")?;
    succeed(clean("chroot").arg(root).args(["systemd-sysusers", "sing-box.conf"]))?;
    succeed(clean("chroot").arg(root).args(["chown", "root:sing-box", "/etc/sing-box/config.json"]))?;
    fs::set_permissions(folder.join("config.json"), fs::Permissions::from_mode(0o640))?;
    unit(root, "sing-box.service", SING_BOX_UNIT)
}

/// A unit that is started at boot.
fn unit(root: &Path, name: &str, text: &str) -> Result<()> {
    let place = root.join("etc/systemd/system");
    let wants = place.join("multi-user.target.wants");
    fs::create_dir_all(&wants)?;
    fs::write(place.join(name), text)?;
    Ok(symlink(format!("/etc/systemd/system/{name}"), wants.join(name))?)
}
