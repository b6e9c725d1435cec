//! Clients whose address is not one: QUIC connections that move, and connections over several paths.

use crate::metered;
use boxmeter_tests::{
    agent::Agent,
    cases::named,
    direct::{PORT, exchange, sign_in},
    needs_machine,
    questions::exact,
    singbox::{Dropped, SERVER, Site, VERSIONS},
    wait,
};
use serde_json::{Value, json};
use std::{
    io,
    net::{Ipv4Addr, TcpStream},
    os::fd::{AsRawFd, FromRawFd},
};

/// A QUIC connection lives on when its client's address changes. The first stream after that tells whose the new
/// address is, and what has come from there before it is that user's too.
#[test]
fn a_quic_client_that_changes_its_address_is_followed() {
    needs_machine!();
    for version in VERSIONS {
        let mut site = Site::new(version, &[named("hysteria2"), named("tuic")]);
        let agent = metered(&site);
        site.drive(1);
        let addresses =
            |site: &Site| site.users.iter().map(|user| user.relay.udp_peers()).collect::<Vec<_>>();
        let before = addresses(&site);
        site.users.iter().for_each(|user| user.relay.rebind());
        site.drive(1);
        for (before, after) in before.iter().zip(addresses(&site)) {
            assert!(
                !after.is_empty() && after.iter().all(|peer| !before.contains(peer)),
                "{before:?} {after:?}"
            );
        }
        site.stop_client();
        exact(&site, &agent, &Dropped::new());
    }
}

/// Each way.
const MOVED: u64 = 20 << 20;

/// A second path joins by a token: nothing that sing-box tells has its address. Its bytes are nobody's, and counted as
/// such, and `doctor` says how to close that way.
#[test]
fn a_second_path_of_multipath_tcp_is_nobodys_and_told() {
    needs_machine!();
    // 1.12 does not listen with Multipath TCP.
    for version in &VERSIONS[1..] {
        let site = Site::new(version, &[named("socks")]);
        let agent = metered(&site);
        for netns in [&site.inside, &site.outside] {
            netns.ip(&["mptcp", "limits", "set", "subflow", "2", "add_addr_accepted", "2"]);
        }
        site.outside.ip(&["mptcp", "endpoint", "add", "10.77.0.3", "subflow"]);
        let name = site.users[0].name.clone();
        let config: Value = serde_json::from_slice(&std::fs::read(site.config()).unwrap()).unwrap();
        let password = config["inbounds"][0]["users"][0]["password"].as_str().unwrap();
        site.outside.run(|| {
            let mut stream = sign_in(multipath().unwrap(), &site, &name, password).unwrap();
            wait("the second path is there", || match subflows(&stream) {
                1.. => Ok(()),
                none => Err(none.to_string()),
            });
            exchange(&mut stream, MOVED, MOVED).unwrap();
        });
        wait("all is on the books", || {
            let (usage, audit) = (agent.ask(&["usage"])?, agent.ask(&["audit"])?);
            if audit["difference_bytes"] != json!(0) {
                return Err(audit.to_string());
            }
            let hers = Agent::payload(&usage, &name);
            let free = ["upload_payload_bytes", "download_payload_bytes"]
                .map(|key| audit["unattributed"][key].as_u64().unwrap());
            // What goes over both paths, since one is slow to acknowledge it, is there twice.
            let whole = |at: usize| hers[at] > 0 && hers[at] + free[at] >= MOVED;
            match whole(0) && whole(1) && free[0] + free[1] > 0 {
                true => Ok(()),
                false => Err(format!("{hers:?} {free:?}")),
            }
        });
        assert_eq!(Agent::payload(&agent.done(&["usage"]), &site.users[1].name), [0, 0]);
        let doctor = String::from_utf8_lossy(&agent.command(&["doctor"]).stdout).into_owned();
        let told: Value = serde_json::from_str(&doctor).unwrap();
        let rows = told["findings"].as_array().unwrap();
        let row = rows.iter().find(|row| row["id"] == json!("mptcp")).unwrap_or_else(|| panic!("{told}"));
        assert!(row.to_string().contains("GODEBUG=multipathtcp=0"), "{row}");
    }
}

/// A connection of Multipath TCP to the site's first inbound.
fn multipath() -> io::Result<TcpStream> {
    // SAFETY: a bare system call; what it returns is nobody else's.
    let socket =
        unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, libc::IPPROTO_MPTCP) };
    if socket < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: see above.
    let stream = unsafe { TcpStream::from_raw_fd(socket) };
    let server: Ipv4Addr = SERVER[0].parse().map_err(io::Error::other)?;
    // SAFETY: zero is a valid value of every field.
    let mut address: libc::sockaddr_in = unsafe { std::mem::zeroed() };
    address.sin_family = libc::AF_INET as libc::sa_family_t;
    address.sin_port = PORT.to_be();
    address.sin_addr.s_addr = u32::from(server).to_be();
    let length = size_of::<libc::sockaddr_in>() as libc::socklen_t;
    // SAFETY: the address lives as long as the call and has that length.
    match unsafe { libc::connect(socket, (&raw const address).cast(), length) } {
        0 => Ok(stream),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Paths beside the first (`mptcpi_subflows`, linux/mptcp.h).
fn subflows(stream: &TcpStream) -> u8 {
    const SOL_MPTCP: libc::c_int = 284;
    const MPTCP_INFO: libc::c_int = 1;
    let mut info = [0_u8; 256];
    let mut length = info.len() as libc::socklen_t;
    // SAFETY: the buffer has room for `length` bytes.
    let result = unsafe {
        libc::getsockopt(stream.as_raw_fd(), SOL_MPTCP, MPTCP_INFO, info.as_mut_ptr().cast(), &raw mut length)
    };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
    info[0]
}
