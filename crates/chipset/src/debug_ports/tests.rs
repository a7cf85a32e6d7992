use std::sync::{Arc, Mutex};

use proptest::prelude::*;

use super::*;
use crate::sync::lock;

#[derive(Clone, Default)]
struct Output(Arc<Mutex<Vec<u8>>>);

impl Write for Output {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        lock(&self.0).extend(data);
        Ok(data.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn the_console_is_recognised_and_writes() {
    let output = Output::default();
    let mut ports = DebugPorts::new(Box::new(output.clone()));
    let mut data = [0];
    ports.port_read(DEBUG_CONSOLE, &mut data);
    assert_eq!(data, [0xe9]);
    ports.port_write(DEBUG_CONSOLE, b"x");
    assert_eq!(*lock(&output.0), b"x");
}

#[test]
fn the_last_post_code_is_kept() {
    let mut ports = DebugPorts::new(Box::new(Output::default()));
    ports.port_write(POST_CODE, &[0x42]);
    assert_eq!(ports.post_code(), 0x42);
}

proptest! {
    #[test]
    fn random_accesses_never_panic(accesses in prop::collection::vec((any::<bool>(), any::<[u8; 4]>()), 0..50)) {
        let mut ports = DebugPorts::new(Box::new(Output::default()));
        for (console, mut value) in accesses {
            let port = if console { DEBUG_CONSOLE } else { POST_CODE };
            ports.port_write(port, &value);
            ports.port_read(port, &mut value);
        }
    }
}
