//! A ring on the heap, shared by its two ends: for tests without a machine.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64};

use super::{Control, MAX_DATA_SIZE, PAGE_SIZE, PAGE_WORDS, RingMemory, WORD};

/// Memory of one ring. Clones share it.
#[derive(Clone)]
pub struct HeapRing {
    control: Arc<[AtomicU32; 17]>,
    data: Arc<[AtomicU64]>,
}

impl HeapRing {
    /// An empty ring with `pages` pages of data, at least one.
    ///
    /// # Panics
    /// When there are none or too many.
    pub fn new(pages: u32) -> Self {
        assert!(pages > 0 && pages <= MAX_DATA_SIZE / PAGE_SIZE);
        Self {
            control: Arc::new(std::array::from_fn(|_| AtomicU32::new(0))),
            data: (0..pages * PAGE_WORDS).map(|_| AtomicU64::new(0)).collect(),
        }
    }
}

impl RingMemory for HeapRing {
    fn data_size(&self) -> u32 {
        self.data.len() as u32 * WORD
    }

    fn control(&self, field: Control) -> &AtomicU32 {
        &self.control[field.offset() / 4]
    }

    fn words(&self, index: u32) -> &[AtomicU64] {
        let end = (index / PAGE_WORDS + 1) * PAGE_WORDS;
        &self.data[index as usize..end as usize]
    }

    fn written(&self, _index: u32, _count: u32) {}
}
