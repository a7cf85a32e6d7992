use std::sync::atomic::Ordering;

use proptest::prelude::*;

use super::*;

/// The two ends of one ring, as host and guest have them.
fn ends(pages: u32) -> (HeapRing, OutgoingRing<HeapRing>, IncomingRing<HeapRing>) {
    let memory = HeapRing::new(pages);
    let writer = OutgoingRing::new(memory.clone()).unwrap();
    let reader = IncomingRing::new(memory.clone()).unwrap();
    (memory, writer, reader)
}

fn take(reader: &mut IncomingRing<HeapRing>) -> Vec<(u64, Vec<u8>)> {
    let mut batch = reader.batch().unwrap();
    let mut taken = Vec::new();
    while let Some(packet) = batch.next_packet().unwrap() {
        let mut data = vec![0; packet.data().len()];
        packet.data().read(&mut data);
        taken.push((packet.transaction_id, data));
    }
    batch.finish().unwrap();
    taken
}

fn put_word(memory: &HeapRing, index: u32, word: u64) {
    memory.words(index)[0].store(word, Ordering::Relaxed);
}

fn set(memory: &HeapRing, field: Control, value: u32) {
    memory.control(field).store(value, Ordering::Relaxed);
}

#[test]
fn a_packet_has_descriptor_data_padding_and_trailer() {
    let (memory, mut writer, _) = ends(1);
    assert!(writer.write(&OutgoingPacket::completion(0x1122, &[1, 2, 3, 4, 5, 6, 7, 8, 9])).unwrap());
    writer.commit();
    let words: Vec<u64> = memory.words(0)[..5].iter().map(|word| word.load(Ordering::Relaxed)).collect();
    // Type 11, header of 2 words, length of 4 words, no flags.
    assert_eq!(words, [0x0004_0002_000b, 0x1122, 0x0807_0605_0403_0201, 9, 0]);
    assert_eq!(memory.control(Control::WriteIndex).load(Ordering::Relaxed), 40);
}

#[test]
fn the_trailer_of_the_second_packet_says_where_it_began() {
    let (memory, mut writer, _) = ends(1);
    writer.write(&OutgoingPacket::in_band(1, &[])).unwrap();
    writer.write(&OutgoingPacket::in_band(2, &[])).unwrap();
    assert_eq!(memory.words(5)[0].load(Ordering::Relaxed), 24 << 32);
}

#[test]
fn packets_are_seen_after_commit_only() {
    let (_, mut writer, mut reader) = ends(1);
    writer.write(&OutgoingPacket::in_band(1, b"12345678")).unwrap();
    assert_eq!(take(&mut reader), []);
    writer.commit();
    assert_eq!(take(&mut reader), [(1, b"12345678".to_vec())]);
}

#[test]
fn only_the_first_packet_in_an_empty_ring_is_signalled() {
    let (_, mut writer, mut reader) = ends(1);
    let write = |writer: &mut OutgoingRing<_>| {
        writer.write(&OutgoingPacket::in_band(1, &[0; 8])).unwrap();
        writer.commit()
    };
    assert!(write(&mut writer));
    assert!(!write(&mut writer));
    assert_eq!(take(&mut reader).len(), 2);
    assert!(write(&mut writer));
}

#[test]
fn a_masked_reader_is_not_signalled_and_finds_packets_when_it_unmasks() {
    let (_, mut writer, mut reader) = ends(1);
    reader.mask();
    writer.write(&OutgoingPacket::in_band(1, &[0; 8])).unwrap();
    assert!(!writer.commit());
    assert!(reader.unmask().unwrap());
    take(&mut reader);
    assert!(!reader.unmask().unwrap());
}

#[test]
fn a_ring_is_never_filled_to_the_last_byte() {
    let (_, mut writer, _) = ends(1);
    // 512 words: 15 packets of 33 words leave 17; a packet of 17 would fill the ring, one of 16 not.
    for n in 0..15 {
        assert!(writer.write(&OutgoingPacket::in_band(n, &[0; 240])).unwrap());
    }
    assert!(!writer.write(&OutgoingPacket::in_band(15, &[0; 112])).unwrap());
    assert!(writer.write(&OutgoingPacket::in_band(15, &[0; 104])).unwrap());
}

#[test]
fn a_reader_signals_when_it_makes_the_room_the_writer_waits_for() {
    let (_, mut writer, mut reader) = ends(1);
    while writer.write(&OutgoingPacket::in_band(0, &[0; 240])).unwrap() {}
    writer.commit();
    // Needs 51 words; 17 are free.
    assert!(!writer.wait_for_room(48 * 8).unwrap());
    let mut finish_one = || {
        let mut batch = reader.batch().unwrap();
        batch.next_packet().unwrap();
        batch.finish().unwrap()
    };
    assert!(!finish_one(), "50 words are too few");
    assert!(finish_one(), "83 words are enough");
    assert!(!finish_one(), "the writer has been told");
    assert!(writer.wait_for_room(48 * 8).unwrap());
}

#[test]
fn a_reader_without_the_feature_bit_does_not_signal_room() {
    let (memory, mut writer, mut reader) = ends(1);
    set(&memory, Control::FeatureBits, 0);
    while writer.write(&OutgoingPacket::in_band(0, &[0; 240])).unwrap() {}
    writer.commit();
    assert!(!writer.wait_for_room(48 * 8).unwrap());
    let mut batch = reader.batch().unwrap();
    while batch.next_packet().unwrap().is_some() {}
    assert!(!batch.finish().unwrap());
}

#[test]
fn an_unfinished_batch_is_read_again() {
    let (_, mut writer, mut reader) = ends(1);
    writer.write(&OutgoingPacket::in_band(7, &[])).unwrap();
    writer.commit();
    assert!(reader.batch().unwrap().next_packet().unwrap().is_some());
    assert_eq!(take(&mut reader), [(7, vec![])]);
}

#[test]
fn indices_that_are_none_are_errors() {
    let (memory, mut writer, mut reader) = ends(1);
    set(&memory, Control::WriteIndex, 4096);
    assert_eq!(reader.batch().err(), Some(RingError::Index(4096)));
    set(&memory, Control::WriteIndex, 4);
    assert_eq!(reader.unmask().err(), Some(RingError::Index(4)));
    set(&memory, Control::ReadIndex, 8);
    while writer.write(&OutgoingPacket::in_band(0, &[0; 240])) == Ok(true) {}
    // The reader claims to have read what was not written when the writer last looked.
    set(&memory, Control::ReadIndex, 4088);
    assert_eq!(writer.write(&OutgoingPacket::in_band(0, &[0; 240])), Err(RingError::Index(4088)));
}

#[test]
fn a_packet_longer_than_what_was_written_is_an_error() {
    let (memory, _, mut reader) = ends(1);
    // Header of 2 words, length of 4, but only 4 words written where 5 are needed.
    put_word(&memory, 0, 0x0004_0002_0006);
    set(&memory, Control::WriteIndex, 32);
    let error = reader.batch().unwrap().next_packet().err();
    assert_eq!(error, Some(RingError::Packet { offset: 0, header: 2, length: 4 }));
}

#[test]
fn a_header_longer_than_its_packet_is_an_error() {
    let (memory, _, mut reader) = ends(1);
    put_word(&memory, 0, 0x0002_0003_0006);
    set(&memory, Control::WriteIndex, 64);
    let error = reader.batch().unwrap().next_packet().err();
    assert_eq!(error, Some(RingError::Packet { offset: 0, header: 3, length: 2 }));
}

fn gpa_direct(header: &[u64], data: &[u8]) -> (HeapRing, IncomingRing<HeapRing>) {
    let (memory, mut writer, reader) = ends(1);
    let kind = PacketType::GPA_DIRECT;
    let packet = OutgoingPacket { kind, completion_requested: true, transaction_id: 1, header, data };
    assert!(writer.write(&packet).unwrap());
    writer.commit();
    (memory, reader)
}

fn runs(reader: &mut IncomingRing<HeapRing>) -> Result<Vec<(u64, u64)>, BadRange> {
    let mut batch = reader.batch().unwrap();
    let packet = batch.next_packet().unwrap().unwrap();
    let mut runs = Vec::new();
    for range in packet.gpa_ranges().unwrap() {
        runs.extend(range?.runs().map(|run| (run.gpa, run.len)));
    }
    Ok(runs)
}

use packet::BadRange;

#[test]
fn neighbouring_frames_of_a_range_are_one_run() {
    let range = [1 << 32, 0x100 << 32 | 0x2f80, 5, 6, 9, 10];
    let (_, mut reader) = gpa_direct(&range, b"request!");
    // 0xf00 + 0x1000 bytes in frames 5 and 6, then 0x1000 + 0x80 in 9 and 10.
    assert_eq!(runs(&mut reader), Ok(vec![(0x5100, 0x1f00), (0x9000, 0x1080)]));
}

#[test]
fn several_ranges_follow_each_other() {
    let ranges = [2 << 32, 0x200, 3, 0xff8 << 32 | 16, 7, 20];
    let (_, mut reader) = gpa_direct(&ranges, &[]);
    assert_eq!(runs(&mut reader), Ok(vec![(0x3000, 0x200), (0x7ff8, 8), (0x14000, 8)]));
}

#[test]
fn ranges_with_too_few_frames_or_a_wild_offset_are_bad() {
    for range in [[1 << 32, 0x1001, 3], [1 << 32, 0x1000 << 32 | 1, 3], [2 << 32, 1, 3], [1 << 32, !0, 3]] {
        let (_, mut reader) = gpa_direct(&range, &[]);
        assert_eq!(runs(&mut reader), Err(BadRange), "{range:x?}");
    }
}

#[test]
fn a_frame_beyond_the_address_space_is_no_address_in_memory() {
    let (_, mut reader) = gpa_direct(&[1 << 32, 8 << 32 | 8, !0], &[]);
    assert_eq!(runs(&mut reader), Ok(vec![(0xffff_ffff_ffff_f008, 8)]));
}

#[test]
fn transfer_ranges_name_their_page_set() {
    let (_, mut writer, mut reader) = ends(1);
    let header = [2 << 32 | 0xcafe, 0x40 << 32 | 0x10, 0x80 << 32 | 0x20];
    let kind = PacketType::TRANSFER_PAGES;
    let packet =
        OutgoingPacket { kind, completion_requested: false, transaction_id: 1, header: &header, data: &[] };
    writer.write(&packet).unwrap();
    writer.commit();
    let mut batch = reader.batch().unwrap();
    let packet = batch.next_packet().unwrap().unwrap();
    let (set, ranges) = packet.transfer_ranges().unwrap();
    assert_eq!(set, 0xcafe);
    let range = |byte_count, byte_offset| TransferRange { byte_count, byte_offset };
    assert_eq!(ranges.collect::<Vec<_>>(), [range(0x10, 0x40), range(0x20, 0x80)]);
}

#[test]
fn guest_pages_may_be_scattered_but_must_be_ram() {
    let (memory, code) = guest_memory::allocate(8 * 4096).unwrap();
    let scattered = GuestPages::new(&memory, &code, &[5, 2, 7]).unwrap();
    scattered.words(600)[0].store(0x0123_4567_89ab_cdef, Ordering::Relaxed);
    let word: u64 = vm_memory::Bytes::read_obj(&memory, vm_memory::GuestAddress(7 * 4096 + 88 * 8)).unwrap();
    assert_eq!(word, 0x0123_4567_89ab_cdef);
    assert!(matches!(GuestPages::new(&memory, &code, &[5, 8]), Err(RingError::Frame(8))));
    assert!(matches!(GuestPages::new(&memory, &code, &[5, !0]), Err(RingError::Frame(_))));
    assert!(matches!(GuestPages::new(&memory, &code, &[5]), Err(RingError::Size(1))));
}

#[test]
fn code_in_a_ring_page_ends_when_the_page_is_written() {
    let (memory, code) = guest_memory::allocate(8 * 4096).unwrap();
    let mut writer = OutgoingRing::new(GuestPages::new(&memory, &code, &[1, 2, 3]).unwrap()).unwrap();
    let (control, first, second) = (code.mark(1), code.mark(2), code.mark(3));
    writer.write(&OutgoingPacket::in_band(1, &[1; 8])).unwrap();
    writer.commit();
    assert_ne!(code.state(1), control);
    assert_ne!(code.state(2), first);
    assert_eq!(code.state(3), second);
}

/// A bell that a thread waits for, and fails if it never rings.
struct Bell(std::sync::mpsc::Receiver<()>);

impl Bell {
    fn new() -> (std::sync::mpsc::Sender<()>, Self) {
        let (ring, bell) = std::sync::mpsc::channel();
        (ring, Self(bell))
    }

    fn wait(&self) {
        self.0.recv_timeout(std::time::Duration::from_secs(20)).expect("a signal is lost");
        while self.0.try_recv().is_ok() {}
    }
}

#[test]
fn no_signal_is_lost_between_two_threads() {
    const PACKETS: u64 = 100_000;
    let (_, mut writer, mut reader) = ends(1);
    let (to_reader, packets) = Bell::new();
    let (to_writer, room) = Bell::new();
    let writing = std::thread::spawn(move || {
        for n in 0..PACKETS {
            // Packets of all sizes, so that the ring is full in every way.
            let data = vec![n as u8; (n * 37 % 600) as usize];
            while !writer.write(&OutgoingPacket::in_band(n, &data)).unwrap() {
                if writer.commit() {
                    to_reader.send(()).unwrap();
                }
                if !writer.wait_for_room(data.len()).unwrap() {
                    room.wait();
                }
                writer.stop_waiting();
            }
            if n % 3 == 0 && writer.commit() {
                to_reader.send(()).unwrap();
            }
        }
        if writer.commit() {
            to_reader.send(()).unwrap();
        }
        // Keeps the reader's bell whole until it has read everything.
        to_reader
    });
    let mut next = 0;
    while next < PACKETS {
        reader.mask();
        let mut batch = reader.batch().unwrap();
        while let Some(packet) = batch.next_packet().unwrap() {
            assert_eq!(packet.transaction_id, next);
            next += 1;
        }
        if batch.finish().unwrap() {
            // The writer may have finished already.
            let _ = to_writer.send(());
        }
        if !reader.unmask().unwrap() && next < PACKETS {
            packets.wait();
        }
    }
    drop(writing.join().unwrap());
}

proptest! {
    #[test]
    fn packets_come_out_as_they_went_in(
        pages in 1_u32..4,
        sizes in proptest::collection::vec(0_usize..900, 1..200),
        batch in 1_usize..8,
    ) {
        let (_, mut writer, mut reader) = ends(pages);
        let (mut sent, mut received) = (Vec::new(), Vec::new());
        for (n, size) in sizes.into_iter().enumerate() {
            let data: Vec<u8> = (0..size).map(|byte| (byte + n) as u8).collect();
            let packet = OutgoingPacket::in_band(n as u64, &data);
            if !writer.write(&packet).unwrap() {
                writer.commit();
                received.extend(take(&mut reader));
                prop_assert!(writer.write(&packet).unwrap());
            }
            let mut padded = data.clone();
            padded.resize(size.next_multiple_of(8), 0);
            sent.push((n as u64, padded));
            if n % batch == 0 {
                writer.commit();
                received.extend(take(&mut reader));
            }
        }
        writer.commit();
        received.extend(take(&mut reader));
        prop_assert_eq!(sent, received);
    }
}
