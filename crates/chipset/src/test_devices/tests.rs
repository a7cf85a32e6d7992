use std::sync::{Mutex, PoisonError};

use proptest::prelude::*;

use super::*;

#[derive(Default)]
struct Log(Mutex<Vec<String>>);

impl Log {
    fn add(&self, text: String) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(text);
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl DebugExitControl for Log {
    fn debug_exit(&self, code: u8) {
        self.add(format!("exit {code}"));
    }
}

struct NumberedLine(u8, Arc<Log>);

impl Line for NumberedLine {
    fn set(&self, high: bool) {
        self.1.add(format!("line {} {high}", self.0));
    }
}

impl SynicTest for Log {
    fn check(&self, vp: u8, sint: u8) -> Result<(), SynicError> {
        (vp < 2 && sint < 16).then_some(()).ok_or(SynicError::Target)
    }

    fn raise(&self, vp: u8, sint: u8) {
        self.add(format!("raise {vp} {sint}"));
    }

    fn connect_echo(&self, connection: u8, vp: u8, sint: u8) -> Result<(), SynicError> {
        self.check(vp, sint)?;
        self.add(format!("echo {connection} {vp} {sint}"));
        Ok(())
    }

    fn connect_event(&self, connection: u8, vp: u8, sint: u8) -> Result<(), SynicError> {
        self.check(vp, sint)?;
        self.add(format!("event {connection} {vp} {sint}"));
        Ok(())
    }

    fn disconnect(&self, connection: u8) -> Result<(), SynicError> {
        self.add(format!("disconnect {connection}"));
        Ok(())
    }
}

fn synic() -> (SynicPort, Arc<Log>) {
    let log = Arc::<Log>::default();
    (SynicPort::new(Arc::clone(&log) as Arc<_>), log)
}

fn command(port: &mut SynicPort, connection: u32, command: u32, vp: u32, sint: u32) {
    let value = connection << 24 | command << 16 | vp << 8 | sint;
    port.port_write(SYNIC_PORT, &value.to_le_bytes());
}

#[test]
fn a_write_of_v_to_the_debug_exit_port_ends_with_2v_plus_1() {
    let log = Arc::<Log>::default();
    let mut port = DebugExit::new(Arc::clone(&log) as Arc<_>);
    port.port_write(DEBUG_EXIT, &0_u32.to_le_bytes());
    port.port_write(DEBUG_EXIT, &0x10_u32.to_le_bytes());
    port.port_write(DEBUG_EXIT, &u32::MAX.to_le_bytes());
    assert_eq!(log.take(), ["exit 1", "exit 33", "exit 255"]);
}

#[test]
fn scratch_ports_keep_bytes_at_any_width() {
    let mut ports = Scratch::default();
    ports.port_write(SCRATCH, &0x4433_2211_u32.to_le_bytes());
    ports.port_write(SCRATCH + 3, &[0x55]);
    let mut data = [0xff; 2];
    ports.port_read(SCRATCH + 2, &mut data);
    assert_eq!(data, [0x33, 0x55]);
}

#[test]
fn a_line_port_sets_its_line_high_and_low() {
    let log = Arc::<Log>::default();
    let line = |n: usize| Arc::new(NumberedLine(n as u8, Arc::clone(&log))) as Arc<dyn Line>;
    let mut ports = LinePorts::new(std::array::from_fn(line));
    ports.port_write(LINES + 11, &1_u32.to_le_bytes());
    ports.port_write(LINES + 11, &[0]);
    assert_eq!(log.take(), ["line 11 true", "line 11 false"]);
}

#[test]
fn the_memory_keeps_what_is_written_up_to_its_last_byte() {
    let mut memory = TestMemory::new();
    memory.memory_write(MEMORY_SIZE - 2, &[1, 2, 3, 4]);
    let mut data = [0xff; 4];
    memory.memory_read(MEMORY_SIZE - 3, &mut data);
    assert_eq!(data, [0, 1, 2, 0xff]);
}

#[test]
fn a_route_is_raised_while_it_exists() {
    let (mut port, log) = synic();
    command(&mut port, 0, 3, 1, 4);
    command(&mut port, 0, 1, 1, 4);
    command(&mut port, 0, 3, 1, 4);
    command(&mut port, 0, 2, 1, 4);
    command(&mut port, 0, 3, 1, 4);
    assert_eq!(log.take(), ["raise 1 4"]);
}

#[test]
fn a_route_to_nobody_is_not_made() {
    let (mut port, log) = synic();
    command(&mut port, 0, 1, 2, 4);
    command(&mut port, 0, 3, 2, 4);
    assert_eq!(log.take(), Vec::<String>::new());
}

#[test]
fn connections_are_made_and_dropped_by_their_kind() {
    let (mut port, log) = synic();
    command(&mut port, 0x10, 4, 0, 8);
    command(&mut port, 0x20, 6, 1, 9);
    command(&mut port, 0x10, 7, 0, 8);
    command(&mut port, 0x10, 5, 0, 8);
    command(&mut port, 0x20, 7, 1, 9);
    assert_eq!(log.take(), ["echo 16 0 8", "event 32 1 9", "disconnect 16", "disconnect 32"]);
}

#[test]
fn connections_of_others_are_not_dropped() {
    let (mut port, log) = synic();
    command(&mut port, 1, 5, 0, 0);
    assert_eq!(log.take(), Vec::<String>::new());
}

#[test]
fn a_write_of_other_width_does_nothing() {
    let (mut port, log) = synic();
    port.port_write(SYNIC_PORT, &[0, 0]);
    port.port_write(SYNIC_PORT + 2, &[1]);
    assert_eq!(log.take(), Vec::<String>::new());
}

proptest! {
    #[test]
    fn random_commands_never_panic_and_are_bounded(values in prop::collection::vec(any::<u32>(), 0..200)) {
        let (mut port, _log) = synic();
        for value in values {
            port.port_write(SYNIC_PORT, &value.to_le_bytes());
            port.port_write(SYNIC_PORT, &(value & 0xff07_010f).to_le_bytes());
        }
        prop_assert!(port.connections.len() <= 512 && port.routes.len() <= ROUTES);
    }

    #[test]
    fn random_accesses_to_memory_never_panic(offset in any::<u64>(), len in 1_usize..64) {
        let mut memory = TestMemory::new();
        memory.memory_write(offset, &vec![1; len]);
        memory.memory_read(offset, &mut vec![0; len]);
    }
}
