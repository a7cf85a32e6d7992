//! What accesses to [`guest_memory::SHADOW`] find that processors do not carry out by themselves: reads where there is
//! neither RAM nor ROM, writes where not all is RAM.

use std::sync::Arc;

use guest_memory::{GuestMemory, SHADOW, Shadow};
use vm_memory::{Bytes, GuestAddress};

use crate::bus::MmioDevice;

/// The range on the bus.
pub struct ShadowWindow {
    shadow: Arc<Shadow>,
    ram: GuestMemory,
}

impl ShadowWindow {
    /// The window to `shadow` and `ram`.
    pub fn new(shadow: Arc<Shadow>, ram: GuestMemory) -> Self {
        Self { shadow, ram }
    }
}

impl MmioDevice for ShadowWindow {
    fn memory_read(&mut self, offset: u64, data: &mut [u8]) {
        // A processor cuts its accesses where a page ends; where there is nothing, bytes stay as they are.
        if self.shadow.read(&self.ram, SHADOW.start.saturating_add(offset), data).is_none() {
            data.fill(0xff);
        }
    }

    fn memory_write(&mut self, offset: u64, data: &[u8]) {
        let gpa = SHADOW.start.saturating_add(offset);
        // Where there is no RAM to be written, nothing happens; a machine may have less than there is room for.
        if self.shadow.attributes(gpa).write {
            let _ = self.ram.write_slice(data, GuestAddress(gpa));
        }
    }
}

#[cfg(test)]
mod tests {
    use guest_memory::{Attributes, SHADOW_SEGMENTS};

    use super::*;

    #[test]
    fn each_access_goes_where_its_attribute_says() {
        let (ram, _) = guest_memory::allocate(1 << 20).unwrap();
        let shadow = Arc::new(Shadow::of_firmware(&[7; 0x2_0000]).unwrap());
        let mut window = ShadowWindow::new(Arc::clone(&shadow), ram.clone());
        let offset = 0x3_0010;
        let mut try_it = |read, write, value: u8| {
            shadow.set([Attributes { read, write }; SHADOW_SEGMENTS]);
            let mut data = [0; 2];
            window.memory_write(offset, &[value; 2]);
            window.memory_read(offset, &mut data);
            (data[0], ram.read_obj::<u8>(GuestAddress(SHADOW.start + offset)).unwrap())
        };
        assert_eq!(try_it(false, false, 1), (7, 0));
        assert_eq!(try_it(false, true, 2), (7, 2));
        assert_eq!(try_it(true, false, 3), (2, 2));
        assert_eq!(try_it(true, true, 4), (4, 4));
    }

    #[test]
    fn where_there_is_nothing_reads_are_all_ones() {
        let (ram, _) = guest_memory::allocate(1 << 20).unwrap();
        let shadow = Arc::new(Shadow::of_firmware(&[7; 0x2_0000]).unwrap());
        let mut window = ShadowWindow::new(shadow, ram);
        for (offset, expected) in [(0, 0xff), (0x1_fffe, 0xff), (0x2_0000, 7), (u64::MAX, 0xff)] {
            let mut data = [0; 2];
            window.memory_read(offset, &mut data);
            assert_eq!(data, [expected; 2], "{offset:#x}");
            window.memory_write(offset, &[1]);
        }
    }
}
