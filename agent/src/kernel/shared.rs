//! Arrays of the kernel programs, mapped into memory: read and written without a call.
//!
//! Counters are read and thresholds are written one aligned word at a time, which is whole on every
//! machine; nothing here makes several words look like one.

use std::{
    io,
    marker::PhantomData,
    os::fd::{AsRawFd, BorrowedFd, OwnedFd},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
};

/// How much of an array is mapped at a time. The kernel counts every mapped page as this process's
/// memory, touched or not, and most arrays are far larger than what is in use of them.
const STEP: usize = 64 << 10;

/// An array map of `T`.
#[derive(Debug)]
pub struct Shared<T> {
    /// Addresses for the whole array; the first `mapped` bytes lead to it.
    base: *mut u8,
    bytes: usize,
    mapped: Mutex<usize>,
    /// The same number, to be read without the lock.
    reach: AtomicUsize,
    count: usize,
    map: OwnedFd,
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
        let bytes = (count * Self::SIZE).next_multiple_of(page);
        let map = map.try_clone_to_owned()?;
        // SAFETY: a new mapping that nobody can read or write yet.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_NONE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let (mapped, reach) = (Mutex::new(0), AtomicUsize::new(0));
        let shared = Shared { base: base.cast(), bytes, mapped, reach, count, map, of: PhantomData };
        shared.map_up_to(1)?;
        Ok(shared)
    }

    const SIZE: usize = size_of::<T>().next_multiple_of(8);

    /// The value at `index`, to be used with the functions of this module. It never dangles: the
    /// mapping lives as long as `self`.
    ///
    /// # Panics
    /// `index` is not one of the array's, or the machine has no memory left to map it.
    pub fn at(&self, index: u32) -> *mut T {
        assert!((index as usize) < self.count, "index {index} of {}", self.count);
        let from = index as usize * Self::SIZE;
        if from + Self::SIZE > self.reach.load(Ordering::Acquire) {
            self.map_up_to(from + Self::SIZE).expect("memory for the kernel's counters");
        }
        // SAFETY: inside the mapping, as just checked.
        unsafe { self.base.add(from).cast() }
    }

    /// Maps whole steps until the first `end` bytes are there. What is mapped stays where it is.
    #[cold]
    fn map_up_to(&self, end: usize) -> io::Result<()> {
        let mut mapped = self.mapped.lock().unwrap_or_else(PoisonError::into_inner);
        if end <= *mapped {
            return Ok(());
        }
        let to = end.next_multiple_of(STEP).min(self.bytes);
        // SAFETY: replaces addresses of this value's own reservation that lead nowhere so far.
        let part = unsafe {
            libc::mmap(
                self.base.add(*mapped).cast(),
                to - *mapped,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_FIXED,
                self.map.as_raw_fd(),
                *mapped as libc::off_t,
            )
        };
        if part == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        *mapped = to;
        self.reach.store(to, Ordering::Release);
        Ok(())
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
