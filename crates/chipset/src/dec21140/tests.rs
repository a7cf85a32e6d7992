use std::sync::MutexGuard;

use clock::{FakeClock, FakeTimers};
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::line::tests::Probe;

const MAC: [u8; 6] = [0x00, 0x15, 0x5d, 0x01, 0x02, 0x03];
const EVERYBODY: [u8; 6] = [0xff; 6];
const MEMORY: u64 = 1 << 20;
const TRANSMIT_LIST: u32 = 0x1000;
const RECEIVE_LIST: u32 = 0x2000;
const BUFFERS: u32 = 0x1_0000;

/// Bits of descriptors and registers, as a driver writes them.
const OWN: u32 = 1 << 31;
const FIRST_AND_LAST: u32 = 3 << 29;
const FIRST: u32 = 1 << 29;
const LAST: u32 = 1 << 30;
const INTERRUPT: u32 = 1 << 31;
const SETUP: u32 = 1 << 27;
const END_OF_RING: u32 = 1 << 25;
const CHAINED: u32 = 1 << 24;
const TI: u32 = 1 << 0;
const TPS: u32 = 1 << 1;
const TU: u32 = 1 << 2;
const TJT: u32 = 1 << 3;
const RI: u32 = 1 << 6;
const RU: u32 = 1 << 7;
const RPS: u32 = 1 << 8;
const RWT: u32 = 1 << 9;
const GTE: u32 = 1 << 11;
const FBE: u32 = 1 << 13;
const AIS: u32 = 1 << 15;
const NIS: u32 = 1 << 16;
const SR: u32 = 1 << 1;
const ST: u32 = 1 << 13;
const PROMISCUOUS: u32 = 1 << 6;
const MII_PORT: u32 = 1 << 18;
const FULL_DUPLEX: u32 = 1 << 9;

#[derive(Default, Clone)]
struct Sent(Arc<Mutex<Vec<Vec<u8>>>>);

impl Wire for Sent {
    fn send(&self, frame: Vec<u8>) {
        self.0.lock().unwrap().push(frame);
    }
}

struct Bench {
    adapter: Arc<Mutex<Dec21140>>,
    memory: GuestMemory,
    timers: Arc<FakeTimers>,
    line: Arc<Probe>,
    sent: Sent,
    counters: DeviceCounters,
}

fn bench() -> Bench {
    let (memory, _) = guest_memory::allocate(MEMORY).unwrap();
    let clock = FakeClock::new();
    let timers = FakeTimers::new(Arc::clone(&clock));
    let (line, sent, counters) = (Probe::new(), Sent::default(), DeviceCounters::default());
    let settings = Settings {
        mac: MAC,
        memory: memory.clone(),
        clock,
        line: Arc::clone(&line) as Arc<_>,
        wire: Box::new(sent.clone()),
        counters: counters.clone(),
    };
    let adapter = Dec21140::new(settings, &*timers);
    let bench = Bench { adapter, memory, timers, line, sent, counters };
    // Ports, memory and bus mastering.
    bench.adapter().config_write(0x04, 7, 0xffff);
    bench.set(3, RECEIVE_LIST);
    bench.set(4, TRANSMIT_LIST);
    bench
}

impl Bench {
    fn adapter(&self) -> MutexGuard<'_, Dec21140> {
        self.adapter.lock().unwrap()
    }

    fn set(&self, register: u16, value: u32) {
        self.adapter().port_write(0xc000 + 8 * register, &value.to_le_bytes());
    }

    fn get(&self, register: u16) -> u32 {
        let mut data = [0xff; 4];
        self.adapter().port_read(0xc000 + 8 * register, &mut data);
        u32::from_le_bytes(data)
    }

    /// Events since they were last cleared, which this does.
    fn events(&self) -> u32 {
        let events = self.get(5) & 0xffff;
        self.set(5, events);
        events & 0x6fff
    }

    fn process(&self, shift: u32) -> u32 {
        self.get(5) >> shift & 7
    }

    fn put(&self, at: u32, longwords: &[u32]) {
        let bytes: Vec<u8> = longwords.iter().flat_map(|longword| longword.to_le_bytes()).collect();
        self.memory.write_slice(&bytes, GuestAddress(at.into())).unwrap();
    }

    fn longword(&self, at: u32) -> u32 {
        u32::from_le(self.memory.read_obj(GuestAddress(at.into())).unwrap())
    }

    fn bytes(&self, at: u32, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory.read_slice(&mut bytes, GuestAddress(at.into())).unwrap();
        bytes
    }

    fn sent(&self) -> Vec<Vec<u8>> {
        std::mem::take(&mut *self.sent.0.lock().unwrap())
    }

    /// A ring of descriptors with buffers of `size` bytes, all of them the adapter's.
    fn receive_ring(&self, count: u32, size: u32) {
        for index in 0..count {
            let end = if index + 1 == count { END_OF_RING } else { 0 };
            let buffer = BUFFERS + 0x800 * index;
            self.put(RECEIVE_LIST + 16 * index, &[OWN, size | end, buffer, 0]);
        }
    }

    fn receive(&self, frame: Vec<u8>) {
        self.adapter().receive(frame);
    }
}

/// A frame of `len` bytes to `to`, that counts from its fifteenth byte on.
fn frame(to: [u8; 6], len: usize) -> Vec<u8> {
    let mut frame = [&to[..], &[2; 6], &[0x08, 0x00]].concat();
    frame.extend((14..len).map(|index| index as u8));
    frame
}

#[test]
fn registers_are_the_chips_after_reset() {
    let bench = bench();
    let expected = [(0, 0xfe00_0000), (1, u32::MAX), (5, 0xfc00_0000), (6, 0x3200_0040), (7, 0xfffe_0000)];
    assert!(expected.iter().all(|&(register, value)| bench.get(register) == value));
    let expected = [(8, 0xe000_0000), (11, 0xfffe_0000), (12, 0xffff_feff), (15, 0xffff_fec8)];
    assert!(expected.iter().all(|&(register, value)| bench.get(register) == value));
    let config = |register| bench.adapter().config_read(register);
    assert_eq!([config(0), config(8), config(0x2c)], [0x0009_1011, 0x0200_0020, 0x2114_0a00]);
}

#[test]
fn registers_are_in_memory_as_they_are_in_ports() {
    let bench = bench();
    let mut adapter = bench.adapter();
    adapter.memory_write(0x18, &0x1234_5678_u32.to_le_bytes());
    let mut data = [0; 8];
    adapter.memory_read(0x18, &mut data);
    assert_eq!(data, [0x78, 0x56, 0x34, 0x12, 0xff, 0xff, 0xff, 0xff]);
    let mut byte = [0];
    adapter.port_read(0xc01a, &mut byte);
    assert_eq!(byte, [0x34]);
}

#[test]
fn a_frame_is_sent_when_the_process_starts_and_when_it_is_told() {
    let bench = bench();
    let data = frame(EVERYBODY, 100);
    bench.memory.write_slice(&data, GuestAddress(BUFFERS.into())).unwrap();
    bench.put(TRANSMIT_LIST, &[OWN, FIRST_AND_LAST | INTERRUPT | 100, BUFFERS, 0]);
    bench.put(TRANSMIT_LIST + 16, &[0, FIRST_AND_LAST | END_OF_RING | 100, BUFFERS, 0]);
    bench.set(6, ST);
    assert_eq!((bench.sent(), bench.longword(TRANSMIT_LIST)), (vec![data.clone()], 0));
    assert_eq!((bench.process(20), bench.events()), (6, TI | TU));
    // Still nothing: that is no news.
    bench.set(1, 0);
    assert_eq!(bench.events(), 0);
    bench.put(TRANSMIT_LIST + 16, &[OWN]);
    bench.put(TRANSMIT_LIST, &[OWN, FIRST_AND_LAST | 100]);
    bench.set(1, 0);
    assert_eq!((bench.sent(), bench.events()), (vec![data.clone(), data], TU));
    assert_eq!((bench.counters.requests.value(), bench.counters.bytes_out.value()), (3, 300));
}

#[test]
fn a_frame_may_be_in_many_buffers() {
    let bench = bench();
    let data = frame(EVERYBODY, 120);
    for (index, part) in data.chunks(40).enumerate() {
        bench.memory.write_slice(part, GuestAddress(u64::from(BUFFERS) + 0x100 * index as u64)).unwrap();
    }
    // A descriptor with two buffers, and one behind a gap of eight longwords.
    bench.set(0, 8 << 2);
    bench.put(TRANSMIT_LIST, &[OWN, FIRST | 40 << 11 | 40, BUFFERS, BUFFERS + 0x100]);
    bench.put(TRANSMIT_LIST + 48, &[OWN, LAST | 40, BUFFERS + 0x200, 0]);
    bench.set(6, ST);
    assert_eq!(bench.sent(), std::slice::from_ref(&data));
    // Chained ones.
    bench.set(6, 0);
    bench.set(4, TRANSMIT_LIST);
    let chained = FIRST | CHAINED | 40;
    bench.put(TRANSMIT_LIST, &[OWN, chained, BUFFERS, 0x5000]);
    bench.put(0x5000, &[OWN, CHAINED | 40, BUFFERS + 0x100, 0x6000]);
    bench.put(0x6000, &[OWN, LAST | END_OF_RING | 40, BUFFERS + 0x200, 0]);
    bench.set(6, ST);
    assert_eq!(bench.sent(), [data]);
}

#[test]
fn short_frames_are_padded_and_check_sequences_cut_off() {
    let bench = bench();
    bench.memory.write_slice(&frame(EVERYBODY, 64), GuestAddress(BUFFERS.into())).unwrap();
    let (no_padding, no_check_sequence) = (1 << 23, 1 << 26);
    bench.put(TRANSMIT_LIST, &[OWN, FIRST_AND_LAST | 20, BUFFERS, 0]);
    bench.put(TRANSMIT_LIST + 16, &[OWN, FIRST_AND_LAST | no_padding | 20, BUFFERS, 0]);
    bench.put(TRANSMIT_LIST + 32, &[OWN, FIRST_AND_LAST | no_check_sequence | 64, BUFFERS, 0]);
    bench.set(6, ST);
    let sent = bench.sent();
    assert_eq!(sent.iter().map(Vec::len).collect::<Vec<_>>(), [60, 20, 60]);
    assert!(sent[0][20..].iter().all(|byte| *byte == 0));
    assert_eq!(sent[2], frame(EVERYBODY, 60));
}

#[test]
fn a_frame_without_end_stops_the_transmit_process() {
    let bench = bench();
    for index in 0..3 {
        let first = if index == 0 { FIRST } else { 0 };
        bench.put(TRANSMIT_LIST + 16 * index, &[OWN, first | 1000, BUFFERS, 0]);
    }
    bench.set(6, ST);
    assert_eq!((bench.process(20), bench.events()), (0, TJT));
    assert_eq!((bench.longword(TRANSMIT_LIST + 32), bench.adapter().dropped()), (0xc000, 1));
    // What remains of it does not become a frame of its own.
    bench.put(TRANSMIT_LIST + 48, &[OWN, LAST | 100, BUFFERS, 0]);
    bench.set(6, 0);
    bench.set(6, ST);
    assert_eq!((bench.sent(), bench.longword(TRANSMIT_LIST + 48)), (vec![], 0));
}

#[test]
fn a_list_that_leads_in_a_circle_ends_where_it_began() {
    let bench = bench();
    bench.put(TRANSMIT_LIST, &[OWN, FIRST_AND_LAST | CHAINED | 60, BUFFERS, TRANSMIT_LIST]);
    bench.set(6, ST);
    assert_eq!((bench.sent().len(), bench.process(20)), (1, 6));
}

#[test]
fn a_list_without_end_is_taken_in_parts() {
    let bench = bench();
    for index in 0..5000 {
        bench.put(0x2_0000 + 16 * index, &[OWN, 0, 0, 0]);
    }
    bench.set(4, 0x2_0000);
    bench.set(6, ST);
    assert_eq!((bench.process(20), bench.longword(0x2_0000 + 16 * 4096)), (1, OWN));
    bench.timers.advance(RETRY);
    assert_eq!((bench.process(20), bench.longword(0x2_0000 + 16 * 4999)), (6, 0));
}

#[test]
fn lists_and_buffers_outside_memory_are_fatal_until_a_reset() {
    for list in [0xfff0_0000, MEMORY as u32 - 8, 0xc000_0000] {
        let bench = bench();
        bench.set(4, list);
        bench.set(7, FBE | AIS);
        bench.set(6, ST);
        assert_eq!(bench.get(5) & 0x03f0_ffff, FBE | AIS | 1 << 23, "{list:#x}");
        assert!(bench.line.is_high());
        // The receive process is dead, too.
        bench.receive_ring(1, 1536);
        bench.set(6, ST | SR | PROMISCUOUS);
        bench.receive(frame(MAC, 60));
        assert_eq!((bench.process(17), bench.process(20), bench.longword(RECEIVE_LIST)), (0, 0, OWN));
        bench.set(0, 1);
        bench.set(0, 0);
        assert!(!bench.line.is_high());
        bench.set(3, RECEIVE_LIST);
        bench.set(6, SR | PROMISCUOUS);
        bench.receive(frame(MAC, 60));
        assert_eq!(bench.events(), RI);
    }
    let bench = bench();
    bench.put(TRANSMIT_LIST, &[OWN, FIRST_AND_LAST | 100, MEMORY as u32 - 50, 0]);
    bench.set(6, ST);
    assert_eq!((bench.events(), bench.sent().len()), (FBE, 0));
}

#[test]
fn without_bus_mastering_nothing_moves_until_it_is_allowed() {
    let bench = bench();
    bench.adapter().config_write(0x04, 3, 0xffff);
    bench.put(TRANSMIT_LIST, &[OWN, FIRST_AND_LAST | 60, BUFFERS, 0]);
    bench.receive_ring(2, 1536);
    bench.set(6, ST | SR | PROMISCUOUS);
    bench.receive(frame(MAC, 60));
    assert_eq!((bench.events(), bench.sent().len()), (0, 0));
    bench.adapter().config_write(0x04, 7, 0xffff);
    assert_eq!((bench.events(), bench.sent().len()), (TU | RI, 1));
}

#[test]
fn a_received_frame_has_its_length_and_check_sequence() {
    let bench = bench();
    bench.receive_ring(2, 1536);
    bench.set(6, SR | PROMISCUOUS);
    bench.receive(frame(EVERYBODY, 42));
    // Filtering fail, 64 bytes, multicast, first and last, a type.
    assert_eq!(bench.longword(RECEIVE_LIST), 1 << 30 | 64 << 16 | 0x400 | 0x300 | 0x20);
    let mut padded = frame(EVERYBODY, 42);
    padded.resize(60, 0);
    padded.extend(check::sequence(&padded));
    assert_eq!(bench.bytes(BUFFERS, 64), padded);
    assert_eq!((bench.events(), bench.process(17)), (RI, 3));
    assert_eq!((bench.counters.requests.value(), bench.counters.bytes_in.value()), (1, 64));
}

#[test]
fn a_long_frame_fills_several_descriptors() {
    let bench = bench();
    bench.receive_ring(4, 400);
    bench.set(6, SR | PROMISCUOUS);
    bench.receive(frame(MAC, 1000));
    let status = |index: u32| bench.longword(RECEIVE_LIST + 16 * index);
    assert_eq!(
        [status(0), status(1), status(2), status(3)],
        [0x200, 0, 1 << 30 | 1004 << 16 | 0x100 | 0x20, OWN]
    );
    let parts = [400, 400, 200].into_iter().zip(0..);
    let data: Vec<u8> = parts.flat_map(|(len, index)| bench.bytes(BUFFERS + 0x800 * index, len)).collect();
    assert_eq!(data, frame(MAC, 1000));
}

#[test]
fn a_frame_that_the_descriptors_do_not_hold_is_truncated() {
    let bench = bench();
    bench.receive_ring(2, 400);
    bench.set(6, SR | PROMISCUOUS);
    bench.receive(frame(MAC, 1000));
    // Descriptor error, in the last one that there was.
    let last = bench.longword(RECEIVE_LIST + 16);
    assert_eq!(last & 0xcf00, 0xc100);
    assert_eq!(bench.events(), RI);
}

#[test]
fn descriptors_without_buffers_do_not_hold_the_adapter_up() {
    let bench = bench();
    for index in 0..2000 {
        bench.put(0x2_0000 + 16 * index, &[OWN, 0, 0, 0]);
    }
    bench.set(3, 0x2_0000);
    bench.set(6, SR | PROMISCUOUS);
    bench.receive(frame(MAC, 60));
    assert_eq!((bench.events(), bench.longword(0x2_0000 + 16 * 1999)), (RI, OWN));
}

#[test]
fn frames_wait_for_descriptors_and_are_missed_when_there_is_no_room() {
    let bench = bench();
    bench.receive_ring(1, 1536);
    bench.set(6, SR | PROMISCUOUS);
    (0..3).for_each(|_| bench.receive(frame(MAC, 60)));
    assert_eq!((bench.process(17), bench.events()), (4, RI | RU));
    // It looks by itself; that there is none is told once.
    bench.timers.advance(RETRY);
    assert_eq!(bench.events(), 0);
    bench.put(RECEIVE_LIST, &[OWN]);
    bench.timers.advance(RETRY);
    assert_eq!((bench.longword(RECEIVE_LIST) & OWN, bench.events()), (0, RI | RU));
    // When it is told, and at any access.
    bench.put(RECEIVE_LIST, &[OWN]);
    bench.set(2, 0);
    assert_eq!((bench.longword(RECEIVE_LIST) & OWN, bench.events()), (0, RI));
    let total = 70_000 + 4096;
    (0..total).for_each(|_| bench.receive(frame(MAC, 60)));
    assert_eq!(bench.get(8), 0xe000_0000 | 1 << 16 | (70_000 - 65_536));
    assert_eq!((bench.get(8), bench.adapter().dropped()), (0xe000_0000, 70_000));
}

#[test]
fn a_frame_that_does_not_end_ends_the_watchdogs_patience() {
    let bench = bench();
    bench.receive_ring(2, 1536);
    bench.set(6, SR | PROMISCUOUS);
    bench.receive(frame(MAC, LONGEST_FRAME + 1));
    assert_eq!((bench.events(), bench.longword(RECEIVE_LIST)), (RWT, OWN));
    bench.set(15, 0x10);
    bench.receive(frame(MAC, LONGEST_FRAME + 1));
    assert_eq!((bench.events(), bench.adapter().dropped()), (0, 2));
    bench.receive(frame(MAC, LONGEST_FRAME));
    // Too long for Ethernet, but whole.
    assert_eq!(bench.longword(RECEIVE_LIST + 16) >> 16 & 0x3fff, LONGEST_FRAME as u32 + 4);
}

#[test]
fn a_setup_frame_says_what_is_received() {
    let bench = bench();
    bench.receive_ring(4, 1536);
    let mut setup = [0xff; 192];
    for (index, pair) in MAC.chunks_exact(2).enumerate() {
        setup[4 * index..4 * index + 2].copy_from_slice(pair);
    }
    bench.memory.write_slice(&setup, GuestAddress(0x8000)).unwrap();
    bench.put(TRANSMIT_LIST, &[OWN, INTERRUPT | SETUP | 192, 0x8000, 0]);
    bench.set(6, SR | ST);
    assert_eq!((bench.longword(TRANSMIT_LIST), bench.events()), (0x7fff_ffff, TI | TU));
    let other = [0, 1, 2, 3, 4, 5];
    [MAC, other, EVERYBODY].into_iter().for_each(|to| bench.receive(frame(to, 60)));
    let status = |index: u32| bench.longword(RECEIVE_LIST + 16 * index) & 0xc000_0400;
    assert_eq!([status(0), status(1), status(2)], [0, 0x400, OWN]);
    // Inverse, which the mode shows.
    bench.put(TRANSMIT_LIST + 16, &[OWN, 1 << 28 | SETUP | 192, 0x8000, 0]);
    bench.set(1, 0);
    assert_eq!(bench.get(6) & 0x15, 0x10);
    [MAC, other].into_iter().for_each(|to| bench.receive(frame(to, 60)));
    assert_eq!([status(2), status(3)], [0, OWN]);
    // One of another length changes nothing.
    bench.put(TRANSMIT_LIST + 32, &[OWN, SETUP | 100, 0x8000, 0]);
    bench.set(1, 0);
    assert_eq!((bench.get(6) & 0x15, bench.longword(TRANSMIT_LIST + 32)), (0x10, 0x7fff_ffff));
}

#[test]
fn interrupts_follow_the_mask_and_their_summaries() {
    let bench = bench();
    bench.receive_ring(4, 1536);
    bench.set(7, RI);
    bench.set(6, SR | PROMISCUOUS);
    bench.receive(frame(MAC, 60));
    assert_eq!((bench.get(5) & (NIS | AIS), bench.line.is_high()), (NIS, false));
    bench.set(7, RI | NIS);
    assert!(bench.line.is_high());
    bench.set(5, RI);
    assert!(!bench.line.is_high());
    // Another frame is another edge.
    bench.receive(frame(MAC, 60));
    assert!(bench.line.is_high());
    bench.adapter().config_write(0x04, 0x407, 0xffff);
    assert!(!bench.line.is_high());
    assert_eq!(bench.line.take_edges(), 2);
    // An event that is masked does not count for the summary.
    bench.set(7, NIS | AIS);
    assert_eq!(bench.get(5) & (NIS | AIS), 0);
}

#[test]
fn stopped_processes_say_so() {
    let bench = bench();
    bench.receive_ring(1, 1536);
    bench.set(6, ST | SR | PROMISCUOUS);
    assert!(bench.adapter().is_started());
    bench.events();
    bench.set(6, PROMISCUOUS);
    assert_eq!((bench.events(), bench.process(17), bench.process(20)), (TPS | RPS, 0, 0));
    bench.receive(frame(MAC, 60));
    assert_eq!(bench.longword(RECEIVE_LIST), OWN);
}

#[test]
fn frames_come_back_in_loopback_mode() {
    let bench = bench();
    bench.receive_ring(2, 1536);
    bench.memory.write_slice(&frame(MAC, 60), GuestAddress(0x8000)).unwrap();
    bench.put(TRANSMIT_LIST, &[OWN, FIRST_AND_LAST | 60, 0x8000, 0]);
    bench.set(6, ST | SR | PROMISCUOUS | 1 << 10);
    assert_eq!((bench.sent().len(), bench.bytes(BUFFERS, 60)), (0, frame(MAC, 60)));
    // The wire is not heard meanwhile.
    bench.receive(frame(MAC, 60));
    assert_eq!(bench.longword(RECEIVE_LIST + 16), OWN);
}

#[test]
fn without_a_link_the_carrier_is_missing() {
    let bench = bench();
    bench.adapter().set_link(false);
    bench.put(TRANSMIT_LIST, &[OWN, FIRST_AND_LAST | 60, BUFFERS, 0]);
    bench.put(TRANSMIT_LIST + 16, &[0, FIRST_AND_LAST | 60, BUFFERS, 0]);
    bench.set(6, ST);
    assert_eq!((bench.longword(TRANSMIT_LIST), bench.sent().len()), (0x8c00, 0));
    bench.put(TRANSMIT_LIST + 16, &[OWN]);
    bench.set(6, ST | FULL_DUPLEX);
    bench.set(1, 0);
    assert_eq!((bench.longword(TRANSMIT_LIST + 16), bench.adapter().dropped()), (0, 2));
}

#[test]
fn the_timer_counts_once_or_for_ever() {
    let bench = bench();
    bench.set(7, GTE | AIS);
    bench.set(6, MII_PORT);
    bench.set(11, 100);
    bench.timers.advance(99 * MII_100_CYCLE);
    assert_eq!((bench.get(11), bench.events()), (0xfffe_0001, 0));
    bench.timers.advance(MII_100_CYCLE);
    assert!(bench.line.is_high());
    assert_eq!((bench.get(11), bench.events()), (0xfffe_0000, GTE));
    bench.timers.advance(1000 * MII_100_CYCLE);
    assert_eq!(bench.events(), 0);
    bench.set(11, 1 << 16 | 10);
    for _ in 0..3 {
        bench.timers.advance(10 * MII_100_CYCLE);
        assert_eq!(bench.events(), GTE);
    }
    bench.set(11, 0);
    assert_eq!(bench.timers.next_deadline(), None);
    // At 10 Mbit/s it is ten times as slow.
    bench.set(6, MII_PORT | 1 << 22);
    bench.set(11, 1);
    bench.timers.advance(9 * MII_100_CYCLE);
    assert_eq!(bench.events(), 0);
    bench.timers.advance(MII_100_CYCLE);
    assert_eq!(bench.events(), GTE);
}

#[test]
fn automatic_polling_finds_what_it_was_not_told_of() {
    let bench = bench();
    bench.set(0, 2 << 17);
    bench.put(TRANSMIT_LIST, &[0, FIRST_AND_LAST | END_OF_RING | 60, BUFFERS, 0]);
    bench.set(6, MII_PORT | ST);
    assert_eq!(bench.events(), TU);
    bench.timers.advance(20 * MII_100_CYCLE);
    assert_eq!(bench.events(), 0);
    bench.put(TRANSMIT_LIST, &[OWN]);
    bench.timers.advance(3 * MII_100_CYCLE);
    assert_eq!((bench.sent().len(), bench.events()), (1, TU));
}

#[test]
fn descriptors_may_have_their_bytes_swapped() {
    let bench = bench();
    bench.set(0, 1 << 20);
    let swapped = [OWN, FIRST_AND_LAST | 60, BUFFERS, 0].map(u32::swap_bytes);
    bench.put(TRANSMIT_LIST, &swapped);
    bench.put(RECEIVE_LIST, &[OWN, 1536, BUFFERS, 0].map(u32::swap_bytes));
    bench.set(6, ST | SR | PROMISCUOUS);
    bench.receive(frame(MAC, 60));
    assert_eq!((bench.sent().len(), bench.longword(TRANSMIT_LIST)), (1, 0));
    assert_eq!(bench.longword(RECEIVE_LIST).swap_bytes() >> 16, 1 << 14 | 64);
}

#[test]
fn the_serial_rom_and_the_phy_are_behind_csr9() {
    let bench = bench();
    let (select, read, clock) = (0x801, 0x4000, 2);
    bench.set(9, select | read);
    // READ of word 10.
    for bit in (0..9).rev() {
        let data = ((0b110 << 6 | 10) >> bit & 1) << 2;
        bench.set(9, select | read | data);
        bench.set(9, select | read | data | clock);
    }
    let mut word = 0;
    for _ in 0..16 {
        bench.set(9, select | read);
        bench.set(9, select | read | clock);
        word = word << 1 | bench.get(9) >> 3 & 1;
    }
    assert_eq!(word, 0x1500);
    bench.set(9, 0);
    assert_eq!(bench.get(9) & 0xff, 0xff);
    // The identifier of the PHY.
    let (mdc, mdo, mii) = (1 << 16, 1 << 17, 1 << 18);
    for bit in (0..46).rev() {
        let command = 0xffff_ffff_u64 << 14 | 0b0110 << 10 | 1 << 5 | 2;
        let data = if command >> bit & 1 != 0 { mdo } else { 0 };
        bench.set(9, data);
        bench.set(9, data | mdc);
    }
    let mut word = 0;
    for _ in 0..18 {
        bench.set(9, mii);
        word = word << 1 | bench.get(9) >> 19 & 1;
        bench.set(9, mii | mdc);
    }
    assert_eq!(word & 0x1_ffff, 0x2000);
}

proptest::proptest! {
    #[test]
    fn random_accesses_never_panic(
        accesses in proptest::collection::vec((0_u64..140, 1_usize..9, proptest::num::u64::ANY), 0..300),
        memory in proptest::collection::vec(proptest::num::u32::ANY, 64),
    ) {
        let bench = bench();
        bench.put(0, &memory);
        for (offset, len, value) in accesses {
            let bytes = value.to_le_bytes();
            match value % 5 {
                0 => bench.adapter().memory_read(offset, &mut [0; 8][..len]),
                1 => bench.receive(frame(MAC, (value >> 8) as usize % 3000)),
                2 => bench.timers.advance(value % (2 * RETRY)),
                _ => {
                    let small = (value & 0xff00_00ff).to_le_bytes();
                    let bytes = if value & 1 << 40 == 0 { bytes } else { small };
                    bench.adapter().memory_write(offset, &bytes[..len]);
                }
            }
        }
    }
}
