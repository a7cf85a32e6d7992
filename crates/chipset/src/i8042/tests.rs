use proptest::prelude::*;

use super::*;
use crate::line::tests::Probe;
use crate::power::tests::Power;

struct Bench {
    controller: I8042,
    irq1: Arc<Probe>,
    irq12: Arc<Probe>,
    power: Arc<Power>,
}

impl Bench {
    fn new() -> Self {
        let (irq1, irq12, power) = (Probe::new(), Probe::new(), Power::new());
        Self { controller: I8042::new(irq1.clone(), irq12.clone(), power.clone()), irq1, irq12, power }
    }

    fn command(&mut self, command: u8) {
        self.controller.port_write(COMMAND, &[command]);
    }

    fn data(&mut self, value: u8) {
        self.controller.port_write(DATA, &[value]);
    }

    fn mouse(&mut self, value: u8) {
        self.command(0xd4);
        self.data(value);
    }

    fn status(&mut self) -> Status {
        let mut data = [0];
        self.controller.port_read(COMMAND, &mut data);
        Status::from_bits(data[0])
    }

    /// All bytes that wait.
    fn read(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        while self.status().output_full() {
            let mut data = [0];
            self.controller.port_read(DATA, &mut data);
            bytes.push(data[0]);
        }
        bytes
    }
}

#[test]
fn self_test_and_interface_tests_pass() {
    let mut bench = Bench::new();
    bench.command(0xaa);
    assert_eq!(bench.read(), [0x55]);
    bench.command(0xab);
    assert_eq!(bench.read(), [0x00]);
    bench.command(0xa9);
    assert_eq!(bench.read(), [0x00]);
}

#[test]
fn the_command_byte_reads_back() {
    let mut bench = Bench::new();
    bench.command(0x20);
    assert_eq!(bench.read(), [0x65]);
    bench.command(0x60);
    bench.data(0x74);
    bench.command(0x20);
    assert_eq!(bench.read(), [0x74]);
}

#[test]
fn the_mouse_loop_of_linux_comes_back_as_mouse_data() {
    let mut bench = Bench::new();
    bench.command(0x60);
    bench.data(0x47);
    bench.command(0xd3);
    bench.data(0x5a);
    assert!(bench.status().from_mouse());
    assert!(bench.irq12.is_high() && !bench.irq1.is_high());
    assert_eq!(bench.read(), [0x5a]);
    assert!(!bench.irq12.is_high());
}

#[test]
fn linux_disables_and_enables_the_mouse_port_in_the_command_byte() {
    let mut bench = Bench::new();
    bench.command(0xa8);
    bench.command(0x20);
    assert_eq!(bench.read()[0] & 0x20, 0);
    bench.command(0xa7);
    bench.command(0x20);
    assert_eq!(bench.read()[0] & 0x20, 0x20);
}

/// A controller that leaves the keyboard's codes as they are, and the keyboard in set 3.
fn in_set_3() -> Bench {
    let mut bench = Bench::new();
    bench.command(0x60);
    bench.data(0x05);
    for byte in [0xf0, 3] {
        bench.data(byte);
        assert_eq!(bench.read(), [0xfa]);
    }
    bench.data(0xf0);
    bench.data(0);
    assert_eq!(bench.read(), [0xfa, 0xfa, 3]);
    bench
}

impl Bench {
    /// What the keys say that are pressed and let go one after the other.
    fn strokes(&mut self, keys: &[u16]) -> Vec<u8> {
        for key in keys {
            self.controller.key(*key, true);
            self.controller.key(*key, false);
        }
        self.read()
    }
}

#[test]
fn in_set_3_only_shifts_tell_when_they_are_let_go_until_others_are_told_to() {
    let mut bench = in_set_3();
    // A, left Shift, cursor up, Pause.
    let keys = [0x1e, 0x2a, 0xe048, 0xe11d];
    assert_eq!(bench.strokes(&keys), [0x1c, 0x12, 0xf0, 0x12, 0x63, 0x62]);
    bench.data(0xfa);
    assert_eq!(bench.read(), [0xfa]);
    assert_eq!(
        bench.strokes(&keys),
        [0x1c, 0xf0, 0x1c, 0x12, 0xf0, 0x12, 0x63, 0xf0, 0x63, 0x62, 0xf0, 0x62]
    );
    bench.data(0xf9);
    assert_eq!(bench.read(), [0xfa]);
    assert_eq!(bench.strokes(&keys), [0x1c, 0x12, 0x63, 0x62]);
}

#[test]
fn single_keys_of_set_3_are_told_up_to_the_next_command_and_nothing_is_typed_meanwhile() {
    let mut bench = in_set_3();
    for byte in [0xfc, 0x1c, 0x8b] {
        bench.data(byte);
        assert_eq!(bench.read(), [0xfa]);
    }
    assert!(!bench.controller.key(0x1e, true));
    bench.data(0xf4);
    assert_eq!(bench.read(), [0xfa]);
    assert_eq!(bench.strokes(&[0x1e, 0x30, 0xe05b]), [0x1c, 0xf0, 0x1c, 0x32, 0x8b, 0xf0, 0x8b]);
    for byte in [0xfd, 0x1c, 0xf4] {
        bench.data(byte);
    }
    bench.read();
    assert_eq!(bench.strokes(&[0x1e]), [0x1c]);
    // A reset forgets it all.
    bench.data(0xff);
    assert_eq!(bench.read(), [0xfa, 0xaa]);
    assert_eq!(bench.strokes(&[0x1e]), [0x1c, 0xf0, 0x1c]);
}

#[test]
fn a_password_is_taken_up_to_its_end_and_the_keyboard_gets_none_of_it() {
    let mut bench = Bench::new();
    bench.command(0xa5);
    for byte in [0xff, 0xee, 0x00] {
        bench.data(byte);
    }
    assert_eq!(bench.read(), []);
    bench.command(0xa6);
    bench.command(0xa4);
    assert_eq!(bench.read(), [0xf1]);
    bench.data(0xee);
    assert_eq!(bench.read(), [0xee]);
}

#[test]
fn the_keyboard_resets_and_identifies_itself() {
    let mut bench = Bench::new();
    bench.data(0xff);
    assert_eq!(bench.read(), [0xfa, 0xaa]);
    bench.data(0xf2);
    assert_eq!(bench.read(), [0xfa, 0xab, 0x41]);
    bench.command(0x60);
    bench.data(0x05);
    bench.data(0xf2);
    assert_eq!(bench.read(), [0xfa, 0xab, 0x83]);
}

#[test]
fn lights_and_typematic_rate_take_a_parameter() {
    let mut bench = Bench::new();
    bench.data(0xed);
    bench.data(0x02);
    bench.data(0xf3);
    bench.data(0x00);
    assert_eq!(bench.read(), [0xfa; 4]);
    assert_eq!(bench.controller.leds(), 2);
}

#[test]
fn a_command_in_place_of_a_parameter_is_a_command() {
    let mut bench = Bench::new();
    bench.data(0xed);
    bench.data(0xee);
    assert_eq!(bench.read(), [0xfa, 0xee]);
}

#[test]
fn keys_arrive_in_set_1_each_byte_with_an_edge() {
    let mut bench = Bench::new();
    assert!(bench.controller.key(0x1e, true));
    assert!(bench.controller.key(0x1e, false));
    assert!(bench.controller.key(0xe04d, true));
    assert!(bench.controller.key(0xe04d, false));
    assert_eq!(bench.read(), [0x1e, 0x9e, 0xe0, 0x4d, 0xe0, 0xcd]);
    assert_eq!(bench.irq1.take_edges(), 6);
}

#[test]
fn without_translation_keys_arrive_in_set_2() {
    let mut bench = Bench::new();
    bench.command(0x60);
    bench.data(0x05);
    bench.controller.key(0x1e, true);
    bench.controller.key(0x1e, false);
    assert_eq!(bench.read(), [0x1c, 0xf0, 0x1c]);
}

#[test]
fn scan_code_sets_can_be_chosen_as_far_as_there_are_any() {
    let mut bench = Bench::new();
    bench.command(0x60);
    bench.data(0x05);
    [0xf0, 0x01, 0xf0, 0x00].into_iter().for_each(|byte| bench.data(byte));
    assert_eq!(bench.read(), [0xfa, 0xfa, 0xfa, 0xfa, 0x01]);
    bench.controller.key(0x1e, false);
    assert_eq!(bench.read(), [0x9e]);
    [0xf0, 0x04].into_iter().for_each(|byte| bench.data(byte));
    assert_eq!(bench.read(), [0xfa, 0xfe]);
}

#[test]
fn the_key_queue_is_bounded() {
    let mut bench = Bench::new();
    let taken = (0..1000).filter(|_| bench.controller.key(0x1e, true)).count();
    assert!(taken < 64);
    bench.data(0xee);
    assert_eq!(bench.read().last(), Some(&0xee));
    assert!(bench.controller.key(0x1e, true));
}

#[test]
fn a_disabled_keyboard_keeps_its_bytes() {
    let mut bench = Bench::new();
    bench.command(0xad);
    bench.controller.key(0x1e, true);
    assert!(bench.read().is_empty());
    bench.command(0xae);
    assert_eq!(bench.read(), [0x1e]);
}

#[test]
fn a_keyboard_that_does_not_scan_drops_keys() {
    let mut bench = Bench::new();
    bench.data(0xf5);
    assert!(!bench.controller.key(0x1e, true));
    assert_eq!(bench.read(), [0xfa]);
}

#[test]
fn the_mouse_resets_identifies_itself_and_reports() {
    let mut bench = Bench::new();
    bench.command(0x60);
    bench.data(0x47);
    bench.mouse(0xff);
    assert_eq!(bench.read(), [0xfa, 0xaa, 0x00]);
    bench.mouse(0xf2);
    assert_eq!(bench.read(), [0xfa, 0x00]);
    assert!(!bench.controller.mouse(5, -3, 0, 1));
    bench.mouse(0xf4);
    assert_eq!(bench.read(), [0xfa]);
    bench.irq12.take_edges();
    assert!(bench.controller.mouse(5, -3, 0, 1));
    assert_eq!(bench.read(), [0x29, 5, 0xfd]);
    assert_eq!(bench.irq12.take_edges(), 3);
}

#[test]
fn the_wheel_is_told_of_once_it_has_been_asked_for() {
    let mut bench = Bench::new();
    bench.command(0x60);
    bench.data(0x47);
    for byte in [0xf3, 200, 0xf3, 100, 0xf3, 80, 0xf2, 0xf4] {
        bench.mouse(byte);
    }
    assert_eq!(bench.read(), [0xfa, 0xfa, 0xfa, 0xfa, 0xfa, 0xfa, 0xfa, 0x03, 0xfa]);
    bench.controller.mouse(0, 0, -1, 0);
    assert_eq!(bench.read(), [0x08, 0, 0, 0xff]);
    bench.mouse(0xff);
    assert_eq!(bench.read(), [0xfa, 0xaa, 0x00]);
}

#[test]
fn pause_says_all_at_once_when_it_goes_down() {
    let mut bench = Bench::new();
    assert!(bench.controller.key(0xe11d, true) && bench.controller.key(0xe11d, false));
    assert_eq!(bench.read(), [0xe1, 0x1d, 0x45, 0xe1, 0x9d, 0xc5]);
}

#[test]
fn the_keyboard_is_idle_when_the_guest_has_taken_all() {
    let mut bench = Bench::new();
    assert!(bench.controller.keyboard_idle());
    bench.controller.key(0x1e, true);
    assert!(!bench.controller.keyboard_idle());
    bench.read();
    assert!(bench.controller.keyboard_idle());
}

#[test]
fn the_mouse_tells_its_settings() {
    let mut bench = Bench::new();
    for byte in [0xe8, 3, 0xf3, 80, 0xe7] {
        bench.mouse(byte);
    }
    assert_eq!(bench.read(), [0xfa; 5]);
    bench.mouse(0xe9);
    assert_eq!(bench.read(), [0xfa, 0x10, 3, 80]);
}

#[test]
fn the_pulse_of_bit_0_resets_the_machine() {
    let mut bench = Bench::new();
    bench.command(0xff);
    assert_eq!(bench.power.resets(), 0);
    bench.command(PULSE_RESET);
    assert_eq!(bench.power.resets(), 1);
    bench.command(0xd1);
    bench.data(0xfe);
    assert_eq!(bench.power.resets(), 2);
}

#[test]
fn interrupts_can_be_switched_off() {
    let mut bench = Bench::new();
    bench.command(0x60);
    bench.data(0x44);
    bench.controller.key(0x1e, true);
    assert!(!bench.irq1.is_high());
    assert_eq!(bench.read(), [0x1e]);
}

proptest! {
    #[test]
    fn random_accesses_never_panic(accesses in prop::collection::vec((0_u8..6, any::<u16>()), 0..300)) {
        let mut bench = Bench::new();
        for (what, value) in accesses {
            match what {
                0 => bench.command(value as u8),
                1 => bench.data(value as u8),
                2 => bench.mouse(value as u8),
                3 => { bench.controller.key(value, value & 0x100 != 0); }
                4 => { bench.controller.mouse(value as i16, !value as i16, value as i8, value as u8); }
                _ => bench.controller.port_read(DATA, &mut [0; 4]),
            }
            let state = &bench.controller.state;
            prop_assert!(state.keyboard.queue.len() <= 64 && state.mouse.queue.len() <= 64);
            prop_assert!(state.answers.len() <= ANSWER_LIMIT);
        }
    }
}
