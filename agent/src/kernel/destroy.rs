//! Ends TCP connections from outside of the process that has them (sock_diag, `SOCK_DESTROY`), so
//! that both peers notice.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable, NetlinkMessage, NetlinkPayload,
    NetlinkSerializable,
};
use netlink_packet_sock_diag::{
    AF_INET, AF_INET6, IPPROTO_TCP, SockDiagDestroy, SockDiagMessage,
    inet::{ExtensionFlags, InetRequest, InetResponseHeader, SocketId, StateFlags},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_SOCK_DIAG};

use super::{error::KernelError, load::Kernel};
use crate::core::event::{FlowId, FlowSeen, Network};

/// What became of the flows that were to be ended.
#[derive(Debug, Default)]
pub struct Destroyed {
    /// Ended now.
    pub ended: usize,
    /// Not there any more.
    pub gone: usize,
    /// The kernel said no.
    pub failed: Vec<(FlowId, io::Error)>,
}

impl Kernel {
    /// Ends these TCP flows, wherever in the namespaces (`set_namespaces`) their sockets are; other
    /// flows are passed over. The process that has a socket gets an error from it, the client a
    /// reset.
    ///
    /// # Errors
    /// A namespace cannot be entered, or the sockets in it cannot be listed. What was ended before
    /// stays so.
    pub fn destroy(&self, flows: &[FlowSeen]) -> Result<Destroyed, KernelError> {
        let mut wanted: BTreeMap<u64, &FlowSeen> =
            flows.iter().filter(|flow| flow.network == Network::Tcp).map(|flow| (flow.id.0, flow)).collect();
        let ports: BTreeMap<u32, u16> =
            self.inbounds().into_iter().map(|inbound| (inbound.index.0, inbound.port)).collect();
        let mut result = Destroyed::default();
        for namespace in &self.namespaces {
            if wanted.is_empty() {
                break;
            }
            let local: BTreeSet<u16> =
                wanted.values().filter_map(|flow| ports.get(&flow.inbound.0).copied()).collect();
            let done = namespace
                .run(|| destroy_here(&local, &wanted))
                .map_err(KernelError::io("sock_diag: ending connections"))?;
            for (id, outcome) in done {
                wanted.remove(&id);
                match outcome {
                    Ok(()) => result.ended += 1,
                    // Another socket took its place, or it ended by itself in between.
                    Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESTALE)) => {
                        result.gone += 1;
                    }
                    Err(error) => result.failed.push((FlowId(id), error)),
                }
            }
        }
        result.gone += wanted.len();
        Ok(result)
    }
}

type Outcomes = Vec<(u64, io::Result<()>)>;

fn destroy_here(ports: &BTreeSet<u16>, wanted: &BTreeMap<u64, &FlowSeen>) -> io::Result<Outcomes> {
    let socket = open()?;
    let mut found = Vec::new();
    for port in ports {
        for family in [AF_INET, AF_INET6] {
            list(&socket, family, *port, &mut found)?;
        }
    }
    let mut done = Vec::new();
    for header in found {
        let id = u64::from_ne_bytes(header.socket_id.cookie);
        if wanted.contains_key(&id) {
            done.push((id, destroy_one(&socket, header.family, header.socket_id)));
        }
    }
    Ok(done)
}

fn open() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    Ok(socket)
}

fn request(family: u8, states: StateFlags, socket_id: SocketId) -> SockDiagMessage {
    SockDiagMessage::InetRequest(InetRequest {
        family,
        protocol: IPPROTO_TCP,
        extensions: ExtensionFlags::empty(),
        states,
        socket_id,
    })
}

fn send<M: NetlinkSerializable>(
    socket: &Socket,
    flags: u16,
    payload: impl Into<NetlinkPayload<M>>,
) -> io::Result<()> {
    let mut message = NetlinkMessage::new(Default::default(), payload.into());
    message.header.flags = flags;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send(&bytes, 0).map(drop)
}

/// Receives one datagram and hands over its messages until `each` says that it was the last.
fn receive<M: NetlinkDeserializable>(
    socket: &Socket,
    mut each: impl FnMut(NetlinkPayload<M>) -> io::Result<bool>,
) -> io::Result<()> {
    loop {
        let (bytes, _) = socket.recv_from_full()?;
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let message = NetlinkMessage::<M>::deserialize(rest).map_err(io::Error::other)?;
            let length = (message.header.length as usize).next_multiple_of(4);
            rest = rest.get(length.max(16)..).unwrap_or_default();
            if each(message.payload)? {
                return Ok(());
            }
        }
    }
}

/// Every TCP socket with a peer on a local port.
fn list(socket: &Socket, family: u8, port: u16, found: &mut Vec<InetResponseHeader>) -> io::Result<()> {
    let mut id = if family == AF_INET { SocketId::new_v4() } else { SocketId::new_v6() };
    id.source_port = port;
    let states = StateFlags::all() - StateFlags::LISTEN - StateFlags::TIME_WAIT;
    send::<SockDiagMessage>(socket, NLM_F_REQUEST | NLM_F_DUMP, request(family, states, id))?;
    receive::<SockDiagMessage>(socket, |payload| match payload {
        NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) => {
            found.push(response.header);
            Ok(false)
        }
        NetlinkPayload::Done(_) => Ok(true),
        NetlinkPayload::Error(error) => Err(error.to_io()),
        _ => Ok(false),
    })
}

fn destroy_one(socket: &Socket, family: u8, id: SocketId) -> io::Result<()> {
    let message = SockDiagDestroy::new(request(family, StateFlags::all(), id));
    send::<SockDiagDestroy>(socket, NLM_F_REQUEST | NLM_F_ACK, message)?;
    receive::<SockDiagMessage>(socket, |payload| match payload {
        NetlinkPayload::Error(error) if error.code.is_some() => Err(error.to_io()),
        NetlinkPayload::Error(_) => Ok(true),
        _ => Ok(false),
    })
}

/// Whether this kernel ends sockets on request: asked for one that cannot exist. `Err`: why not.
pub(super) fn offered() -> Result<String, String> {
    let ask = || {
        let socket = open()?;
        // A kernel without the module for TCP answers here; below it would look like a missing socket.
        list(&socket, AF_INET, 1, &mut Vec::new())?;
        destroy_one(&socket, AF_INET, SocketId::new_v4())
    };
    match ask() {
        Ok(()) => Ok("connections of a cut user are ended".to_string()),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
            Ok("connections of a cut user are ended".to_string())
        }
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
            Err("the kernel does not end sockets on request (it needs CONFIG_INET_DIAG_DESTROY): clients of a cut \
                 user notice by their own timeouts"
                .to_string())
        }
        Err(error) => Err(format!("asking the kernel to end a socket failed: {error}")),
    }
}
