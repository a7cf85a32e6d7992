use proptest::prelude::*;

use super::fuzzing::Nothing;
use super::*;
use crate::DiskInfo;

const BLOCKS: u64 = (10 << 20) / 512;

fn disk() -> DiskUnit {
    DiskUnit::new(Arc::new(Nothing::disk(false)))
}

fn run(unit: &dyn LogicalUnit, cdb: &[u8]) -> (Outcome, Vec<u8>) {
    run_with(unit, cdb, &[])
}

fn run_with(unit: &dyn LogicalUnit, cdb: &[u8], parameters: &[u8]) -> (Outcome, Vec<u8>) {
    let mut reply = vec![0xee; 3];
    let outcome = unit.execute(cdb, parameters, &mut reply);
    (outcome, reply)
}

fn check(unit: &dyn LogicalUnit, cdb: &[u8]) -> Sense {
    match run(unit, cdb).0 {
        Outcome::Check(sense) => Sense { block: None, ..sense },
        other => panic!("{other:?}"),
    }
}

fn data(unit: &dyn LogicalUnit, cdb: &[u8]) -> Vec<u8> {
    let (outcome, reply) = run(unit, cdb);
    assert_eq!(outcome, Outcome::Good);
    reply
}

fn cdb16(opcode: u8, flags: u8, lba: u64, blocks: u32) -> [u8; 16] {
    let mut cdb = [0; 16];
    (cdb[0], cdb[1]) = (opcode, flags);
    cdb[2..10].copy_from_slice(&lba.to_be_bytes());
    cdb[10..14].copy_from_slice(&blocks.to_be_bytes());
    cdb
}

#[test]
fn standard_inquiry_names_a_virtual_disk() {
    let reply = data(&disk(), &[0x12, 0, 0, 0, 96, 0]);
    assert_eq!(reply.len(), 96);
    assert_eq!(reply[..4], [0x00, 0x00, 0x06, 0x02]);
    assert_eq!(&reply[8..36], b"Msft    Virtual Disk    1.0 ");
    assert_eq!(data(&disk(), &[0x12, 0, 0, 0, 36, 0]).len(), 36);
    assert_eq!(check(&disk(), &[0x12, 0, 0x80, 0, 36, 0]), Sense::INVALID_FIELD_IN_CDB);
}

#[test]
fn every_vital_page_that_is_listed_can_be_had() {
    let listed = data(&disk(), &[0x12, 1, 0, 0, 255, 0]);
    assert_eq!(listed[4..], [0x00, 0x80, 0x83, 0xb0, 0xb1, 0xb2]);
    for page in &listed[4..] {
        let reply = data(&disk(), &[0x12, 1, *page, 1, 0, 0]);
        assert_eq!(reply[1], *page);
        assert_eq!(usize::from(u16::from_be_bytes([reply[2], reply[3]])), reply.len() - 4);
    }
    assert_eq!(check(&disk(), &[0x12, 1, 0xb5, 0, 255, 0]), Sense::INVALID_FIELD_IN_CDB);
}

#[test]
fn the_identification_page_has_a_name_of_type_naa_6() {
    let reply = data(&disk(), &[0x12, 1, 0x83, 0, 255, 0]);
    let second = 4 + 4 + 40;
    assert_eq!(reply[second..second + 8], [0x01, 0x03, 0x00, 16, 0x60, 0x02, 0x24, 0x8a]);
}

#[test]
fn block_limits_and_provisioning_promise_unmap_of_one_extent() {
    let limits = data(&disk(), &[0x12, 1, 0xb0, 0, 255, 0]);
    assert_eq!(limits.len(), 64);
    assert_eq!(limits[20..32], [0xff, 0xff, 0xff, 0xff, 0, 0, 0, 1, 0, 0, 0, 8]);
    let provisioning = data(&disk(), &[0x12, 1, 0xb2, 0, 255, 0]);
    assert_eq!(provisioning[5], 0xe4);
}

#[test]
fn capacities_tell_the_last_block_and_block_sizes() {
    let ten = data(&disk(), &[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(ten, [0, 0, 0x4f, 0xff, 0, 0, 2, 0]);
    let sixteen = data(&disk(), &[0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0]);
    assert_eq!(sixteen.len(), 32);
    assert_eq!(sixteen[..16], [0, 0, 0, 0, 0, 0, 0x4f, 0xff, 0, 0, 2, 0, 0, 3, 0xc0, 0]);
}

#[test]
fn reads_and_writes_of_every_size_become_byte_ranges() {
    let unit = disk();
    let read = |lba: u64, blocks: u64| Outcome::Io(Io::Read { offset: lba * 512, len: blocks * 512 });
    assert_eq!(run(&unit, &[0x08, 0, 1, 2, 3, 0]).0, read(0x102, 3));
    assert_eq!(run(&unit, &[0x08, 0, 0, 0, 0, 0]).0, read(0, 256));
    assert_eq!(run(&unit, &[0x28, 0, 0, 0, 1, 2, 0, 0, 9, 0]).0, read(0x102, 9));
    assert_eq!(run(&unit, &[0xa8, 0, 0, 0, 1, 2, 0, 0, 1, 0, 0, 0]).0, read(0x102, 256));
    assert_eq!(run(&unit, &cdb16(0x88, 0, 5, 7)).0, read(5, 7));
    let write = |fua| Outcome::Io(Io::Write { offset: 512, len: 512, fua });
    assert_eq!(run(&unit, &[0x0a, 0, 0, 1, 1, 0]).0, write(false));
    assert_eq!(run(&unit, &[0x2a, 0x10, 0, 0, 0, 1, 0, 0, 1, 0]).0, write(false));
    assert_eq!(run(&unit, &[0x2a, 0x08, 0, 0, 0, 1, 0, 0, 1, 0]).0, write(true));
    assert_eq!(run(&unit, &[0x2e, 0, 0, 0, 0, 1, 0, 0, 1, 0]).0, write(true));
    assert_eq!(run(&unit, &cdb16(0x8a, 0x08, 1, 1)).0, write(true));
    assert_eq!(run(&unit, &cdb16(0x8a, 0, 1, 0)).0, Outcome::Good);
}

#[test]
fn blocks_beyond_the_end_are_out_of_range() {
    let unit = disk();
    assert!(matches!(run(&unit, &cdb16(0x88, 0, BLOCKS - 1, 1)).0, Outcome::Io(_)));
    for (lba, blocks) in [(BLOCKS - 1, 2), (BLOCKS, 1), (u64::MAX, 1), (u64::MAX, u32::MAX), (BLOCKS + 1, 0)]
    {
        assert_eq!(check(&unit, &cdb16(0x88, 0, lba, blocks)), Sense::LBA_OUT_OF_RANGE, "{lba}+{blocks}");
        assert_eq!(check(&unit, &cdb16(0x8f, 0, lba, blocks)), Sense::LBA_OUT_OF_RANGE);
        assert_eq!(check(&unit, &cdb16(0x91, 0, lba, blocks)), Sense::LBA_OUT_OF_RANGE);
    }
}

#[test]
fn a_read_only_disk_is_write_protected() {
    let unit = DiskUnit::new(Arc::new(Nothing::disk(true)));
    let mut unmap = [0; 10];
    (unmap[0], unmap[8]) = (0x42, 24);
    let commands: [&[u8]; 4] =
        [&[0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0], &[0x0a, 0, 0, 0, 1, 0], &unmap, &cdb16(0x93, 1, 0, 1)];
    for cdb in commands {
        assert_eq!(check(&unit, cdb), Sense::WRITE_PROTECTED);
    }
    assert_eq!(data(&unit, &[0x1a, 0x08, 0x3f, 0, 255, 0])[2] & 0x80, 0x80);
    assert_eq!(data(&disk(), &[0x1a, 0x08, 0x3f, 0, 255, 0])[2], 0x10);
}

#[test]
fn unmap_takes_one_extent() {
    let unit = disk();
    let cdb = [0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0];
    let mut list = [0; 24];
    list[1] = 22;
    list[3] = 16;
    list[15] = 8;
    list[19] = 16;
    let discard = Outcome::Io(Io::Discard { offset: 8 * 512, len: 16 * 512 });
    assert_eq!(run_with(&unit, &cdb, &list).0, discard);
    list[3] = 32;
    let refused = Outcome::Check(Sense::INVALID_FIELD_IN_PARAMETERS);
    assert_eq!(run_with(&unit, &cdb, &list).0, refused);
    assert_eq!(run_with(&unit, &cdb, &list[..20]).0, Outcome::Check(Sense::PARAMETER_LIST_LENGTH));
    assert_eq!(parameter_bytes(&cdb), 24);
}

#[test]
fn write_same_zeroes_or_fills() {
    let unit = disk();
    let zeroes = |unmap| Outcome::Io(Io::WriteZeroes { offset: 512, len: 1024, unmap, fua: false });
    assert_eq!(run(&unit, &cdb16(0x93, 0x01, 1, 2)).0, zeroes(false));
    assert_eq!(run(&unit, &cdb16(0x93, 0x09, 1, 2)).0, zeroes(true));
    assert_eq!(run_with(&unit, &cdb16(0x93, 0x08, 1, 2), &[0; 512]).0, zeroes(true));
    let fill = Outcome::Io(Io::Fill { offset: 512, len: 1024, fua: false });
    assert_eq!(run_with(&unit, &cdb16(0x93, 0, 1, 2), &[7; 4096]).0, fill);
    assert_eq!(run(&unit, &cdb16(0x93, 0, 1, 2)).0, Outcome::Check(Sense::PARAMETER_LIST_LENGTH));
    assert_eq!(check(&unit, &cdb16(0x93, 1, 0, 0)), Sense::INVALID_FIELD_IN_CDB);
    assert_eq!(check(&unit, &cdb16(0x93, 1, 0, 0x1_0001)), Sense::INVALID_FIELD_IN_CDB);
}

#[test]
fn the_write_cache_can_be_turned_off_and_comes_back_at_a_reset() {
    let unit = disk();
    let caching = data(&unit, &[0x1a, 0x08, 0x08, 0, 255, 0]);
    assert_eq!(caching.len(), 4 + 20);
    assert_eq!(caching[4..7], [0x08, 18, 0x04]);
    let mut list = caching.clone();
    (list[0], list[2], list[6]) = (0, 0, 0);
    let select = [0x15, 0x10, 0, 0, 24, 0];
    assert_eq!(run_with(&unit, &select, &list).0, Outcome::Good);
    let write = [0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0];
    assert_eq!(run(&unit, &write).0, Outcome::Io(Io::Write { offset: 0, len: 512, fua: true }));
    list[7] = 1;
    let refused = Outcome::Check(Sense::INVALID_FIELD_IN_PARAMETERS);
    assert_eq!(run_with(&unit, &select, &list).0, refused);
    unit.reset();
    assert_eq!(check(&unit, &write), Sense::RESET);
    assert_eq!(run(&unit, &write).0, Outcome::Io(Io::Write { offset: 0, len: 512, fua: false }));
}

#[test]
fn mode_sense_10_has_a_long_header_and_a_block_descriptor() {
    let reply = data(&disk(), &[0x5a, 0, 0x0a, 0, 0, 0, 0, 1, 0, 0]);
    assert_eq!(reply[..8], [0, 26, 0, 0x10, 0, 0, 0, 8]);
    assert_eq!(reply[8..16], [0, 0, 0x50, 0, 0, 0, 2, 0]);
    assert_eq!(reply[16..18], [0x0a, 10]);
    assert_eq!(check(&disk(), &[0x5a, 0, 0x1c, 0, 0, 0, 0, 1, 0, 0]), Sense::INVALID_FIELD_IN_CDB);
    assert_eq!(check(&disk(), &[0x5a, 0, 0xc8, 0, 0, 0, 0, 1, 0, 0]), Sense::SAVING_NOT_SUPPORTED);
}

#[test]
fn what_is_not_there_is_an_illegal_request() {
    let unit = disk();
    // PERSISTENT RESERVE IN and OUT, RESERVE, LOG SENSE.
    for opcode in [0x5e, 0x5f, 0x16, 0x4d] {
        assert_eq!(check(&unit, &[opcode, 0, 0, 0, 0, 0, 0, 0, 0, 0]), Sense::INVALID_OPCODE, "{opcode:#x}");
    }
    assert_eq!(check(&unit, &[]), Sense::INVALID_OPCODE);
    assert_eq!(check(&unit, &[0x28, 0, 0, 0, 0]), Sense::INVALID_FIELD_IN_CDB);
    assert_eq!(check(&unit, &cdb16(0x9e, 0x13, 0, 0)), Sense::INVALID_FIELD_IN_CDB);
    assert_eq!(check(&unit, &cdb16(0x88, 0x20, 0, 1)), Sense::INVALID_FIELD_IN_CDB);
}

#[test]
fn every_operation_code_that_is_reported_is_carried_out() {
    let dvd = DvdUnit::new(Some(Arc::new(Nothing::disc())));
    let units: [&dyn LogicalUnit; 2] = [&disk(), &dvd];
    for unit in units {
        let all = data(unit, &[0xa3, 0x0c, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0]);
        assert_eq!(all.len() - 4, u32::from_be_bytes(all[..4].try_into().unwrap()) as usize);
        for entry in all[4..].chunks(8) {
            let mut cdb = [0; 16];
            (cdb[0], cdb[1]) = (entry[0], entry[3]);
            let outcome = run(unit, &cdb[..usize::from(entry[7])]).0;
            assert_ne!(outcome, Outcome::Check(Sense::INVALID_OPCODE), "{:#x}", entry[0]);

            let mut one = [0xa3, 0x0c, 3, entry[0], 0, entry[3], 0, 0, 0, 255, 0, 0];
            let reply = data(unit, &one);
            assert_eq!((reply[1], reply[3], reply[4]), (3, entry[7], entry[0]));
            one[3] = 0x5e;
            assert_eq!(data(unit, &one)[1], 1);
        }
    }
}

#[test]
fn a_target_lists_its_units_and_knows_no_others() {
    let target = Target::new();
    target.attach(0, Arc::new(disk()));
    target.attach(5, Arc::new(disk()));
    let mut reply = Vec::new();
    let cdb = [0xa0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0];
    assert_eq!(target.execute(0, &cdb, &[], &mut reply), Some(Outcome::Good));
    assert_eq!(reply, [0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0]);
    assert_eq!(target.execute(3, &[0; 6], &[], &mut reply), None);
    assert_eq!(target.execute(5, &[0; 6], &[], &mut reply), Some(Outcome::Good));
    target.detach(5);
    assert_eq!(target.execute(5, &[0; 6], &[], &mut reply), None);
}

#[test]
fn errors_of_the_host_become_sense() {
    let error = |code| io::Error::from_raw_os_error(code);
    assert_eq!(Sense::of_error(&error(libc::EIO), false, Some(9)), Sense::UNRECOVERED_READ.at(9));
    assert_eq!(Sense::of_error(&error(libc::EIO), true, None), Sense::WRITE_ERROR);
    assert_eq!(Sense::of_error(&error(libc::ENOSPC), true, None), Sense::NO_SPACE);
    let fixed = Sense::UNRECOVERED_READ.at(0x1234).fixed();
    assert_eq!(fixed, [0xf0, 0, 3, 0, 0, 0x12, 0x34, 10, 0, 0, 0, 0, 0x11, 0, 0, 0, 0, 0]);
}

#[test]
fn filling_repeats_the_block() {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(1 << 20).unwrap();
    let disk = crate::open(file.path(), &crate::OpenOptions::default()).unwrap();
    let block: Vec<u8> = (0..512).map(|at| at as u8).collect();
    fill(&*disk, 512, 200 * 512, &block, false).unwrap();
    let mut back = vec![0; 202 * 512];
    disk.read_at(0, &mut back).unwrap();
    assert!(back[512..201 * 512].chunks(512).all(|chunk| chunk == block));
    assert!(back[..512].iter().chain(&back[201 * 512..]).all(|byte| *byte == 0));
}

mod drive {
    use super::*;

    const READY: [u8; 6] = [0; 6];
    const EJECT: [u8; 6] = [0x1b, 0, 0, 0, 2, 0];
    const LOAD: [u8; 6] = [0x1b, 0, 0, 0, 3, 0];
    const PREVENT: [u8; 6] = [0x1e, 0, 0, 0, 1, 0];
    const EVENTS: [u8; 10] = [0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8, 0];

    fn with_disc() -> DvdUnit {
        DvdUnit::new(Some(Arc::new(Nothing::disc())))
    }

    #[test]
    fn it_is_a_removable_optical_drive() {
        let reply = data(&with_disc(), &[0x12, 0, 0, 0, 96, 0]);
        assert_eq!(reply[..2], [0x05, 0x80]);
        assert_eq!(&reply[8..32], b"Msft    Virtual DVD-ROM ");
    }

    #[test]
    fn blocks_have_2048_bytes() {
        let unit = with_disc();
        assert_eq!(data(&unit, &[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0]), [0, 0, 0x13, 0xff, 0, 0, 8, 0]);
        let read = |lba: u64, blocks: u64| Outcome::Io(Io::Read { offset: lba * 2048, len: blocks * 2048 });
        assert_eq!(run(&unit, &[0x28, 0, 0, 0, 0, 16, 0, 0, 2, 0]).0, read(16, 2));
        assert_eq!(run(&unit, &[0xbe, 0, 0, 0, 0, 16, 0, 0, 2, 0x10, 0, 0]).0, read(16, 2));
        assert_eq!(check(&unit, &[0x28, 0, 0, 0, 0x14, 0, 0, 0, 1, 0]), Sense::LBA_OUT_OF_RANGE);
    }

    #[test]
    fn an_empty_drive_is_not_ready_but_says_what_it_is() {
        let unit = DvdUnit::new(None);
        assert_eq!(check(&unit, &READY), Sense::NO_MEDIUM);
        assert_eq!(check(&unit, &[0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0]), Sense::NO_MEDIUM);
        assert_eq!(check(&unit, &[0x43, 0, 0, 0, 0, 0, 0, 0, 20, 0]), Sense::NO_MEDIUM);
        let configuration = data(&unit, &[0x46, 0, 0, 0, 0, 0, 0, 1, 0, 0]);
        assert_eq!(configuration[6..8], [0, 0]);
        assert_eq!(data(&unit, &EVENTS), [0, 6, 4, 0x10, 0, 0, 0, 0]);
    }

    #[test]
    fn a_new_medium_is_announced_once() {
        let unit = DvdUnit::new(None);
        unit.insert(Arc::new(Nothing::disc()));
        assert_eq!(data(&unit, &EVENTS), [0, 6, 4, 0x10, 2, 2, 0, 0]);
        assert_eq!(data(&unit, &EVENTS), [0, 6, 4, 0x10, 0, 2, 0, 0]);
        assert_eq!(check(&unit, &READY), Sense::MEDIUM_CHANGED);
        assert_eq!(run(&unit, &READY).0, Outcome::Good);
    }

    #[test]
    fn removal_can_be_prevented_and_the_medium_comes_back_with_the_tray() {
        let unit = with_disc();
        assert_eq!(run(&unit, &PREVENT).0, Outcome::Good);
        assert_eq!(check(&unit, &EJECT), Sense::REMOVAL_PREVENTED);
        assert_eq!(run(&unit, &[0x1e, 0, 0, 0, 0, 0]).0, Outcome::Good);
        assert_eq!(run(&unit, &EJECT).0, Outcome::Good);
        assert_eq!(check(&unit, &READY), Sense::TRAY_OPEN);
        assert_eq!(data(&unit, &EVENTS), [0, 6, 4, 0x10, 3, 1, 0, 0]);
        assert_eq!(run(&unit, &LOAD).0, Outcome::Good);
        assert_eq!(check(&unit, &READY), Sense::MEDIUM_CHANGED);
        assert_eq!(run(&unit, &READY).0, Outcome::Good);
    }

    #[test]
    fn the_table_of_contents_has_one_data_track_and_the_lead_out() {
        let toc = data(&with_disc(), &[0x43, 0, 0, 0, 0, 0, 0, 0, 255, 0]);
        let expected = [0, 18, 1, 1, 0, 0x14, 1, 0, 0, 0, 0, 0, 0, 0x14, 0xaa, 0, 0, 0, 0x14, 0];
        assert_eq!(toc, expected);
        let toc = data(&with_disc(), &[0x43, 2, 0, 0, 0, 0, 0xaa, 0, 255, 0]);
        // 5120 + 150 frames are 1 minute, 10 seconds, 20 frames.
        assert_eq!(toc, [0, 10, 1, 1, 0, 0x14, 0xaa, 0, 0, 1, 10, 20]);
        let session = data(&with_disc(), &[0x43, 0, 1, 0, 0, 0, 0, 0, 12, 0]);
        assert_eq!(session, [0, 10, 1, 1, 0, 0x14, 1, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn the_profile_follows_the_size() {
        struct Large(DiskInfo);
        impl Disk for Large {
            fn info(&self) -> &DiskInfo {
                &self.0
            }
            fn read(&self, _: u64, _: &[crate::Segment<'_>]) -> io::Result<()> {
                Err(io::ErrorKind::Unsupported.into())
            }
            fn write(&self, _: u64, _: &[crate::Segment<'_>], _: bool) -> io::Result<()> {
                Err(io::ErrorKind::Unsupported.into())
            }
            fn flush(&self) -> io::Result<()> {
                Ok(())
            }
            fn write_zeroes(&self, _: u64, _: u64, _: bool, _: bool) -> io::Result<()> {
                Err(io::ErrorKind::Unsupported.into())
            }
            fn queue(
                self: Arc<Self>,
                _: usize,
                _: &guest_memory::GuestMemory,
            ) -> Result<Box<dyn crate::DiskQueue>, crate::Error> {
                Err(crate::Error::Queue(io::ErrorKind::Unsupported.into()))
            }
        }
        let profile = |unit: &DvdUnit| data(unit, &[0x46, 0, 0, 0, 0, 0, 0, 0, 8, 0])[7];
        assert_eq!(profile(&with_disc()), 0x08);
        assert_eq!(check(&with_disc(), &[0xad, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0]), Sense::INCOMPATIBLE_FORMAT);
        let info = DiskInfo { size: 4 << 30, ..Nothing::disc().info().clone() };
        let dvd = DvdUnit::new(Some(Arc::new(Large(info))));
        assert_eq!(profile(&dvd), 0x10);
        let structure = data(&dvd, &[0xad, 0, 0, 0, 0, 0, 0, 0, 8, 4, 0, 0]);
        assert_eq!((structure.len(), structure[0], structure[1]), (2052, 0x08, 0x02));
    }

    #[test]
    fn capabilities_are_in_mode_page_2a() {
        let reply = data(&with_disc(), &[0x5a, 0, 0x2a, 0, 0, 0, 0, 0, 255, 0]);
        assert_eq!(reply.len(), 8 + 20);
        assert_eq!(reply[8..11], [0x2a, 18, 0x0b]);
        assert_eq!(reply[14], 0x29);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn no_command_breaks_a_promise(data in proptest::collection::vec(any::<u8>(), 0..64)) {
        fuzz_cdb(&data);
    }

    #[test]
    fn no_known_command_breaks_a_promise(
        opcode in proptest::sample::select(vec![
            0x03_u8, 0x08, 0x12, 0x15, 0x1a, 0x1b, 0x23, 0x28, 0x2a, 0x2f, 0x35, 0x41, 0x42, 0x43, 0x46, 0x4a,
            0x51, 0x52, 0x55, 0x5a, 0x88, 0x8a, 0x93, 0x9e, 0xa0, 0xa3, 0xa8, 0xad, 0xbd, 0xbe,
        ]),
        rest in proptest::collection::vec(prop_oneof![Just(0_u8), Just(0xff), any::<u8>()], 15..120),
    ) {
        let mut data = vec![opcode];
        data.extend(rest);
        fuzz_cdb(&data);
    }
}
