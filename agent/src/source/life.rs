//! Which start of a service counters belong to, and whether it is the service that says so: what the machine and the
//! service say about it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::{IpAddr, SocketAddr},
};

use nix::ifaddrs::{InterfaceAddress, getifaddrs};
use uuid::Uuid;

use crate::{
    core::counters::Life,
    singbox::{process, trust},
};

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

/// Why nobody at an address is believed; the text says what to do.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stranger {
    #[error(
        "nothing that is root's listens at {addr}, so that what answers there is not believed; is it running?"
    )]
    Nobody { addr: SocketAddr },
    #[error(
        "what listens at {addr} is user {uid}'s and not the service's own, so that it is not asked: whoever it is \
         could bill anybody; is the service running?"
    )]
    User { addr: SocketAddr, uid: u32 },
}

/// Where a service answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// On another machine, or in a container: who may answer there is not for this machine to see.
    Elsewhere,
    /// Here: the inodes of the sockets that take its clients. No other sockets have them.
    Here(BTreeSet<u64>),
}

/// Who takes clients at an address, if that may be the service: any account of the machine can listen where a service
/// does that is not running, so that the sockets must be root's or those of the process that is known. To be looked
/// at before and after a question: the same sockets were there in between, and nobody else's can be beside them.
///
/// # Errors
/// It may be anybody.
pub fn place(addr: SocketAddr, process: Option<(u32, u64)>) -> Result<Place, Stranger> {
    let tables = match process {
        // Its sockets are in its own network namespace.
        Some((pid, _)) => format!("/proc/{pid}/net"),
        None if is_local(addr.ip()) => "/proc/thread-self/net".to_owned(),
        None => return Ok(Place::Elsewhere),
    };
    let sockets = listeners(&tables, addr);
    if sockets.is_empty() {
        return Err(Stranger::Nobody { addr });
    }
    let strange = sockets.values().find(|uid| **uid != 0).copied();
    let sockets: BTreeSet<u64> = sockets.into_keys().collect();
    let is_its = |known: (u32, u64)| has_all(known.0, &sockets) && process::is_alive(known);
    match strange {
        Some(uid) if !process.is_some_and(is_its) => Err(Stranger::User { addr, uid }),
        _ => Ok(Place::Here(sockets)),
    }
}

fn is_local(ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    let is_own = |own: &InterfaceAddress| {
        let own = own.address.as_ref();
        let four = own.and_then(|it| it.as_sockaddr_in()).map(|it| IpAddr::from(it.ip()));
        four.or(own.and_then(|it| it.as_sockaddr_in6()).map(|it| it.ip().into())) == Some(ip)
    };
    // One that cannot be asked for its addresses may have this one.
    ip.is_loopback()
        || ip.is_unspecified()
        || getifaddrs().map_or(true, |mut all| all.any(|own| is_own(&own)))
}

/// Of the one process of root's with this title that has what listens at a place. `None` where that is another
/// machine's, somebody else listens there, or two such processes do, as while a program is exchanged: who answers
/// is not known then.
pub fn of_title(place: &Place, title: &str) -> Option<Life> {
    let Place::Here(sockets) = place else { return None };
    let entries = fs::read_dir("/proc").ok()?.flatten();
    let mut found = entries.filter_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        // First: others could make whoever reads their titles wait without end.
        trust::is_roots(pid).ok()?;
        let says = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        (says.starts_with(title.as_bytes()) && has_all(pid, sockets)).then_some(pid)
    });
    let pid = found.next()?;
    if found.next().is_some() {
        return None;
    }
    of_process(pid, process::start_ticks(pid).ok()?)
}

/// The inodes of what takes clients at this address, by the tables of a network namespace, and whose each is.
fn listeners(tables: &str, addr: SocketAddr) -> BTreeMap<u64, u32> {
    let (mut exact, mut any) = (BTreeMap::new(), BTreeMap::new());
    for table in ["tcp", "tcp6"] {
        let text = fs::read_to_string(format!("{tables}/{table}")).unwrap_or_default();
        let found = text.lines().skip(1).filter_map(listener);
        for Listener { local, uid, inode } in found.filter(|found| found.local.port() == addr.port()) {
            if local.ip().to_canonical() == addr.ip().to_canonical() {
                exact.insert(inode, uid);
            } else if local.ip().is_unspecified() && (local.is_ipv6() || addr.is_ipv4()) {
                any.insert(inode, uid);
            }
        }
    }
    // The kernel gives clients to whoever names the address.
    if exact.is_empty() { any } else { exact }
}

struct Listener {
    local: SocketAddr,
    /// Who made the socket.
    uid: u32,
    inode: u64,
}

/// One line of `/proc/net/tcp` or `tcp6`, if somebody listens there.
fn listener(line: &str) -> Option<Listener> {
    let mut fields = line.split_ascii_whitespace();
    let (ip, port) = fields.nth(1)?.split_once(':')?;
    let listens = fields.nth(1)? == "0A";
    let uid = fields.nth(3)?.parse().ok()?;
    let inode = fields.nth(1)?.parse().ok()?;
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
    (listens && inode != 0).then_some(Listener { local: SocketAddr::new(ip, port), uid, inode })
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

    /// A listener of somebody's: whoever runs the tests, or, where that is root, another user.
    fn somebodys() -> (TcpListener, u32) {
        let bind = || {
            let own = nix::unistd::Uid::current();
            let somebody = if own.is_root() { nix::unistd::Uid::from_raw(4242) } else { own };
            // Of this thread alone.
            nix::unistd::setfsuid(somebody);
            (TcpListener::bind("127.0.0.1:0").unwrap(), somebody.as_raw())
        };
        std::thread::spawn(bind).join().unwrap()
    }

    /// Any account can listen where a service does not, and would be asked what everybody used.
    #[test]
    fn nobody_is_believed_but_root_and_the_process_itself() {
        let (theirs, uid) = somebodys();
        let addr = theirs.local_addr().unwrap();
        assert_eq!(place(addr, None), Err(Stranger::User { addr, uid }));
        assert_eq!(
            place(([127, 0, 0, 2], addr.port()).into(), None).unwrap_err().to_string().get(..7),
            Some("nothing")
        );
        let known = |pid: u32| Some((pid, process::start_ticks(pid).unwrap()));
        let Ok(Place::Here(sockets)) = place(addr, known(std::process::id())) else { panic!("its own") };
        assert_eq!(sockets.len(), 1);
        let (pid, ticks) = known(std::process::id()).unwrap();
        assert!(place(addr, Some((pid, ticks + 1))).is_err(), "another one had the pid");
        assert!(place(addr, known(1)).is_err(), "the process is there, and the socket is not its own");
        drop(theirs);
        assert_eq!(place(addr, known(pid)), Err(Stranger::Nobody { addr }));
        assert_eq!(place(([192, 0, 2, 1], addr.port()).into(), None), Ok(Place::Elsewhere));
        assert!(is_local([127, 9, 9, 9].into()) && is_local("::ffff:127.0.0.1".parse().unwrap()));
    }

    /// A process of the right title that listens elsewhere is not the one that answers.
    #[test]
    fn a_start_is_taken_only_from_who_listens_at_the_address() {
        let here = TcpListener::bind("127.0.0.1:0").unwrap();
        let title = String::from_utf8(fs::read("/proc/self/cmdline").unwrap()).unwrap();
        let addr = here.local_addr().unwrap();
        let pid = std::process::id();
        let known = (pid, process::start_ticks(pid).unwrap());
        let found = |addr, title: &str| of_title(&place(addr, Some(known)).unwrap(), title);
        let own = of_process(known.0, known.1).filter(|_| trust::is_roots(pid).is_ok());
        assert_eq!(found(addr, &title), own, "root's processes only");
        assert_eq!(found(addr, "nginx: master process "), None);
        assert_eq!(of_title(&Place::Elsewhere, &title), None, "another machine's address");
        let any = TcpListener::bind("[::]:0").or_else(|_| TcpListener::bind("0.0.0.0:0")).unwrap();
        let addr = ([127, 0, 0, 1], any.local_addr().unwrap().port()).into();
        assert_eq!(found(addr, &title), own);
    }
}
