use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::JoinHandle;

use processor::{BreakOn, Breakpoint, DebugStop};
use proptest::prelude::*;

use super::*;
use crate::fake::Fake;

struct Client {
    stream: UnixStream,
    serving: JoinHandle<Result<(), Error>>,
}

fn connect(fake: &Arc<Fake>) -> Client {
    let (stream, theirs) = UnixStream::pair().unwrap();
    let fake = Arc::clone(fake);
    Client { stream, serving: std::thread::spawn(move || serve(theirs, &*fake)) }
}

fn packet(body: &str) -> Vec<u8> {
    let sum = body.bytes().fold(0_u8, u8::wrapping_add);
    format!("${body}#{sum:02x}").into_bytes()
}

impl Client {
    fn send(&mut self, body: &str) {
        self.stream.write_all(&packet(body)).unwrap();
    }

    /// The body of the next packet.
    fn receive(&mut self) -> String {
        let mut body = String::new();
        let mut byte = [0];
        while byte[0] != b'$' {
            self.stream.read_exact(&mut byte).unwrap();
        }
        loop {
            self.stream.read_exact(&mut byte).unwrap();
            if byte[0] == b'#' {
                break;
            }
            body.push(char::from(byte[0]));
        }
        self.stream.read_exact(&mut [0; 2]).unwrap();
        // Nobody is left to hear it after the last packet.
        let _ = self.stream.write_all(b"+");
        unfold(&body)
    }

    fn ask(&mut self, body: &str) -> String {
        self.send(body);
        self.receive()
    }

    fn end(self) -> Result<(), Error> {
        drop(self.stream);
        self.serving.join().unwrap()
    }
}

/// Undoes the run-length encoding of answers.
fn unfold(body: &str) -> String {
    let mut text = String::new();
    let mut characters = body.chars();
    while let Some(character) = characters.next() {
        match (character, text.chars().last()) {
            ('*', Some(last)) => {
                let count = characters.next().map_or(0, |count| u32::from(count) - 29);
                (0..count).for_each(|_| text.push(last));
            }
            _ => text.push(character),
        }
    }
    text
}

#[test]
fn registers_and_memory_are_read_and_written() {
    let fake = Fake::new();
    fake.with(|state| state.registers[1].system.general[0] = 0x1122_3344_5566_7788);
    let mut client = connect(&fake);
    assert!(client.ask("?").starts_with("T05"), "it is stopped");
    assert_eq!(client.ask("Hgp1.2"), "OK");
    assert!(client.ask("g").starts_with("8877665544332211"));
    assert_eq!(client.ask("P10=efbeadde00000000"), "OK");
    assert_eq!(client.ask("M1000,3:010203"), "OK");
    assert_eq!(client.ask("m1001,2"), "0203");
    assert!(client.ask("m5000,1").starts_with('E'));
    fake.with(|state| assert_eq!(state.registers[1].system.rip, 0xdead_beef));
    client.end().unwrap();
}

#[test]
fn a_breakpoint_goes_to_the_machine_and_its_hit_comes_back_with_its_processor() {
    let fake = Fake::new();
    let mut client = connect(&fake);
    client.ask("qSupported:multiprocess+;swbreak+;hwbreak+;vContSupported+");
    client.ask("?");
    assert_eq!(client.ask("Z0,1234,1"), "OK");
    client.send("vCont;c");
    let point = Breakpoint { on: BreakOn::Code, address: 0x1234, length: 1 };
    while fake.with(|state| state.resumed.is_none()) {
        std::thread::yield_now();
    }
    fake.with(|state| assert_eq!(state.resumed.take().unwrap().breakpoints, [point]));
    fake.report(Stop::Processor(1, DebugStop::Breakpoint(point)));
    let answer = client.receive();
    assert!(answer.contains("swbreak") && answer.contains("thread:p01.02"), "{answer}");
    assert_eq!(client.ask("z0,1234,1"), "OK");
    client.end().unwrap();
}

#[test]
fn a_breakpoint_that_the_processors_cannot_have_is_refused_when_it_is_set() {
    let fake = Fake::new();
    fake.with(|state| state.room = 1);
    let mut client = connect(&fake);
    client.ask("?");
    assert_eq!(client.ask("Z1,1234,1"), "OK");
    assert!(client.ask("Z2,5678,4").starts_with('E'));
    client.send("vCont;c");
    let resumed = || fake.with(|state| state.resumed.take());
    let resume = loop {
        if let Some(resume) = resumed() {
            break resume;
        }
        std::thread::yield_now();
    };
    assert_eq!(resume.breakpoints.len(), 1);
    client.end().unwrap();
}

#[test]
fn ctrl_c_stops_the_machine() {
    let fake = Fake::new();
    let mut client = connect(&fake);
    client.ask("?");
    client.send("vCont;c");
    client.stream.write_all(&[3]).unwrap();
    assert!(client.receive().starts_with("T02") || client.ask("?").starts_with("T05"));
    client.end().unwrap();
}

#[test]
fn a_debugger_that_detaches_kills_or_vanishes_leaves_the_machine_as_it_should() {
    let fake = Fake::new();
    let mut client = connect(&fake);
    assert_eq!(client.ask("D;1"), "OK");
    client.end().unwrap();
    let mut client = connect(&fake);
    client.send("k");
    client.end().unwrap();
    let client = connect(&fake);
    client.end().unwrap();
    fake.with(|state| assert_eq!(state.log, ["detach", "kill", "detach"]));
}

#[test]
fn the_end_of_the_machine_is_told_with_its_exit_code() {
    let fake = Fake::new();
    let mut client = connect(&fake);
    client.ask("?");
    client.send("vCont;c");
    while fake.with(|state| state.resumed.is_none()) {
        std::thread::yield_now();
    }
    fake.report(Stop::Ended(33));
    assert!(client.receive().starts_with("W21"));
    client.end().unwrap();
}

#[test]
fn the_architecture_is_described() {
    let fake = Fake::new();
    let mut client = connect(&fake);
    let answer = client.ask("qXfer:features:read:target.xml:0,fff");
    assert!(answer.contains("i386:x86-64"), "{answer}");
    client.end().unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn garbage_never_panics(chunks in prop::collection::vec(
        prop_oneof![
            prop::collection::vec(any::<u8>(), 0..64),
            "[?gGmMpPqQvzZHTDcsXk][0-9a-f,:;.=]{0,24}".prop_map(|body| packet(&body)),
        ], 0..12)) {
        let fake = Fake::new();
        let mut client = connect(&fake);
        let mut answers = client.stream.try_clone().unwrap();
        let reading = std::thread::spawn(move || {
            // Until the connection ends.
            let _ = answers.read_to_end(&mut Vec::new());
        });
        for chunk in chunks {
            // The other side ends the connection at what it cannot make out.
            if client.stream.write_all(&chunk).is_err() {
                break;
            }
        }
        let _ = client.stream.shutdown(std::net::Shutdown::Both);
        reading.join().unwrap();
        // An error for garbage is as good as an end.
        let _ = client.serving.join().unwrap();
    }
}
