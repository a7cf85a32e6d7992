use std::io::Write;
use std::os::fd::{AsRawFd, FromRawFd};
use std::path::Path;

use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::{GuestRange, Op, Request};

const SIZE: u64 = 1 << 20;

fn image(size: u64) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let bytes: Vec<u8> = (0..size).map(|at| (at / 512) as u8 ^ at as u8).collect();
    file.write_all(&bytes).unwrap();
    file
}

fn open_with(path: &Path, change: impl FnOnce(&mut OpenOptions)) -> Result<Arc<dyn Disk>, Error> {
    let mut options = OpenOptions::default();
    change(&mut options);
    open(path, &options)
}

fn wait(queue: &mut dyn DiskQueue) -> Vec<(u64, io::Result<usize>)> {
    let mut done = Vec::new();
    queue.kick().unwrap();
    while queue.in_flight() > 0 {
        let mut poll = libc::pollfd { fd: queue.event().as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one pollfd that lives through the call.
        assert_eq!(unsafe { libc::poll(&mut poll, 1, 10_000) }, 1, "no completion within ten seconds");
        queue.complete(&mut |token, result| done.push((token, result)));
    }
    done.sort_by_key(|(token, _)| *token);
    done
}

/// Every kind of queue there is over a fresh image.
fn queues(depth: usize, check: impl Fn(&dyn Disk, &GuestMemory, &mut dyn DiskQueue)) {
    for (snapshot, threads) in [(false, false), (false, true), (true, false)] {
        let file = image(SIZE);
        let disk = open_with(file.path(), |options| options.snapshot = snapshot).unwrap();
        let (memory, _) = guest_memory::allocate(4 << 20).unwrap();
        let mut queue = match threads {
            true => disk.clone().thread_queue(depth, &memory).unwrap(),
            false => disk.clone().queue(depth, &memory).unwrap(),
        };
        check(&*disk, &memory, &mut *queue);
    }
}

#[test]
fn a_queue_moves_data_between_scattered_pages_and_the_disk() {
    queues(8, |disk, memory, queue| {
        let data: Vec<u8> = (0..8192_u32).map(|at| (at * 7) as u8).collect();
        memory.write_slice(&data[..4096], GuestAddress(0x5000)).unwrap();
        memory.write_slice(&data[4096..], GuestAddress(0x1000)).unwrap();
        let ranges = [GuestRange { gpa: 0x5000, len: 4096 }, GuestRange { gpa: 0x1000, len: 4096 }];
        let write = Op::Write { offset: 512, ranges: &ranges, fua: true };
        queue.submit(Request { token: 1, op: write }).unwrap();
        let done = wait(queue);
        assert_eq!(done[0].1.as_ref().unwrap(), &8192);

        let into = [GuestRange { gpa: 0x1_0000, len: 512 }, GuestRange { gpa: 0x2_0000, len: 7680 }];
        queue.submit(Request { token: 2, op: Op::Read { offset: 512, ranges: &into } }).unwrap();
        assert_eq!(wait(queue)[0].1.as_ref().unwrap(), &8192);
        let mut back = vec![0; 8192];
        memory.read_slice(&mut back[..512], GuestAddress(0x1_0000)).unwrap();
        memory.read_slice(&mut back[512..], GuestAddress(0x2_0000)).unwrap();
        assert_eq!(back, data);
        disk.read_at(512, &mut back).unwrap();
        assert_eq!(back, data);
    });
}

#[test]
fn a_read_of_more_pieces_than_the_kernel_takes_is_whole() {
    queues(2, |_, memory, queue| {
        let ranges: Vec<_> = (0..1500).map(|i| GuestRange { gpa: i * 1024, len: 512 }).collect();
        queue.submit(Request { token: 0, op: Op::Read { offset: 0, ranges: &ranges } }).unwrap();
        assert_eq!(wait(queue)[0].1.as_ref().unwrap(), &(1500 * 512));
        let last: u8 = memory.read_obj(GuestAddress(1499 * 1024 + 3)).unwrap();
        assert_eq!(last, (1499_u64 as u8) ^ 3);
    });
}

#[test]
fn a_full_queue_says_so_and_has_room_after_completions() {
    queues(4, |_, _, queue| {
        for token in 0..4 {
            queue.submit(Request { token, op: Op::Flush }).unwrap();
        }
        assert_eq!(queue.submit(Request { token: 4, op: Op::Flush }), Err(SubmitError::Full));
        let tokens: Vec<_> = wait(queue).into_iter().map(|(token, _)| token).collect();
        assert_eq!(tokens, [0, 1, 2, 3]);
        queue.submit(Request { token: 5, op: Op::Flush }).unwrap();
        assert_eq!(wait(queue).len(), 1);
    });
}

#[test]
fn requests_beyond_the_disk_or_memory_are_refused_at_once() {
    queues(4, |_, _, queue| {
        let one = [GuestRange { gpa: 0, len: 512 }];
        let outside = [GuestRange { gpa: 4 << 20, len: 512 }];
        let odd = [GuestRange { gpa: 0, len: 100 }];
        let cases = [
            (Op::Read { offset: SIZE, ranges: &one }, SubmitError::Range),
            (Op::Read { offset: u64::MAX - 511, ranges: &one }, SubmitError::Range),
            (Op::Read { offset: 0, ranges: &odd }, SubmitError::Range),
            (Op::Write { offset: 1, ranges: &one, fua: false }, SubmitError::Range),
            (Op::Write { offset: 0, ranges: &outside, fua: false }, SubmitError::Memory),
            (Op::Discard { offset: 512, len: SIZE }, SubmitError::Range),
            (Op::WriteZeroes { offset: 0, len: 1, unmap: false, fua: false }, SubmitError::Range),
        ];
        for (op, error) in cases {
            assert_eq!(queue.submit(Request { token: 0, op }), Err(error), "{op:?}");
        }
        assert_eq!(queue.in_flight(), 0);
    });
}

#[test]
fn zeroed_and_discarded_ranges_read_as_zeroes_and_no_more() {
    queues(4, |disk, _, queue| {
        let mut before = vec![0; SIZE as usize];
        disk.read_at(0, &mut before).unwrap();
        let ops = [
            Op::Discard { offset: 512, len: 200 * 1024 },
            Op::WriteZeroes { offset: 0x5_0000, len: 512, unmap: false, fua: true },
            Op::WriteZeroes { offset: 0x6_0000, len: 0x1_0e00, unmap: true, fua: true },
        ];
        for (token, op) in ops.into_iter().enumerate() {
            queue.submit(Request { token: token as u64, op }).unwrap();
        }
        assert!(wait(queue).iter().all(|(_, result)| result.is_ok()));
        before[512..512 + 200 * 1024].fill(0);
        before[0x5_0000..0x5_0200].fill(0);
        before[0x6_0000..0x7_0e00].fill(0);
        let mut after = vec![0; SIZE as usize];
        disk.read_at(0, &mut after).unwrap();
        assert!(before == after);
    });
}

#[test]
fn dropping_a_queue_waits_for_its_writes() {
    for threads in [false, true] {
        let file = image(SIZE);
        let disk = open_with(file.path(), |_| {}).unwrap();
        let (memory, _) = guest_memory::allocate(1 << 20).unwrap();
        let mut queue = match threads {
            true => disk.clone().thread_queue(16, &memory).unwrap(),
            false => disk.clone().queue(16, &memory).unwrap(),
        };
        memory.write_slice(&[0xa5; 4096], GuestAddress(0)).unwrap();
        let ranges = [GuestRange { gpa: 0, len: 4096 }];
        for token in 0..16 {
            let op = Op::Write { offset: token * 4096, ranges: &ranges, fua: false };
            queue.submit(Request { token, op }).unwrap();
        }
        drop(queue);
        let mut back = [0; 4096];
        disk.read_at(15 * 4096, &mut back).unwrap();
        assert_eq!(back, [0xa5; 4096]);
    }
}

#[test]
fn a_read_ends_the_decoded_code_of_the_pages_it_fills() {
    let file = image(SIZE);
    let disk = open_with(file.path(), |_| {}).unwrap();
    let (memory, code) = guest_memory::allocate(1 << 20).unwrap();
    let before = code.mark(2);
    let mut queue = disk.queue(1, &memory).unwrap();
    let ranges = [GuestRange { gpa: 0x2000, len: 512 }];
    queue.submit(Request { token: 0, op: Op::Read { offset: 0, ranges: &ranges } }).unwrap();
    wait(&mut *queue);
    assert_ne!(code.state(2), before);
}

#[test]
fn where_the_host_cannot_zero_ranges_zeroes_are_written() {
    // Files in memory know no FALLOC_FL_ZERO_RANGE.
    // SAFETY: plain system call with a valid name; the descriptor is ours alone.
    let file = unsafe { File::from_raw_fd(libc::memfd_create(c"disk".as_ptr(), libc::MFD_CLOEXEC)) };
    let (len, at) = (3 * 1024 * 1024 + 512, 512_usize);
    let mut expected = vec![1; 4 << 20];
    (&file).write_all(&expected).unwrap();
    expected[at..at + len].fill(0);
    let source = image(SIZE);
    let template = open_with(source.path(), |_| {}).unwrap();
    let info = DiskInfo { size: 4 << 20, discard_granularity: 0, ..template.info().clone() };
    let raw = Arc::new(RawDisk { file: Arc::new(file), info });
    let contents = || {
        let mut contents = vec![2; 4 << 20];
        raw.read(0, &[Segment::from(&mut contents[..])]).unwrap();
        contents
    };
    raw.write_zeroes(at as u64, len as u64, false, true).unwrap();
    assert!(contents() == expected);

    raw.write(0, &[Segment::for_writing(&vec![1; 4 << 20])], false).unwrap();
    let (memory, _) = guest_memory::allocate(1 << 20).unwrap();
    let mut queue = raw.clone().queue(1, &memory).unwrap();
    let op = Op::WriteZeroes { offset: at as u64, len: len as u64, unmap: true, fua: true };
    queue.submit(Request { token: 0, op }).unwrap();
    assert!(wait(&mut *queue)[0].1.is_ok());
    assert!(contents() == expected);
}

#[test]
fn a_second_writer_is_refused_and_readers_share() {
    let file = image(SIZE);
    let writer = open_with(file.path(), |_| {}).unwrap();
    for (read_only, snapshot) in [(false, false), (true, false), (false, true)] {
        let second = open_with(file.path(), |options| {
            (options.read_only, options.snapshot) = (read_only, snapshot);
        });
        let text = second.err().unwrap().to_string();
        assert!(text.contains("in use") && text.contains(&file.path().display().to_string()), "{text}");
    }
    drop(writer);
    let _first = open_with(file.path(), |options| options.read_only = true).unwrap();
    let _second = open_with(file.path(), |options| options.snapshot = true).unwrap();
    assert!(matches!(open_with(file.path(), |_| {}), Err(Error::InUse(_))));
}

#[test]
fn what_is_no_disk_is_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("none.img");
    assert!(matches!(open_with(&missing, |_| {}), Err(Error::Missing(path)) if path == missing));
    assert!(matches!(open_with(directory.path(), |_| {}), Err(Error::Directory(_))));
    assert!(matches!(open_with(Path::new("/dev/null"), |_| {}), Err(Error::NotADisk(_))));
    let tiny = image(511);
    assert!(matches!(open_with(tiny.path(), |_| {}), Err(Error::Empty { block: 512, .. })));
    assert!(!missing.exists());
}

#[test]
fn a_partial_last_block_is_hidden() {
    let file = image(3 * 512 + 100);
    let disk = open_with(file.path(), |_| {}).unwrap();
    assert_eq!(disk.info().size, 3 * 512);
    assert!(disk.write_at(3 * 512, &[0; 512], false).is_err());
    assert_eq!(file.as_file().metadata().unwrap().len(), 3 * 512 + 100);
}

#[test]
fn writes_to_a_read_only_disk_are_refused() {
    let file = image(SIZE);
    let disk = open_with(file.path(), |options| options.read_only = true).unwrap();
    assert!(disk.info().read_only);
    let error = disk.write_at(0, &[0; 512], false).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ReadOnlyFilesystem);
    let (memory, _) = guest_memory::allocate(1 << 20).unwrap();
    let mut queue = disk.queue(1, &memory).unwrap();
    let op = Op::Discard { offset: 0, len: 512 };
    assert_eq!(queue.submit(Request { token: 0, op }), Err(SubmitError::ReadOnly));
}

#[test]
fn a_snapshot_leaves_the_image_as_it_was() {
    let file = image(SIZE);
    let before = std::fs::read(file.path()).unwrap();
    let disk = open_with(file.path(), |options| options.snapshot = true).unwrap();
    disk.write_at(4096 - 512, &[0x77; 1024], false).unwrap();
    disk.discard(0x8000, 0x8000).unwrap();
    let mut seen = before.clone();
    seen[4096 - 512..4096 + 512].fill(0x77);
    seen[0x8000..0x1_0000].fill(0);
    let mut now = vec![0; SIZE as usize];
    disk.read_at(0, &mut now).unwrap();
    assert!(now == seen);
    drop(disk);
    assert!(std::fs::read(file.path()).unwrap() == before);
}

#[test]
fn an_identity_is_stable_and_differs_between_images() {
    let (first, second) = (image(512), image(512));
    let identity = |file: &tempfile::NamedTempFile| {
        open_with(file.path(), |options| options.read_only = true).unwrap().info().identity
    };
    assert_eq!(identity(&first), identity(&first));
    assert_ne!(identity(&first), identity(&second));
}

/// Names the image to the process that [`what_a_killed_process_had_flushed_is_there`] kills.
const VICTIM: &str = "STORAGE_TEST_VICTIM";

/// Not a test of its own: writes sector after sector of the image and tells of each once it is flushed.
#[test]
fn victim() {
    let Some(path) = std::env::var_os(VICTIM) else { return };
    let disk = open_with(Path::new(&path), |_| {}).unwrap();
    let (memory, _) = guest_memory::allocate(1 << 20).unwrap();
    let mut queue = disk.queue(32, &memory).unwrap();
    let ranges = [GuestRange { gpa: 0, len: 512 }];
    for sector in 0.. {
        memory.write_slice(&[sector as u8 ^ 0x5a; 512], GuestAddress(0)).unwrap();
        let op = Op::Write { offset: sector % (SIZE / 512) * 512, ranges: &ranges, fua: false };
        queue.submit(Request { token: 0, op }).unwrap();
        wait(&mut *queue);
        queue.submit(Request { token: 1, op: Op::Flush }).unwrap();
        wait(&mut *queue);
        println!("flushed {sector}");
    }
}

#[test]
fn what_a_killed_process_had_flushed_is_there() {
    use std::io::BufRead;
    let file = image(SIZE);
    let mut victim = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "raw::tests::victim", "--nocapture"])
        .env(VICTIM, file.path())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let lines = io::BufReader::new(victim.stdout.take().unwrap()).lines();
    let flushed = lines.map_while(Result::ok).filter(|line| line.contains("flushed")).nth(20).unwrap();
    victim.kill().unwrap();
    victim.wait().unwrap();
    assert!(flushed.ends_with("20"), "{flushed}");
    // The image is free at once.
    let disk = open_with(file.path(), |_| {}).unwrap();
    for sector in 0..=20_u64 {
        let mut data = [0; 512];
        disk.read_at(sector * 512, &mut data).unwrap();
        assert_eq!(data, [sector as u8 ^ 0x5a; 512]);
    }
}

mod model {
    //! Random requests against a model in memory.

    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        Write { sector: u64, sectors: u64, byte: u8, pieces: u64 },
        Zero { sector: u64, sectors: u64, unmap: bool },
        Read { sector: u64, sectors: u64, pieces: u64 },
    }

    const SECTORS: u64 = SIZE / 512;

    fn step() -> impl Strategy<Value = Step> {
        let place = (0..SECTORS, 1_u64..64).prop_map(|(sector, len)| (sector, len.min(SECTORS - sector)));
        prop_oneof![
            (place.clone(), any::<u8>(), 1_u64..5)
                .prop_map(|((sector, sectors), byte, pieces)| Step::Write { sector, sectors, byte, pieces }),
            (place.clone(), any::<bool>()).prop_map(|((sector, sectors), unmap)| Step::Zero {
                sector,
                sectors,
                unmap
            }),
            (place, 1_u64..5).prop_map(|((sector, sectors), pieces)| Step::Read { sector, sectors, pieces }),
        ]
    }

    /// `bytes` bytes of guest memory in `pieces` ranges that do not touch.
    fn ranges(bytes: u64, pieces: u64) -> Vec<GuestRange> {
        let piece = bytes.div_ceil(pieces);
        (0..pieces)
            .map(|index| GuestRange {
                gpa: 0x10_0000 + index * 0x2_0001,
                len: piece.min(bytes.saturating_sub(index * piece)),
            })
            .collect()
    }

    fn carry_out(step: &Step, memory: &GuestMemory, queue: &mut dyn DiskQueue, model: &mut [u8]) {
        let bytes = |sector: u64, sectors: u64| (sector * 512) as usize..((sector + sectors) * 512) as usize;
        let mut run = |op| {
            queue.submit(Request { token: 0, op }).unwrap();
            assert!(wait(queue)[0].1.is_ok());
        };
        match *step {
            Step::Write { sector, sectors, byte, pieces } => {
                let ranges = ranges(sectors * 512, pieces);
                ranges.iter().for_each(|range| {
                    memory.write_slice(&vec![byte; range.len as usize], GuestAddress(range.gpa)).unwrap();
                });
                run(Op::Write { offset: sector * 512, ranges: &ranges, fua: byte & 1 != 0 });
                model[bytes(sector, sectors)].fill(byte);
            }
            Step::Zero { sector, sectors, unmap } => {
                run(Op::WriteZeroes { offset: sector * 512, len: sectors * 512, unmap, fua: false });
                model[bytes(sector, sectors)].fill(0);
            }
            Step::Read { sector, sectors, pieces } => {
                let ranges = ranges(sectors * 512, pieces);
                run(Op::Read { offset: sector * 512, ranges: &ranges });
                let mut read = Vec::new();
                ranges.iter().for_each(|range| {
                    let mut piece = vec![0; range.len as usize];
                    memory.read_slice(&mut piece, GuestAddress(range.gpa)).unwrap();
                    read.extend(piece);
                });
                assert!(read == model[bytes(sector, sectors)]);
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 8, ..ProptestConfig::default() })]

        #[test]
        fn a_disk_is_what_has_been_written_to_it(steps in prop::collection::vec(step(), 1..60)) {
            queues(4, |disk, memory, queue| {
                let mut model = vec![0; SIZE as usize];
                disk.read_at(0, &mut model).unwrap();
                steps.iter().for_each(|step| carry_out(step, memory, queue, &mut model));
                let mut contents = vec![0; SIZE as usize];
                disk.read_at(0, &mut contents).unwrap();
                assert!(contents == model);
            });
        }
    }
}
