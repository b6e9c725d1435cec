//! Arrays of the kernel programs, mapped into memory: read and written without a call.
//!
//! Counters are read and thresholds are written one aligned word at a time, which is whole on every
//! machine; nothing here makes several words look like one.

use std::{
    io,
    marker::PhantomData,
    os::fd::{AsRawFd, OwnedFd},
    sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering},
};

/// By how much a mapping grows. The kernel makes every page of a mapping resident at once: an array with
/// room for 65,536 accounts would be 4 MiB of an agent that has ten.
const STEP: usize = 64 << 10;

/// An array map of `T`.
#[derive(Debug)]
pub struct Shared<T> {
    map: OwnedFd,
    base: *mut u8,
    /// Addresses that are kept for the whole array.
    bytes: usize,
    /// How much of it is mapped, from the beginning.
    mapped: usize,
    /// Values that the array has.
    count: usize,
    of: PhantomData<T>,
}

// SAFETY: the memory is only reached through atomic accesses of single words.
unsafe impl<T> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Shared<T> {}

impl<T: aya::Pod> Shared<T> {
    /// Maps the whole array behind `map`, which must hold `count` values of `T`.
    pub fn new(map: OwnedFd, count: u32) -> io::Result<Self> {
        let mut shared = Self::growing(map, count)?;
        shared.reach(count.saturating_sub(1))?;
        Ok(shared)
    }

    /// Keeps addresses for the array, and maps nothing but its beginning: see [`Self::reach`].
    pub fn growing(map: OwnedFd, count: u32) -> io::Result<Self> {
        let count = count as usize;
        let bytes = (count * Self::stride()).next_multiple_of(page()?);
        // SAFETY: new addresses, nothing behind them.
        let base = unsafe {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
            libc::mmap(std::ptr::null_mut(), bytes, libc::PROT_NONE, flags, -1, 0)
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let mut shared = Shared { map, base: base.cast(), bytes, mapped: 0, count, of: PhantomData };
        shared.reach(0)?;
        Ok(shared)
    }

    fn stride() -> usize {
        size_of::<T>().next_multiple_of(8)
    }

    /// Makes the values up to `index` reachable, if the array has so many. What was mapped before stays
    /// where it is.
    pub fn reach(&mut self, index: u32) -> io::Result<()> {
        let wanted = (index as usize).saturating_add(1).saturating_mul(Self::stride());
        let end = wanted.next_multiple_of(STEP.max(page()?)).min(self.bytes);
        if end <= self.mapped {
            return Ok(());
        }
        // SAFETY: these addresses are ours and nothing lies there yet; the file stays as long as it is.
        let got = unsafe {
            libc::mmap(
                self.base.add(self.mapped).cast(),
                end - self.mapped,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_FIXED,
                self.map.as_raw_fd(),
                self.mapped as libc::off_t,
            )
        };
        if got == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        self.mapped = end;
        Ok(())
    }

    /// The value at `index`, to be used with the functions of this module. It never dangles: the
    /// mapping lives as long as `self`.
    ///
    /// # Panics
    /// `index` is not one of the array's, or beyond what was reached for.
    pub fn at(&self, index: u32) -> *mut T {
        let at = index as usize * Self::stride();
        let reached = at + Self::stride() <= self.mapped;
        assert!((index as usize) < self.count && reached, "index {index} of {}", self.count);
        // SAFETY: inside the mapping, as just checked: both it and what is mapped are whole values, or
        // end with the array.
        unsafe { self.base.add(at).cast() }
    }
}

fn page() -> io::Result<usize> {
    Ok(4096.max(nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE)?.unwrap_or(4096) as usize))
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        // SAFETY: these addresses were taken by `growing` and nothing that `at` gave outlives `self`.
        unsafe { libc::munmap(self.base.cast(), self.bytes) };
    }
}

/// Reads a counter.
///
/// # Safety
/// `at` is a field of a value that `Shared::at` gave, here and below.
pub unsafe fn load(at: *const u64) -> u64 {
    unsafe { AtomicU64::from_ptr(at.cast_mut()) }.load(Ordering::Acquire)
}

/// Writes a word, visible before everything that is written later.
///
/// # Safety
/// See [`load`].
pub unsafe fn store(at: *mut u64, value: u64) {
    unsafe { AtomicU64::from_ptr(at) }.store(value, Ordering::SeqCst);
}

/// # Safety
/// See [`load`].
pub unsafe fn load32(at: *const u32) -> u32 {
    unsafe { AtomicU32::from_ptr(at.cast_mut()) }.load(Ordering::Acquire)
}

/// # Safety
/// See [`load`].
pub unsafe fn store32(at: *mut u32, value: u32) {
    unsafe { AtomicU32::from_ptr(at) }.store(value, Ordering::SeqCst);
}

/// # Safety
/// See [`load`].
pub unsafe fn clear32(at: *mut u32, bits: u32) {
    unsafe { AtomicU32::from_ptr(at) }.fetch_and(!bits, Ordering::SeqCst);
}

/// # Safety
/// See [`load`].
pub unsafe fn set32(at: *mut u32, bits: u32) {
    unsafe { AtomicU32::from_ptr(at) }.fetch_or(bits, Ordering::SeqCst);
}

/// # Safety
/// See [`load`].
pub unsafe fn store8(at: *mut u8, value: u8) {
    unsafe { AtomicU8::from_ptr(at) }.store(value, Ordering::SeqCst);
}

/// # Safety
/// See [`load`].
pub unsafe fn counters(at: *const boxmeter_common::user::Counters) -> boxmeter_common::user::Counters {
    // SAFETY: fields of the value that the caller vouches for.
    unsafe {
        boxmeter_common::user::Counters {
            payload: [load(&raw const (*at).payload[0]), load(&raw const (*at).payload[1])],
            wire: [load(&raw const (*at).wire[0]), load(&raw const (*at).wire[1])],
        }
    }
}
