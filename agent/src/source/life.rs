//! Which start of a service counters belong to: what the machine and the service say about it.

use std::{
    collections::BTreeSet,
    fs,
    net::{IpAddr, SocketAddr, UdpSocket},
};

use uuid::Uuid;

use crate::{core::counters::Life, singbox::process};

/// Of the machine's kernel; `None` where /proc does not say.
pub fn boot() -> Option<[u8; 16]> {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(Uuid::parse_str(text.trim()).ok()?.into_bytes())
}

/// A service that takes longer to say how long it runs has not said it.
const UNSURE_NS: u64 = 1_000_000_000;

/// Of a service that says how long it runs, asked between these instants. Both that and this clock stand still while
/// the machine sleeps, and nobody sets them.
pub fn of_uptime(seconds: u64, (asked_ns, answered_ns): (u64, u64)) -> Option<Life> {
    if answered_ns.checked_sub(asked_ns)? > UNSURE_NS {
        return None;
    }
    let answered_ms = i64::try_from(answered_ns / 1_000_000).ok()?;
    let uptime_ms = i64::try_from(seconds.checked_mul(1_000)?).ok()?;
    Some(Life { boot: boot()?, pid: 0, started_ms: answered_ms.checked_sub(uptime_ms)? })
}

/// Of the one process with this title that has what listens at an address. `None` where the address is another
/// machine's, somebody else listens there, or two such processes do, as while a program is exchanged: who answers
/// is not known then.
pub fn of_listener(addr: SocketAddr, title: &str) -> Option<Life> {
    // Only this machine's own addresses can be bound.
    UdpSocket::bind((addr.ip(), 0)).ok()?;
    let sockets = listeners(addr);
    if sockets.is_empty() {
        return None;
    }
    let entries = fs::read_dir("/proc").ok()?.flatten();
    let mut found = entries.filter_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let says = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        (says.starts_with(title.as_bytes()) && has_all(pid, &sockets)).then_some(pid)
    });
    let pid = found.next()?;
    if found.next().is_some() {
        return None;
    }
    of_process(pid, process::start_ticks(pid).ok()?)
}

/// The inodes of what takes clients at this address in this process's network namespace.
fn listeners(addr: SocketAddr) -> BTreeSet<u64> {
    let (mut exact, mut any) = (BTreeSet::new(), BTreeSet::new());
    for table in ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"] {
        for line in fs::read_to_string(table).unwrap_or_default().lines().skip(1) {
            let Some((local, inode)) = listener(line).filter(|(local, _)| local.port() == addr.port()) else {
                continue;
            };
            if local.ip().to_canonical() == addr.ip().to_canonical() {
                exact.insert(inode);
            } else if local.ip().is_unspecified() && (local.is_ipv6() || addr.is_ipv4()) {
                any.insert(inode);
            }
        }
    }
    // The kernel gives clients to whoever names the address.
    if exact.is_empty() { any } else { exact }
}

/// One line of `/proc/net/tcp` or `tcp6`, if somebody listens there.
fn listener(line: &str) -> Option<(SocketAddr, u64)> {
    let mut fields = line.split_ascii_whitespace();
    let (ip, port) = fields.nth(1)?.split_once(':')?;
    let listens = fields.nth(1)? == "0A";
    let inode = fields.nth(5)?.parse().ok()?;
    // Words of four bytes, each as the machine has them.
    let word = |at: usize| Some(u32::from_str_radix(ip.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    let ip: IpAddr = match ip.len() {
        8 => word(0)?.into(),
        32 => {
            let words = [word(0)?, word(8)?, word(16)?, word(24)?];
            <[u8; 16]>::try_from(words.concat()).ok()?.into()
        }
        _ => return None,
    };
    let port = u16::from_str_radix(port, 16).ok()?;
    (listens && inode != 0).then_some((SocketAddr::new(ip, port), inode))
}

/// Has the process all of these sockets open?
fn has_all(pid: u32, sockets: &BTreeSet<u64>) -> bool {
    let Ok(open) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    let links = open.flatten().filter_map(|entry| fs::read_link(entry.path()).ok());
    let open: BTreeSet<String> = links.map(|link| link.to_string_lossy().into_owned()).collect();
    sockets.iter().all(|inode| open.contains(&format!("socket:[{inode}]")))
}

/// Of a process, by its pid and when it began, in clock ticks after the boot.
pub fn of_process(pid: u32, start_ticks: u64) -> Option<Life> {
    let ticks_per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok().flatten()?;
    let started_ms = i64::try_from(start_ticks).ok()?.checked_mul(1_000)? / ticks_per_second.max(1);
    Some(Life { boot: boot()?, pid, started_ms })
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_process_is_itself_and_no_other() {
        let ticks = process::start_ticks(std::process::id()).unwrap();
        let own = of_process(std::process::id(), ticks).unwrap();
        assert!(own.is(&of_process(std::process::id(), ticks).unwrap()));
        assert!(!own.is(&of_process(1, ticks).unwrap()));
    }

    #[test]
    fn a_slow_answer_tells_no_start() {
        let second = 1_000_000_000;
        let at = |seconds: u64| (500 * second + seconds * second, 500 * second + seconds * second);
        let first = of_uptime(100, at(0)).unwrap();
        assert!(first.is(&of_uptime(110, at(10)).unwrap()) && !first.is(&of_uptime(5, at(10)).unwrap()));
        // It said 110 s at once, and the answer came after five more.
        assert_eq!(of_uptime(110, (510 * second, 515 * second)), None);
        assert!(first.is(&of_uptime(110, (510 * second, 511 * second)).unwrap()));
    }

    /// A process of the right title that listens elsewhere is not the one that answers.
    #[test]
    fn a_start_is_taken_only_from_who_listens_at_the_address() {
        let (here, title) =
            (TcpListener::bind("127.0.0.1:0").unwrap(), fs::read("/proc/self/cmdline").unwrap());
        let title = String::from_utf8(title).unwrap();
        let addr = here.local_addr().unwrap();
        let own = of_listener(addr, &title).unwrap();
        assert_eq!(own.pid, std::process::id());
        assert_eq!(of_listener(addr, "nginx: master process "), None);
        let elsewhere: SocketAddr = ([192, 0, 2, 1], addr.port()).into();
        assert_eq!(of_listener(elsewhere, &title), None, "another machine's address");
        drop(here);
        assert_eq!(of_listener(addr, &title), None, "nobody listens");
        let any = TcpListener::bind("[::]:0").or_else(|_| TcpListener::bind("0.0.0.0:0")).unwrap();
        let addr = ([127, 0, 0, 1], any.local_addr().unwrap().port()).into();
        assert_eq!(of_listener(addr, &title), Some(own));
    }
}
