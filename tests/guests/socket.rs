//! Hyper-V sockets: programs of the host and of the guest, each of which begins once.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;

use guests::{BOOT, Image, POWER_OFF, Running, row};

/// Perl for a socket S of AF_VSOCK and an address A of port and context.
const SOCKET: &str = "use Socket; $| = 1; socket(S, 40, SOCK_STREAM, 0) or die; \
                      sub A { pack(q(SSLLL), 40, 0, $_[0], $_[1], 0) }";
/// Any context, and the host's.
const ANY: u32 = u32::MAX;
const HOST: u32 = 2;

/// Bytes that do not repeat soon.
fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes as u64).map(|n| (n.wrapping_mul(n) >> 9) as u8).collect()
}

fn connect(path: &std::path::Path, port: u32) -> UnixStream {
    let mut stream = UnixStream::connect(path).unwrap();
    stream.write_all(format!("CONNECT {port}\n").as_bytes()).unwrap();
    let (mut line, mut byte) = (String::new(), [0]);
    while !line.ends_with('\n') {
        stream.read_exact(&mut byte).unwrap();
        line.push(byte[0] as char);
    }
    assert!(line.starts_with("OK "), "{line}");
    stream
}

#[test]
fn programs_of_host_and_guest_talk_by_sockets_whoever_begins() {
    let image = Image::empty(0);
    let path = image.folder().join("vsock");
    let mut running = Running::shell(&image, &["--vsock", path.to_str().unwrap()], &[]);

    // The guest listens, and sends back what comes until its end.
    let echo = format!(
        "perl -e '{SOCKET} bind(S, A(1234, {ANY})) or die; listen(S, 5) or die; print q(listens); \
         while (accept(C, S)) {{ while (sysread(C, $b, 65536)) {{ syswrite(C, $b) }} shutdown(C, 1); close C }}'"
    );
    let listen = format!("({echo} > /run/echo 2>&1 &) ; until grep -q listens /run/echo; do sleep 0.1; done");
    running.ask(&listen);
    for round in 0..2 {
        let mut stream = connect(&path, 1234);
        let sent = pattern(300_000 + round);
        let (mut other, bytes) = (stream.try_clone().unwrap(), sent.clone());
        let writer = thread::spawn(move || {
            other.write_all(&bytes).unwrap();
            other.shutdown(Shutdown::Write).unwrap();
        });
        let mut got = Vec::new();
        stream.read_to_end(&mut got).unwrap();
        writer.join().unwrap();
        assert!(got == sent, "{} bytes came back of {}", got.len(), sent.len());
    }

    // Nobody listens there: the connection ends.
    let mut stream = UnixStream::connect(&path).unwrap();
    stream.write_all(b"CONNECT 99\n").unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    assert_eq!(said, "");

    // The guest begins.
    let listener = UnixListener::bind(image.folder().join("vsock_77")).unwrap();
    let answer = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut line = [0; 5];
        stream.read_exact(&mut line).unwrap();
        stream.write_all(&[b"not ".as_slice(), &line].concat()).unwrap();
    });
    let ask = format!(
        "perl -e '{SOCKET} connect(S, A(77, {HOST})) or die $!; syswrite(S, qq(ready)); print <S>'; echo"
    );
    assert_eq!(running.ask(&ask), "not ready");
    answer.join().unwrap();
    let refused = format!("perl -e '{SOCKET} connect(S, A(78, {HOST})) or print qq(nobody)'; echo");
    assert_eq!(running.ask(&refused), "nobody");
    assert_eq!(row(&running.devices(), "sockets")["state"], "0 connections");

    // The next start is reached by the same file.
    running.type_line("busybox reboot -f");
    running.expect("bodhi: shell", BOOT);
    running.ask(&listen);
    let mut stream = connect(&path, 1234);
    stream.write_all(b"again").unwrap();
    let mut got = [0; 5];
    stream.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"again");
    running.type_line("exit");
    running.wait(POWER_OFF).assert_powered_off();
    assert!(!path.exists());
}
