//! A ring in guest memory: scattered pages whose host addresses are looked up once.

use std::fmt;
use std::ptr::NonNull;
use std::slice;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use guest_memory::{CodePages, GuestMemory, PAGE_SHIFT};
use vm_memory::{GuestAddress, GuestMemoryBackend};

use super::{Control, MAX_DATA_SIZE, PAGE_SIZE, PAGE_WORDS, RingError, RingMemory, WORD};

struct Page {
    host: NonNull<u8>,
    frame: u64,
}

/// The pages of one ring, control page first.
pub struct GuestPages {
    pages: Box<[Page]>,
    code: Arc<CodePages>,
    /// Keeps the mappings behind `pages`.
    _memory: GuestMemory,
}

// SAFETY: the pointers go to guest RAM, which is mapped for as long as `_memory` lives, belongs to no
// thread and is accessed by atomic operations only.
unsafe impl Send for GuestPages {}
// SAFETY: as above.
unsafe impl Sync for GuestPages {}

impl GuestPages {
    /// A ring of the guest frames `frames`: the control page, then at least one page of data.
    ///
    /// # Errors
    /// When there are too few or too many of them or one is not RAM.
    pub fn new(memory: &GuestMemory, code: &Arc<CodePages>, frames: &[u64]) -> Result<Self, RingError> {
        if frames.len() < 2 || frames.len() - 1 > (MAX_DATA_SIZE / PAGE_SIZE) as usize {
            return Err(RingError::Size(frames.len()));
        }
        let page = |&frame: &u64| {
            let address = frame.checked_mul(u64::from(PAGE_SIZE)).ok_or(RingError::Frame(frame))?;
            // A slice of the whole page, so that the page lies in one mapping.
            let slice = memory
                .get_slice(GuestAddress(address), PAGE_SIZE as usize)
                .map_err(|_| RingError::Frame(frame))?;
            let host = NonNull::new(slice.ptr_guard_mut().as_ptr()).ok_or(RingError::Frame(frame))?;
            Ok(Page { host, frame })
        };
        let pages = frames.iter().map(page).collect::<Result<_, _>>()?;
        Ok(Self { pages, code: Arc::clone(code), _memory: memory.clone() })
    }
}

impl RingMemory for GuestPages {
    fn data_size(&self) -> u32 {
        (self.pages.len() - 1) as u32 * PAGE_SIZE
    }

    fn control(&self, field: Control) -> &AtomicU32 {
        // SAFETY: `host` is the start of a mapped page (see `new`), which is aligned; the offset is a
        // multiple of 4 inside the page; the mapping outlives `self`.
        unsafe { self.pages[0].host.add(field.offset()).cast::<AtomicU32>().as_ref() }
    }

    fn words(&self, index: u32) -> &[AtomicU64] {
        let page = &self.pages[(index / PAGE_WORDS) as usize + 1];
        let first = index % PAGE_WORDS;
        // SAFETY: `host` is the start of a mapped page, which is aligned; words `first` to the last of the
        // page lie inside it; the mapping outlives `self`.
        unsafe {
            let start = page.host.cast::<AtomicU64>().add(first as usize).as_ptr();
            slice::from_raw_parts(start, (PAGE_WORDS - first) as usize)
        }
    }

    fn written(&self, index: u32, count: u32) {
        fence(Ordering::SeqCst);
        self.code.written(self.pages[0].frame);
        let data = &self.pages[1..];
        let (first, pages) = (index / PAGE_WORDS, (index % PAGE_WORDS + count).div_ceil(PAGE_WORDS));
        for page in data.iter().cycle().skip(first as usize).take((pages as usize).min(data.len())) {
            self.code.written(page.frame);
        }
    }
}

impl fmt::Debug for GuestPages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuestPages").field("pages", &self.pages.len()).finish()
    }
}

// The page size of rings and that of guest memory are the same.
const _: () = assert!(PAGE_SIZE == 1 << PAGE_SHIFT && PAGE_SIZE == PAGE_WORDS * WORD);
