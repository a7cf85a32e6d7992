//! What a host asks of the guest's own programs: any message, and rings that are anything. The guest is the one to be
//! protected here; nothing is written but pools in a folder of this target.
#![no_main]

use std::cell::RefCell;

use bodhi_integration::uio::message;
use bodhi_integration::uio::ring::{Memory, Rings};
use bodhi_integration::{KeyValue, Service};
use fuzz::Input;
use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;

const LENGTH: usize = 7432;
const RINGS: usize = 4 * 4096;

struct Plain(Vec<u8>);

impl Memory for Plain {
    fn length(&self) -> usize {
        self.0.len()
    }

    fn load(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.0[at..at + 4].try_into().unwrap())
    }

    fn store(&mut self, at: usize, value: u32) {
        self.0[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }

    fn read(&self, at: usize, bytes: &mut [u8]) {
        bytes.copy_from_slice(&self.0[at..at + bytes.len()]);
    }

    fn write(&mut self, at: usize, bytes: &[u8]) {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }
}

thread_local! {
    static SERVICE: RefCell<(KeyValue, TempDir)> = RefCell::new({
        let folder = TempDir::new().unwrap();
        (KeyValue::in_folder(folder.path()).unwrap(), folder)
    });
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    match input.u8() % 3 {
        0 => {
            let answer = message::answer(input.0, |_| Some(vec![0; 4]));
            assert!(answer.is_none_or(|answer| answer.len() == input.0.len()));
        }
        1 => SERVICE.with_borrow_mut(|(service, _)| {
            while !input.is_empty() {
                let mut request = vec![0; LENGTH];
                (request[0], request[1]) = (input.u8() % 7, input.u8() % 6);
                let (at, length) = (usize::from(input.u16()) % 1024, usize::from(input.u16()) % 4096);
                for (to, from) in request[4 + at..].iter_mut().zip(input.slice(length)) {
                    *to = *from;
                }
                assert_eq!(service.answer(&request).map(|answer| answer.len()), Some(LENGTH));
            }
        }),
        _ => {
            let mut memory = Plain(vec![0; RINGS]);
            for _ in 0..8 {
                let (at, value) = (usize::from(input.u16()) % (RINGS / 4) * 4, u32::from(input.u16()));
                memory.store(at, value);
            }
            let indices = RINGS / 2;
            memory.store(indices, u32::from(input.u16()));
            memory.store(indices + 4, u32::from(input.u16()));
            let mut rings = Rings::new(memory);
            for _ in 0..16 {
                match rings.receive() {
                    Ok(Some(packet)) if rings.send(packet.transaction, &packet.data).is_ok() => {}
                    _ => break,
                }
            }
            rings.unmask();
        }
    }
});
