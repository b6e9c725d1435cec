//! Arrays of the kernel programs, mapped into memory: read and written without a call.
//!
//! Counters are read and thresholds are written one aligned word at a time, which is whole on every
//! machine; nothing here makes several words look like one.

use std::{
    io,
    marker::PhantomData,
    os::fd::{AsRawFd, BorrowedFd},
    sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering},
};

/// An array map of `T`.
#[derive(Debug)]
pub struct Shared<T> {
    base: *mut u8,
    bytes: usize,
    count: usize,
    of: PhantomData<T>,
}

// SAFETY: the memory is only reached through atomic accesses of single words.
unsafe impl<T> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Shared<T> {}

impl<T: aya::Pod> Shared<T> {
    /// Maps the array behind `map`, which must hold `count` values of `T`.
    pub fn new(map: BorrowedFd<'_>, count: u32) -> io::Result<Self> {
        let count = count as usize;
        let page =
            4096.max(nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE)?.unwrap_or(4096) as usize);
        let bytes = (count * size_of::<T>().next_multiple_of(8)).next_multiple_of(page);
        // SAFETY: a new shared mapping of a file that stays as long as it is.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                map.as_raw_fd(),
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Shared { base: base.cast(), bytes, count, of: PhantomData })
    }

    /// The value at `index`, to be used with the functions of this module. It never dangles: the
    /// mapping lives as long as `self`.
    ///
    /// # Panics
    /// `index` is not one of the array's.
    pub fn at(&self, index: u32) -> *mut T {
        assert!((index as usize) < self.count, "index {index} of {}", self.count);
        // SAFETY: inside the mapping, as just checked.
        unsafe { self.base.add(index as usize * size_of::<T>().next_multiple_of(8)).cast() }
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        // SAFETY: this mapping was made by `new` and nothing that `at` gave outlives `self`.
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
