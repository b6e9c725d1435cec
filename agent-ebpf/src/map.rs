//! How a map is declared (as BTF, in `.maps`) and reached. Which maps there are is said by the
//! modules that own them: each holds its maps as private statics.

use core::{ffi::c_void, ptr};

use aya_ebpf::helpers::generated::{bpf_map_delete_elem, bpf_map_lookup_elem, bpf_map_update_elem};

pub const HASH: usize = 1;
pub const ARRAY: usize = 2;
pub const SK_STORAGE: usize = 24;

pub const NO_PREALLOC: usize = 1;
pub const MMAPABLE: usize = 1 << 10;

const BPF_NOEXIST: u64 = 1;
const EEXIST: i32 = -17;

/// The members' names and the lengths of the arrays they point to are what the loader reads from
/// BTF; nothing is ever stored here.
#[repr(C)]
pub struct Map<K, V, const TYPE: usize, const MAX: usize, const FLAGS: usize> {
    r#type: *const [i32; TYPE],
    key: *const K,
    value: *const V,
    max_entries: *const [i32; MAX],
    map_flags: *const [i32; FLAGS],
}

// SAFETY: a declaration without content.
unsafe impl<K, V, const T: usize, const M: usize, const F: usize> Sync for Map<K, V, T, M, F> {}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Inserted {
    Yes,
    Exists,
    Full,
}

impl<K, V, const TYPE: usize, const MAX: usize, const FLAGS: usize> Map<K, V, TYPE, MAX, FLAGS> {
    pub const fn new() -> Self {
        Map {
            r#type: ptr::null(),
            key: ptr::null(),
            value: ptr::null(),
            max_entries: ptr::null(),
            map_flags: ptr::null(),
        }
    }

    #[inline(always)]
    pub fn as_ptr(&self) -> *mut c_void {
        ptr::from_ref(self).cast_mut().cast()
    }

    #[inline(always)]
    pub fn get(&self, key: &K) -> Option<*mut V> {
        // SAFETY: the map's key is a K, the value is a V or null.
        let value = unsafe { bpf_map_lookup_elem(self.as_ptr(), ptr::from_ref(key).cast()) };
        if value.is_null() { None } else { Some(value.cast()) }
    }

    #[inline(always)]
    pub fn insert(&self, key: &K, value: &V) -> Inserted {
        // SAFETY: as in `get`.
        let result = unsafe {
            bpf_map_update_elem(
                self.as_ptr(),
                ptr::from_ref(key).cast(),
                ptr::from_ref(value).cast(),
                BPF_NOEXIST,
            )
        };
        // Before Linux 6.4 the programs call a function that returns an int, and the upper half of the register
        // says nothing.
        match result as i32 {
            0 => Inserted::Yes,
            EEXIST => Inserted::Exists,
            _ => Inserted::Full,
        }
    }

    /// Whether it was this call that removed the entry: of several at the same time one says yes.
    #[inline(always)]
    pub fn remove(&self, key: &K) -> bool {
        // SAFETY: as in `get`.
        unsafe { bpf_map_delete_elem(self.as_ptr(), ptr::from_ref(key).cast()) == 0 }
    }
}
