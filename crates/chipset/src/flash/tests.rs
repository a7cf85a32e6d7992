use super::*;

/// What was kept, by its offset.
type Stored = Arc<Mutex<Vec<(u64, Vec<u8>)>>>;

/// A store that may be full.
struct Kept(Stored, bool);

impl FlashStore for Kept {
    fn store(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if self.1 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        lock(&self.0).push((offset, bytes.to_vec()));
        Ok(())
    }
}

fn flash(bytes: Vec<u8>) -> Flash {
    Flash::new(Arc::new(Mutex::new(FlashImage::new(bytes, None))))
}

fn read(flash: &mut Flash, offset: u64) -> u8 {
    let mut data = [0xaa];
    flash.memory_read(offset, &mut data);
    data[0]
}

#[test]
fn it_is_told_from_ram_and_from_rom_by_its_status() {
    let mut flash = flash(vec![0x5a; 8192]);
    flash.memory_write(16, &[0x50]);
    assert_eq!(read(&mut flash, 16), 0x5a);
    flash.memory_write(16, &[0x70]);
    assert_eq!(read(&mut flash, 16), 0);
    flash.memory_write(16, &[0xff]);
    assert_eq!(read(&mut flash, 16), 0x5a);
    flash.memory_write(0, &[0x90]);
    assert_eq!([read(&mut flash, 0), read(&mut flash, 1)], [0x89, 0x18]);
}

#[test]
fn programming_clears_bits_and_erasure_sets_those_of_a_block() {
    let mut flash = flash(vec![0xf0; 2 * BLOCK + 10]);
    for (offset, bytes) in [(BLOCK as u64, [0x10, 0x3c]), (BLOCK as u64 + 1, [0x40, 0x0f])] {
        bytes.iter().for_each(|byte| flash.memory_write(offset, &[*byte]));
        assert_eq!(read(&mut flash, 0), READY);
    }
    flash.memory_write(0, &[0xff]);
    assert_eq!([read(&mut flash, BLOCK as u64), read(&mut flash, BLOCK as u64 + 1)], [0x30, 0]);
    // The last block is a short one.
    for offset in [BLOCK as u64 + 77, 2 * BLOCK as u64] {
        flash.memory_write(offset, &[0x20]);
        flash.memory_write(offset, &[0xd0]);
        assert_eq!(read(&mut flash, 0), READY);
    }
    flash.memory_write(0, &[0xff]);
    let at = |flash: &mut Flash, offset: usize| read(flash, offset as u64);
    assert_eq!(at(&mut flash, BLOCK - 1), 0xf0);
    assert_eq!(
        [at(&mut flash, BLOCK), at(&mut flash, 2 * BLOCK - 1), at(&mut flash, 2 * BLOCK + 9)],
        [0xff; 3]
    );
    assert_eq!(at(&mut flash, 2 * BLOCK + 10), 0xaa, "beyond the end nothing is driven");
}

#[test]
fn what_changes_is_kept_and_what_cannot_be_kept_fails() {
    let kept = Stored::default();
    let image = |full| FlashImage::new(vec![0xff; BLOCK], Some(Box::new(Kept(Arc::clone(&kept), full))));
    let mut good = Flash::new(Arc::new(Mutex::new(image(false))));
    for byte in [0x10, 0x12, 0x20, 0xd0, 0x20, 0xd0] {
        good.memory_write(5, &[byte]);
    }
    // Nothing changed by the second erasure.
    assert_eq!(*lock(&kept), [(5, vec![0x12]), (0, vec![0xff; BLOCK])]);

    let mut full = Flash::new(Arc::new(Mutex::new(image(true))));
    full.memory_write(5, &[0x10]);
    full.memory_write(5, &[0]);
    assert_eq!(read(&mut full, 0), READY | PROGRAM_FAILED);
    full.memory_write(5, &[0xff]);
    assert_eq!(read(&mut full, 5), 0xff);
}

#[test]
fn wrong_sequences_fail_and_nothing_reaches_beyond_the_end() {
    let mut flash = flash(vec![1; BLOCK]);
    flash.memory_write(0, &[0x20]);
    flash.memory_write(0, &[0x20]);
    assert_eq!(read(&mut flash, 0), READY | ERASE_FAILED | PROGRAM_FAILED);
    for offset in [BLOCK as u64 - 1, BLOCK as u64, u64::MAX] {
        flash.memory_write(0, &[0x50]);
        flash.memory_write(offset, &[0x10]);
        flash.memory_write(offset, &[0; 8]);
        flash.memory_write(0, &[0x70]);
        assert_eq!(read(&mut flash, 0), READY | PROGRAM_FAILED);
        flash.memory_write(0, &[0xff]);
    }
    flash.memory_write(u64::MAX, &[0x20]);
    flash.memory_write(u64::MAX, &[0xd0]);
    assert_eq!(read(&mut flash, 0) & ERASE_FAILED, ERASE_FAILED);
    assert!(lock(&flash.image).bytes().iter().all(|&byte| byte == 1));
}
