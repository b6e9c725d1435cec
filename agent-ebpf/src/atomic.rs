//! Atomic operations on map values.
//!
//! An addition whose result is used must not be `Relaxed`: the code generator then emits a plain
//! addition and takes the addend for the old value. `fetch_add` is therefore `AcqRel`, and `add`
//! returns nothing.

use core::intrinsics::{AtomicOrdering, atomic_cxchg, atomic_or, atomic_xadd, atomic_xchg};

const RELAXED: AtomicOrdering = AtomicOrdering::Relaxed;
const ACQ_REL: AtomicOrdering = AtomicOrdering::AcqRel;
const ACQUIRE: AtomicOrdering = AtomicOrdering::Acquire;

#[inline(always)]
pub fn add(at: *mut u64, value: u64) {
    // SAFETY: every caller has the pointer from a map lookup that it checked, here and below.
    unsafe {
        atomic_xadd::<u64, u64, RELAXED>(at, value);
    }
}

#[inline(always)]
pub fn fetch_add(at: *mut u64, value: u64) -> u64 {
    // SAFETY: see `add`.
    unsafe { atomic_xadd::<u64, u64, ACQ_REL>(at, value) }
}

/// Takes what is there and leaves 0.
#[inline(always)]
pub fn take(at: *mut u64) -> u64 {
    // SAFETY: see `add`.
    unsafe { atomic_xchg::<u64, ACQ_REL>(at, 0) }
}

/// See [`take`].
#[inline(always)]
pub fn take32(at: *mut u32) -> u32 {
    // SAFETY: see `add`.
    unsafe { atomic_xchg::<u32, ACQ_REL>(at, 0) }
}

#[inline(always)]
pub fn add32(at: *mut u32, value: u32) {
    // SAFETY: see `add`.
    unsafe {
        atomic_xadd::<u32, u32, RELAXED>(at, value);
    }
}

/// Returns the bits before.
#[inline(always)]
pub fn fetch_or(at: *mut u32, bits: u32) -> u32 {
    // SAFETY: see `add`.
    unsafe { atomic_or::<u32, u32, ACQ_REL>(at, bits) }
}

/// Whether `old` was there and is `new` now.
#[inline(always)]
pub fn replace(at: *mut u32, old: u32, new: u32) -> bool {
    // SAFETY: see `add`.
    unsafe { atomic_cxchg::<u32, ACQ_REL, ACQUIRE>(at, old, new).1 }
}

/// See [`replace`].
#[inline(always)]
pub fn replace64(at: *mut u64, old: u64, new: u64) -> bool {
    // SAFETY: see `add`.
    unsafe { atomic_cxchg::<u64, ACQ_REL, ACQUIRE>(at, old, new).1 }
}

#[inline(always)]
pub fn load(at: *const u64) -> u64 {
    // SAFETY: see `add`. Aligned loads of this size are whole.
    unsafe { at.read_volatile() }
}

#[inline(always)]
pub fn load32(at: *const u32) -> u32 {
    // SAFETY: see `load`.
    unsafe { at.read_volatile() }
}
