//! Owns `MAILBOX` and `COMMAND`: what the agent asks for. One run works off one command; a run is
//! never half done, so that bytes move once whatever happens to the agent.

use aya_ebpf::macros::btf_map;
use boxmeter_common::{
    UDP,
    command::{
        COMMANDS_MAX, Command, Mailbox, OP_CLOSE_PEER, OP_EXPIRE, OP_FORGET_PEER, OP_OWN, OP_SHARED,
        RESULT_ENDED, RESULT_FULL, RESULT_NOT_FOUND, RESULT_NOTED, RESULT_TAKEN,
    },
    flow::FlowKey,
    stats::Stat,
    user::Counters,
};

use crate::{
    atomic, closed,
    map::{ARRAY, Inserted, MMAPABLE, Map},
    owners, peers, stats, users,
};

#[btf_map]
static MAILBOX: Map<u32, Mailbox, ARRAY, 1, MMAPABLE> = Map::new();

#[btf_map]
static COMMAND: Map<u32, Command, ARRAY, { COMMANDS_MAX as usize }, MMAPABLE> = Map::new();

#[inline(always)]
pub fn run() {
    let Some(mailbox) = MAILBOX.get(&0) else { return };
    // SAFETY: a checked map value, here and below.
    let (next, count) = unsafe { (&raw mut (*mailbox).next, &raw const (*mailbox).count) };
    let at = atomic::load(next);
    if at >= atomic::load(count) {
        return;
    }
    let Some(command) = COMMAND.get(&(at as u32)) else { return };
    let mut moved = Counters { payload: [0; 2], wire: [0; 2] };
    // SAFETY: as above. The agent does not touch the entry while it waits for the call.
    unsafe {
        let key = FlowKey {
            peer: (*command).key.peer,
            inbound: (*command).key.inbound,
            peer_port: (*command).key.peer_port,
            network: (*command).key.network,
            pad: 0,
        };
        (*command).result = one(command, &key, &mut moved);
        (*command).settled.payload[0] = moved.payload[0];
        (*command).settled.payload[1] = moved.payload[1];
        (*command).settled.wire[0] = moved.wire[0];
        (*command).settled.wire[1] = moved.wire[1];
        next.write_volatile(at + 1);
    }
}

#[inline(always)]
fn one(command: *const Command, key: &FlowKey, moved: &mut Counters) -> u32 {
    // SAFETY: see `run`.
    let (op, id, slot, before_ns) =
        unsafe { ((*command).op, (*command).id, (*command).slot, (*command).before_ns) };
    match op {
        OP_OWN if slot == 0 || users::account(slot).is_none() => RESULT_NOT_FOUND,
        OP_OWN if key.network == UDP => peers::own(key, id, slot, moved),
        OP_OWN => own_socket(id, slot, moved),
        OP_EXPIRE => expire(id, moved),
        OP_CLOSE_PEER => peers::close(key, id, before_ns),
        OP_FORGET_PEER => peers::forget(key, id, moved),
        OP_SHARED if key.network == UDP => peers::shared(key, id),
        _ => RESULT_NOT_FOUND,
    }
}

/// A live socket's storage is out of reach here: the owner is noted, and the socket picks it up
/// with its next packet, at its close, or on the agent's walk, whichever comes first.
#[inline(always)]
fn own_socket(id: u64, slot: u32, moved: &mut Counters) -> u32 {
    let noted = owners::note(id, slot);
    if noted == Inserted::Exists && owners::noted(id) != Some(slot) {
        return RESULT_TAKEN;
    }
    if closed::claim(id, slot, moved) {
        owners::forget(id);
        return RESULT_ENDED;
    }
    if noted == Inserted::Full { RESULT_FULL } else { RESULT_NOTED }
}

#[inline(always)]
fn expire(id: u64, moved: &mut Counters) -> u32 {
    if closed::claim(id, 0, moved) {
        stats::count(Stat::EndedUnowned);
        RESULT_ENDED
    } else {
        RESULT_NOT_FOUND
    }
}
