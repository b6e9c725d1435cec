//! Reads the headers of a packet by direct access; knows nothing of maps.
//!
//! The packet begins at its IP header on both hooks. The kernel has the headers of TCP and UDP in
//! the linear part here, since it read or wrote them itself.

use aya_ebpf::bindings::__sk_buff;
use boxmeter_common::{TCP, UDP, UPLOAD};

use crate::reason::Reason;

const SYN: u8 = 2;
const RST: u8 = 4;

/// IPv6 extension headers that are stepped over. Real traffic has none or one.
const EXTENSIONS_MAX: usize = 4;

#[derive(Clone, Copy)]
pub struct Packet {
    pub network: u8,
    pub ipv6: bool,
    pub local_port: u16,
    pub peer_port: u16,
    /// Bytes from the IP header to the transport header.
    pub offset: usize,
}

/// What is only read of a watched packet.
#[derive(Clone, Copy)]
pub struct Body {
    /// The first sequence number (TCP).
    pub seq: u32,
    /// Transport payload that is new data: 0 for SYN and RST.
    pub payload: u32,
    /// IP packet bytes, counted per segment.
    pub wire: u32,
}

/// Reads a header field in one load: the kernel aligns headers so that it can do the same.
///
/// # Safety
/// `at` and the bytes after it were compared with the end of the packet.
#[inline(always)]
unsafe fn read<T: Copy>(at: usize) -> T {
    unsafe { (at as *const T).read() }
}

#[inline(always)]
fn bounds(skb: *const __sk_buff) -> (usize, usize) {
    // SAFETY: the context is readable, here and below.
    unsafe { ((*skb).data as usize, (*skb).data_end as usize) }
}

#[inline(always)]
pub fn packet<const DIR: usize>(skb: *const __sk_buff) -> Result<Packet, Reason> {
    let (data, end) = bounds(skb);
    if data + 20 > end {
        return Err(Reason::NotWatched);
    }
    // SAFETY: 20 bytes are there.
    let first: u8 = unsafe { read(data) };
    let (ipv6, network, offset) = if first >> 4 == 4 {
        // SAFETY: as above.
        let (network, fragment): (u8, u16) = unsafe { (read(data + 9), read(data + 6)) };
        if network != TCP && network != UDP {
            return Err(Reason::NotWatched);
        }
        // The hooks lie after reassembly and before fragmentation: only a raw socket does this.
        if u16::from_be(fragment) & 0x1fff != 0 {
            return Err(Reason::Unparsable);
        }
        (false, network, (first & 0xf) as usize * 4)
    } else {
        let (network, offset) = ipv6(data, end)?;
        (true, network, offset)
    };
    let at = data + offset;
    if at + 8 > end {
        return Err(Reason::Unparsable);
    }
    // SAFETY: 8 bytes are there.
    let (from, to): (u16, u16) = unsafe { (read(at), read(at + 2)) };
    let (local, peer) = if DIR == UPLOAD { (to, from) } else { (from, to) };
    Ok(Packet { network, ipv6, local_port: u16::from_be(local), peer_port: u16::from_be(peer), offset })
}

#[inline(always)]
fn ipv6(data: usize, end: usize) -> Result<(u8, usize), Reason> {
    if data + 40 > end {
        return Err(Reason::NotWatched);
    }
    // SAFETY: 40 bytes are there.
    let mut next: u8 = unsafe { read(data + 6) };
    let mut offset = 40usize;
    for _ in 0..EXTENSIONS_MAX {
        if next == TCP || next == UDP {
            break;
        }
        // Hop-by-hop, routing, destination options: (length + 1) × 8 bytes. A fragment header: 8.
        if next != 0 && next != 43 && next != 60 && next != 44 {
            return Err(Reason::NotWatched);
        }
        let at = data + offset;
        if at + 8 > end {
            return Err(Reason::Unparsable);
        }
        // SAFETY: 8 bytes are there.
        let (after, length, fragment): (u8, u8, u16) = unsafe { (read(at), read(at + 1), read(at + 2)) };
        if next == 44 {
            if u16::from_be(fragment) & 0xfff8 != 0 {
                return Err(Reason::Unparsable);
            }
            offset += 8;
        } else {
            offset += (length as usize + 1) * 8;
        }
        next = after;
    }
    if next == TCP || next == UDP { Ok((next, offset)) } else { Err(Reason::Unparsable) }
}

#[inline(always)]
pub fn tcp(skb: *const __sk_buff, packet: &Packet) -> Result<Body, Reason> {
    let (data, end) = bounds(skb);
    let at = data + packet.offset;
    if at + 20 > end {
        return Err(Reason::Unparsable);
    }
    // SAFETY: 20 bytes are there.
    let (seq, words, flags): (u32, u8, u8) = unsafe { (read(at + 4), read(at + 12), read(at + 13)) };
    let (payload, wire) = sizes(skb, packet.offset as u32 + (words >> 4) as u32 * 4)?;
    let payload = if flags & (SYN | RST) == 0 { payload } else { 0 };
    Ok(Body { seq: u32::from_be(seq), payload, wire })
}

#[inline(always)]
pub fn udp(skb: *const __sk_buff, packet: &Packet) -> Result<Body, Reason> {
    let (payload, wire) = sizes(skb, packet.offset as u32 + 8)?;
    Ok(Body { seq: 0, payload, wire })
}

/// Payload and wire bytes. A packet that stands for several segments has one header here and one
/// per segment on the wire.
#[inline(always)]
fn sizes(skb: *const __sk_buff, headers: u32) -> Result<(u32, u32), Reason> {
    // SAFETY: see `bounds`.
    let (length, segment) = unsafe { ((*skb).len, (*skb).gso_size) };
    if length < headers {
        return Err(Reason::Unparsable);
    }
    let payload = length - headers;
    let wire =
        if segment != 0 && payload > segment { length + (payload - 1) / segment * headers } else { length };
    Ok((payload, wire))
}

/// The peer's address as an IPv6 one, in words as they lie in the packet.
#[inline(always)]
pub fn peer<const DIR: usize>(skb: *const __sk_buff, packet: &Packet) -> Result<[u32; 4], Reason> {
    let (data, end) = bounds(skb);
    if packet.ipv6 {
        if data + 40 > end {
            return Err(Reason::Unparsable);
        }
        let at = data + if DIR == UPLOAD { 8 } else { 24 };
        // SAFETY: 40 bytes are there.
        Ok(unsafe { [read(at), read(at + 4), read(at + 8), read(at + 12)] })
    } else {
        if data + 20 > end {
            return Err(Reason::Unparsable);
        }
        // SAFETY: 20 bytes are there.
        let address: u32 = unsafe { read(data + if DIR == UPLOAD { 12 } else { 16 }) };
        Ok([0, 0, 0xffff_u32.to_be(), address])
    }
}

/// The data in a TCP header's own segment at `PASSIVE_ESTABLISHED`: first sequence number and
/// length, from the 14 first bytes of the header and the length of header and data.
#[inline(always)]
pub fn segment(header: *const u8, length: u32) -> (u32, u32) {
    // SAFETY: the caller compared 20 bytes with the end of the packet.
    let (seq, words, flags): (u32, u8, u8) =
        unsafe { (read(header as usize + 4), read(header as usize + 12), read(header as usize + 13)) };
    let headers = (words >> 4) as u32 * 4;
    let seq = u32::from_be(seq);
    // SYN takes a sequence number, and data in it (fast open) begins after that.
    let seq = if flags & SYN != 0 { seq.wrapping_add(1) } else { seq };
    let payload = if length > headers && flags & RST == 0 { length - headers } else { 0 };
    (seq, payload)
}
