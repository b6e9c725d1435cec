//! Owns `RATES`: what each user's rates let through, and the grant that its TCP flows share. See
//! `boxmeter_common::rate`.

use aya_ebpf::macros::btf_map;
use boxmeter_common::{
    DOWNLOAD, UPLOAD,
    rate::{Lane, RATES_MAX, Rate},
    user::Counters,
};

use crate::{
    atomic, clock,
    map::{ARRAY, MMAPABLE, Map},
};

#[btf_map]
static RATES: Map<u32, Rate, ARRAY, { RATES_MAX as usize }, MMAPABLE> = Map::new();

const SECOND_NS: u64 = 1_000_000_000;
const MS_NS: u64 = 1_000_000;

/// The debt up to which UDP passes: a burst of a fifth of a second.
const UDP_DEBT_NS: u64 = 200 * MS_NS;
/// The debt up to which TCP passes on its way in. The window keeps it far below, except where the
/// round-trip time is so short that the smallest window is too large.
const TCP_DEBT_NS: u64 = 800 * MS_NS;
/// The debt that TCP is steered to: above zero, because time that passes without a debt is lost.
const AIM_NS: u64 = 40 * MS_NS;
/// A debt beyond this is forgiven.
const DEBT_MAX_NS: u64 = 2 * SECOND_NS;
/// A debt from which the grant is corrected before the interval is over.
const HURRY_NS: u64 = 100 * MS_NS;

const INTERVAL_MIN_NS: u64 = 100 * MS_NS;
const INTERVAL_MAX_NS: u64 = 2 * SECOND_NS;
/// Packets that an interval should hold at least: fewer say little about the rate.
const PACKETS_MIN: u64 = 24;

/// Factors below have this denominator.
const ONE: u64 = 1024;

/// No grant is smaller; a flow may offer a segment in any case.
const WINDOW_MIN: u64 = 1_024;
/// The window that a flow may always grow to, however short its round-trip time seems.
const WINDOW_FREE: u64 = 16 << 10;
const WINDOW_MAX: u64 = 64 << 20;
/// Bytes per second of a TCP flow.
const PACE_MIN: u64 = 1_000;

#[inline(always)]
pub fn lane(slot: u32, direction: u32) -> Option<*mut Lane> {
    let rate = RATES.get(&slot)?;
    // SAFETY: a checked map value.
    Some(unsafe {
        if direction as usize == UPLOAD {
            &raw mut (*rate).lanes[UPLOAD]
        } else {
            &raw mut (*rate).lanes[DOWNLOAD]
        }
    })
}

/// Whether anybody has a rate in this direction.
#[inline(always)]
pub fn in_use(direction: u32) -> bool {
    // SAFETY: a checked map value.
    lane(0, direction).is_some_and(|lane| unsafe { atomic::load(&raw const (*lane).rate) } != 0)
}

/// Counts a packet of the user, or says that it must be dropped.
#[inline(never)]
pub fn pass(slot: u32, direction: u32, payload: u32, tcp: u32) -> u32 {
    let Some(lane) = lane(slot, direction) else { return 1 };
    // SAFETY: a checked map value, here and below.
    let (rate, debt_end) =
        unsafe { (atomic::load(&raw const (*lane).rate), atomic::load(&raw const (*lane).clock_ns)) };
    // Acknowledgements are never held back: they are the other direction's business.
    if rate == 0 || payload == 0 {
        return 1;
    }
    let now = clock::coarse_ns();
    let debt = debt_end.saturating_sub(now);
    let (since, until) =
        unsafe { (atomic::load(&raw const (*lane).since_ns), atomic::load(&raw const (*lane).until_ns)) };
    // What the last grant led to is counted from `since` on.
    let counted = if now < since { 0 } else { payload as u64 };
    if tcp == 0 {
        unsafe { atomic::add(&raw mut (*lane).udp, counted) };
        if debt > UDP_DEBT_NS {
            return 0;
        }
    } else {
        if direction as usize == UPLOAD && debt > TCP_DEBT_NS {
            return 0;
        }
        unsafe {
            atomic::add(&raw mut (*lane).tcp, counted);
            atomic::add32(&raw mut (*lane).packets, (counted != 0) as u32);
        }
    }
    owe(lane, now, debt_end, payload as u64, rate);
    if now >= until || (debt > HURRY_NS && now.saturating_sub(since) >= INTERVAL_MIN_NS / 4) {
        turn(lane, direction, now);
    }
    1
}

/// Adds to the debt.
#[inline(always)]
fn owe(lane: *mut Lane, now: u64, debt_end: u64, bytes: u64, rate: u64) {
    if rate == 0 || debt_end.saturating_sub(now) > DEBT_MAX_NS {
        return;
    }
    // SAFETY: see `pass`.
    unsafe {
        let at = &raw mut (*lane).clock_ns;
        if debt_end < now {
            // Whoever fails here was overtaken by another packet of the user, which did the same.
            atomic::replace64(at, debt_end, now);
        }
        atomic::add(at, bytes * SECOND_NS / rate);
    }
}

/// What passed before its owner was known is owed as well.
#[inline(never)]
pub fn settled(slot: u32, moved: &Counters) -> u32 {
    // Not every kind of program that settles may ask for the coarse time.
    let now = clock::now_ns();
    let mut direction = 0;
    while direction < 2 {
        if let Some(lane) = lane(slot, direction) {
            let bytes =
                if direction as usize == UPLOAD { moved.payload[UPLOAD] } else { moved.payload[DOWNLOAD] };
            // SAFETY: see `pass`.
            let (rate, end) =
                unsafe { (atomic::load(&raw const (*lane).rate), atomic::load(&raw const (*lane).clock_ns)) };
            owe(lane, now, end, bytes.min(rate), rate);
        }
        direction += 1;
    }
    0
}

/// Ends the interval: corrects the grant by what it led to.
#[inline(never)]
fn turn(lane: *mut Lane, direction: u32, now: u64) -> u32 {
    // SAFETY: see `pass`.
    unsafe {
        let (since, until) =
            (atomic::load(&raw const (*lane).since_ns), atomic::load(&raw const (*lane).until_ns));
        let rate = atomic::load(&raw const (*lane).rate);
        // One of several CPUs does it, and the others go on.
        if rate == 0 || !atomic::replace64(&raw mut (*lane).until_ns, until, now + INTERVAL_MIN_NS) {
            return 0;
        }
        let (tcp, udp) = (atomic::take(&raw mut (*lane).tcp), atomic::take(&raw mut (*lane).udp));
        let packets = atomic::take32(&raw mut (*lane).packets) as u64;
        let rtt_ns = atomic::load32(&raw const (*lane).rtt_us) as u64 * 1_000;
        // Longer round-trip times are heard of again; shorter ones would never be.
        (&raw mut (*lane).rtt_us).write_volatile((rtt_ns / 1_000 * 7 / 8) as u32);
        // What the new grant leads to is seen from the next round trip on.
        let interval = interval(tcp, packets, rate);
        (&raw mut (*lane).since_ns).write_volatile(now + rtt_ns);
        (&raw mut (*lane).until_ns).write_volatile(now + rtt_ns + interval);
        let lasted = now.saturating_sub(since);
        let debt = atomic::load(&raw const (*lane).clock_ns).saturating_sub(now);
        let most = ceiling(direction, rate, rtt_ns);
        let before = atomic::load(&raw const (*lane).grant);
        let grant = if lasted == 0 || lasted > 8 * interval {
            // After a rest nothing is known about what comes.
            0
        } else {
            let udp_rate = per_second(udp, lasted).min(rate / 2);
            let aim = corrected(rate - udp_rate, debt);
            let first = if direction as usize == UPLOAD { most / 4 } else { rate };
            let before = if before == 0 { first } else { before };
            let least = if direction as usize == UPLOAD { WINDOW_MIN } else { (rate / 1_024).max(PACE_MIN) };
            (before * factor(per_second(tcp, lasted), aim) / ONE).min(most).max(least)
        };
        (&raw mut (*lane).grant).write_volatile(grant);
    }
    0
}

#[inline(always)]
fn per_second(bytes: u64, ns: u64) -> u64 {
    if ns == 0 { 0 } else { bytes * (SECOND_NS / 1_000) / (ns / 1_000 + 1) }
}

/// Long enough for its packets to say something.
#[inline(always)]
fn interval(tcp: u64, packets: u64, rate: u64) -> u64 {
    if rate == 0 || packets == 0 {
        return INTERVAL_MIN_NS;
    }
    let for_packets = tcp / packets * PACKETS_MIN * (SECOND_NS / 1_000) / rate * 1_000;
    for_packets.max(INTERVAL_MIN_NS).min(INTERVAL_MAX_NS)
}

#[inline(always)]
fn ceiling(direction: u32, rate: u64, rtt_ns: u64) -> u64 {
    if direction as usize == UPLOAD {
        // Twice what the user's longest round-trip time needs: a window that does not bind only
        // delays the moment at which it will.
        (rate / 1_000 * (2 * rtt_ns / 1_000) / 1_000).max(WINDOW_FREE).min(WINDOW_MAX)
    } else {
        // Pacing counts headers, too.
        rate + rate / 16
    }
}

/// The rate to aim at, so that the debt goes to `AIM_NS` within half a second.
#[inline(always)]
fn corrected(rate: u64, debt: u64) -> u64 {
    let permille = if debt < AIM_NS {
        1_000 + (AIM_NS - debt) / MS_NS
    } else {
        1_000 - (2 * (debt - AIM_NS) / MS_NS).min(500)
    };
    rate * permille / 1_000
}

/// What the grant is multiplied by: the whole way down when it led to far too much, half the way
/// otherwise, because its effect comes with a delay.
#[inline(always)]
fn factor(carried: u64, aim: u64) -> u64 {
    let ratio = if carried == 0 { 3 * ONE } else { (aim * ONE / carried).min(3 * ONE).max(ONE / 8) };
    if ratio < ONE * 3 / 4 {
        ratio
    } else if ratio > ONE - ONE / 64 && ratio < ONE + ONE / 64 {
        ONE
    } else {
        (ONE + ratio) / 2
    }
}
