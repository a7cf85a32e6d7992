use std::io::Read;

use super::input::Keys;
use super::*;

#[test]
fn ctrl_a_x_leaves_and_ctrl_a_twice_is_ctrl_a() {
    let mut keys = Keys::default();
    assert_eq!(keys.translate(b"ls\x01\x01"), (b"ls\x01".to_vec(), false));
    assert_eq!(keys.translate(b"\x01"), (vec![], false));
    assert_eq!(keys.translate(b"xyz"), (vec![], true));
}

#[test]
fn ctrl_a_before_another_key_passes_both() {
    assert_eq!(Keys::default().translate(b"\x01q"), (b"\x01q".to_vec(), false));
}

#[test]
fn output_reaches_every_listener_and_those_who_left_are_forgotten() {
    let console = Console::start().unwrap();
    let (near, mut far) = UnixStream::pair().unwrap();
    let (gone, other_end) = UnixStream::pair().unwrap();
    drop(other_end);
    console.add(Box::new(gone));
    console.add(Box::new(near));
    console.output().write_all(b"hello").unwrap();
    console.drain(Duration::from_secs(10));
    let mut bytes = [0; 5];
    far.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"hello");
    assert_eq!(lock(&console.listeners).sinks.len(), 1);
    console.close();
}

#[test]
fn a_serial_file_keeps_what_it_held() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    std::fs::write(&path, "old\n").unwrap();
    let console = Console::start().unwrap();
    console.attach_file(&path).unwrap();
    console.output().write_all(b"new\n").unwrap();
    console.drain(Duration::from_secs(10));
    console.close();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "old\nnew\n");
}

#[test]
fn a_serial_file_that_cannot_be_written_is_named() {
    let console = Console::start().unwrap();
    let error = console.attach_file(Path::new("/nonexistent/log")).unwrap_err();
    assert_eq!(error.to_string(), "--serial /nonexistent/log: no such file");
    console.close();
}
