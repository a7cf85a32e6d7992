use proptest::prelude::*;

use super::*;

#[derive(Default)]
struct Recorder(Mutex<Vec<Message>>);

impl MessageTarget for Recorder {
    fn send(&self, message: Message) {
        lock(&self.0).push(message);
    }
}

struct Bench {
    ioapic: Arc<IoApic>,
    messages: Arc<Recorder>,
}

impl Bench {
    fn new() -> Self {
        let messages = Arc::new(Recorder::default());
        Self { ioapic: IoApic::new(messages.clone()), messages }
    }

    fn read(&mut self, register: u8) -> u32 {
        self.ioapic.memory_write(SELECT, &u32::from(register).to_le_bytes());
        let mut data = [0xff; 4];
        self.ioapic.memory_read(WINDOW, &mut data);
        u32::from_le_bytes(data)
    }

    fn write(&mut self, register: u8, value: u32) {
        self.ioapic.memory_write(SELECT, &u32::from(register).to_le_bytes());
        self.ioapic.memory_write(WINDOW, &value.to_le_bytes());
    }

    fn redirect(&mut self, pin: u8, low: u32, destination: u8) {
        self.write(REDIRECTIONS + 2 * pin + 1, u32::from(destination) << 24);
        self.write(REDIRECTIONS + 2 * pin, low);
    }

    fn sent(&self) -> Vec<Message> {
        lock(&self.messages.0).split_off(0)
    }
}

const LEVEL: u32 = 1 << 15;
const MASKED: u32 = 1 << 16;
const REMOTE_IRR: u32 = 1 << 14;

#[test]
fn version_tells_24_inputs_and_an_eoi_register() {
    assert_eq!(Bench::new().read(VERSION), 0x0017_0020);
}

#[test]
fn entries_are_masked_at_power_on() {
    let mut bench = Bench::new();
    assert_eq!(bench.read(REDIRECTIONS), MASKED);
    bench.ioapic.line(0).pulse();
    assert!(bench.sent().is_empty());
}

#[test]
fn an_edge_sends_the_message_of_its_entry() {
    let mut bench = Bench::new();
    bench.redirect(2, 0x30, 3);
    bench.ioapic.line(2).set(true);
    bench.ioapic.line(2).set(true);
    assert_eq!(bench.sent(), [Message { address: 0xfee0_3000, data: 0x4030 }]);
    bench.ioapic.line(2).set(false);
    assert!(bench.sent().is_empty());
}

#[test]
fn logical_lowest_priority_is_passed_on() {
    let mut bench = Bench::new();
    bench.redirect(4, 0x0931, 0xff);
    bench.ioapic.line(4).pulse();
    assert_eq!(bench.sent(), [Message { address: 0xfeef_f004, data: 0x4131 }]);
}

#[test]
fn a_level_is_sent_once_until_its_end_and_again_while_it_is_high() {
    let mut bench = Bench::new();
    bench.redirect(9, LEVEL | 0x29, 0);
    bench.ioapic.line(9).set(true);
    assert_eq!(bench.read(REDIRECTIONS + 18) & REMOTE_IRR, REMOTE_IRR);
    assert_eq!(bench.sent().len(), 1);
    bench.ioapic.end_of_interrupt(0x28);
    assert!(bench.sent().is_empty());
    bench.ioapic.end_of_interrupt(0x29);
    assert_eq!(bench.sent().len(), 1);
    bench.ioapic.line(9).set(false);
    bench.ioapic.memory_write(END_OF_INTERRUPT, &0x29_u32.to_le_bytes());
    assert_eq!(bench.read(REDIRECTIONS + 18) & REMOTE_IRR, 0);
    assert!(bench.sent().is_empty());
}

#[test]
fn unmasking_a_high_level_sends_it() {
    let mut bench = Bench::new();
    bench.redirect(10, LEVEL | MASKED | 0x41, 0);
    bench.ioapic.line(10).set(true);
    assert!(bench.sent().is_empty());
    bench.redirect(10, LEVEL | 0x41, 0);
    assert_eq!(bench.sent().len(), 1);
}

#[test]
fn switching_to_edge_clears_remote_irr() {
    let mut bench = Bench::new();
    bench.redirect(10, LEVEL | 0x41, 0);
    bench.ioapic.line(10).set(true);
    bench.redirect(10, MASKED | 0x41, 0);
    bench.redirect(10, LEVEL | 0x41, 0);
    assert_eq!(bench.sent().len(), 2);
}

#[test]
fn read_only_bits_do_not_change() {
    let mut bench = Bench::new();
    bench.redirect(1, LEVEL | MASKED | REMOTE_IRR | 1 << 12 | 0xfffe_0000, 0);
    assert_eq!(bench.read(REDIRECTIONS + 2), LEVEL | MASKED);
}

proptest! {
    #[test]
    fn random_accesses_never_panic(accesses in prop::collection::vec((0_u8..5, any::<u64>(), any::<u32>()), 0..200)) {
        let mut bench = Bench::new();
        for (what, offset, value) in accesses {
            match what {
                0 => bench.write(offset as u8, value),
                1 => { bench.read(offset as u8); }
                2 => bench.ioapic.memory_write(offset & 0xfff, &value.to_le_bytes()[..(offset as usize & 3) + 1]),
                3 => bench.ioapic.memory_read(offset, &mut [0; 64]),
                _ => bench.ioapic.line(offset as u8).set(value & 1 != 0),
            }
        }
    }
}
