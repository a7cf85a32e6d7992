use std::io::Write;

use super::*;

/// The smallest ELF file with a PVH entry: one page of HLT at 16 MiB.
fn vmlinux() -> Vec<u8> {
    let mut image = vec![0_u8; 0x2000];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"\x7fELF\x02\x01\x01");
    put(32, &64_u64.to_le_bytes());
    put(54, &56_u16.to_le_bytes());
    put(56, &2_u16.to_le_bytes());
    let mut segment = |index: usize, kind: u32, offset: u64, address: u64, size: u64| {
        let at = 64 + index * 56;
        put(at, &kind.to_le_bytes());
        put(at + 8, &offset.to_le_bytes());
        put(at + 24, &address.to_le_bytes());
        put(at + 32, &size.to_le_bytes());
        put(at + 40, &size.to_le_bytes());
    };
    segment(0, 1, 0x1000, 16 << 20, 0x1000);
    segment(1, 4, 0x200, 0, 20);
    put(0x200, &[4, 0, 0, 0, 4, 0, 0, 0, 18, 0, 0, 0]);
    put(0x20c, b"Xen\0");
    put(0x210, &(16_u32 << 20).to_le_bytes());
    put(0x1000, &[0xf4; 0x1000]);
    image
}

#[test]
fn a_board_that_is_shut_down_gives_its_memory_back() {
    let directory = tempfile::TempDir::new().unwrap();
    let (kernel, disk) = (directory.path().join("vmlinux"), directory.path().join("disk.img"));
    std::fs::File::create(&kernel).unwrap().write_all(&vmlinux()).unwrap();
    std::fs::File::create(&disk).unwrap().set_len(1 << 20).unwrap();
    let config = MachineConfig {
        kernel: Some(kernel),
        cpus: 2,
        nets: vec!["isolated".parse().unwrap(), "isolated,nic=legacy".parse().unwrap()],
        disks: vec![crate::config::DiskConfig { file: disk, .."d,bus=auto".parse().unwrap() }],
        ..MachineConfig::default()
    };
    let disks = Arc::new(Disks::open(&config).unwrap());
    let mut source = BootSource::open(&config).unwrap();
    let registry = Arc::new(Registry::new());
    let board = Board::build(Parts {
        config: &config,
        engine: &Engine::Soft(processor_soft::Tier::Translator, "translator"),
        control: Arc::default(),
        registry: Arc::clone(&registry),
        inspection: Arc::default(),
        disks: &disks,
        networks: &Arc::new(Networks::new(&config).unwrap()),
        sockets: None,
        services: Services::ALL,
        source: &mut source,
        serial: Arc::new(Mutex::new(Box::new(std::io::sink()))),
    })
    .unwrap();
    let names: Vec<_> = registry.table().into_iter().map(|row| row.name).collect();
    for name in ["storvsc-ide0", "network0", "network1"] {
        assert!(names.contains(&name.to_owned()), "{names:?}");
    }
    let code = Arc::downgrade(&board.code);
    board.shut_down();
    assert!(code.upgrade().is_none(), "guest memory is still referred to");
}
