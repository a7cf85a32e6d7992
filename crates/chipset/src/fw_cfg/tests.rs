use proptest::prelude::*;

use super::*;

const MEMORY: u64 = 0x10000;

fn device() -> FwCfg {
    let (memory, _) = guest_memory::allocate(MEMORY).unwrap();
    let mut device = FwCfg::new(memory);
    device.add_file("etc/first", b"hello".to_vec()).unwrap();
    device.add_file("etc/second", vec![7; 5000]).unwrap();
    device
}

fn select(device: &mut FwCfg, selector: u16) {
    device.port_write(PORT, &selector.to_le_bytes());
}

fn read(device: &mut FwCfg, length: usize) -> Vec<u8> {
    (0..length)
        .map(|_| {
            let mut byte = [0xff];
            device.port_read(DATA, &mut byte);
            byte[0]
        })
        .collect()
}

/// Runs a DMA command and returns its status.
fn dma(device: &mut FwCfg, control: u32, length: u32, target: u64) -> u32 {
    let command = [&control.to_be_bytes()[..], &length.to_be_bytes(), &target.to_be_bytes()].concat();
    device.memory.write_slice(&command, GuestAddress(0x100)).unwrap();
    device.port_write(DMA_HIGH, &0_u32.to_be_bytes());
    device.port_write(DMA_LOW, &0x100_u32.to_be_bytes());
    let mut status = [0; 4];
    device.memory.read_slice(&mut status, GuestAddress(0x100)).unwrap();
    u32::from_be_bytes(status)
}

#[test]
fn signature_and_features() {
    let mut device = device();
    select(&mut device, SIGNATURE);
    assert_eq!(read(&mut device, 4), b"QEMU");
    select(&mut device, FEATURES);
    assert_eq!(read(&mut device, 4), [3, 0, 0, 0]);
    let (mut high, mut low) = ([0; 4], [0; 4]);
    device.port_read(DMA_HIGH, &mut high);
    device.port_read(DMA_LOW, &mut low);
    assert_eq!([high, low].concat(), b"QEMU CFG");
}

#[test]
fn the_directory_lists_the_files_with_size_and_selector() {
    let mut device = device();
    select(&mut device, DIRECTORY);
    assert_eq!(read(&mut device, 4), [0, 0, 0, 2]);
    let entry = read(&mut device, 64);
    assert_eq!(entry[..8], [0, 0, 0, 5, 0, 0x20, 0, 0]);
    assert_eq!(&entry[8..18], b"etc/first\0");
}

#[test]
fn files_are_read_by_port_and_end_in_zeros() {
    let mut device = device();
    select(&mut device, FIRST_FILE);
    assert_eq!(read(&mut device, 7), b"hello\0\0");
    select(&mut device, 0x1234);
    assert_eq!(read(&mut device, 2), [0, 0]);
}

#[test]
fn a_replaced_file_keeps_its_selector() {
    let mut device = device();
    device.add_file("etc/first", b"new".to_vec()).unwrap();
    select(&mut device, FIRST_FILE);
    assert_eq!(read(&mut device, 4), b"new\0");
}

#[test]
fn dma_selects_skips_and_reads() {
    let mut device = device();
    assert_eq!(dma(&mut device, u32::from(FIRST_FILE) << 16 | DMA_SELECT | DMA_SKIP, 1, 0), 0);
    device.memory.write_slice(&[0xff; 8], GuestAddress(0x2000)).unwrap();
    assert_eq!(dma(&mut device, DMA_READ, 6, 0x2000), 0);
    let mut data = [0; 8];
    device.memory.read_slice(&mut data, GuestAddress(0x2000)).unwrap();
    assert_eq!(&data, b"ello\0\0\xff\xff");
}

#[test]
fn dma_outside_of_memory_and_dma_writes_fail() {
    let mut device = device();
    assert_eq!(
        dma(&mut device, u32::from(FIRST_FILE) << 16 | DMA_SELECT | DMA_READ, 5, MEMORY - 2),
        DMA_ERROR
    );
    assert_eq!(dma(&mut device, DMA_READ, u32::MAX, u64::MAX - 1), DMA_ERROR);
    assert_eq!(dma(&mut device, u32::from(FIRST_FILE) << 16 | DMA_SELECT | DMA_WRITE, 5, 0x2000), DMA_ERROR);
}

#[test]
fn names_and_their_number_are_limited() {
    let mut device = device();
    assert!(matches!(device.add_file(&"x".repeat(56), Vec::new()), Err(Error::Name(_))));
    assert!(matches!(device.add_file("", Vec::new()), Err(Error::Name(_))));
    (2..FILE_LIMIT).for_each(|n| device.add_file(&format!("f{n}"), Vec::new()).unwrap());
    assert_eq!(device.add_file("more", Vec::new()), Err(Error::Full));
}

proptest! {
    #[test]
    fn random_accesses_never_panic(
        accesses in prop::collection::vec((0_u8..3, 0_u16..12, any::<u32>(), any::<[u8; 16]>()), 0..50),
    ) {
        let mut device = device();
        for (what, port, value, command) in accesses {
            let length = [1, 2, 4][value as usize % 3];
            match what {
                0 => device.port_write(PORT + port, &value.to_le_bytes()[..length]),
                1 => device.port_read(PORT + port, &mut [0; 4][..length]),
                _ => {
                    device.memory.write_slice(&command, GuestAddress(0x100)).unwrap();
                    device.port_write(DMA_LOW, &0x100_u32.to_be_bytes());
                }
            }
        }
    }
}
