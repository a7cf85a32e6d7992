//! RAM and ROM below 1 MiB: a BIOS of a few instructions of real mode that steers them by the host bridge's memory
//! attributes (82443BX data sheet, order number 290633, section 3.3.17) and tells what it finds.

use std::time::Duration;

use guests::Machine;
use tempfile::TempDir;

/// Registers PAM0, of the last 64 KiB, and PAM1, of the first 32 KiB, and what their halves say.
const PAM0: u8 = 0x59;
const PAM1: u8 = 0x5a;
const WRITES: u8 = 2;
const READS: u8 = 1;

/// The segment that the program is in, and what else is in it: a byte to change, and a routine that says one.
const ROM: u16 = 0xf000;
const BYTE: u16 = 0x8000;
const ROUTINE: u16 = 0x9000;
/// Where the letter in the routine is.
const LETTER: u16 = ROUTINE + 1;

const SERIAL_PORT: u16 = 0x3f8;
const END_PORT: u16 = 0xf4;
/// The exit code for which 0x10 stands at [`END_PORT`].
const ENDED: i32 = 0x21;

/// Real-mode code, and what it says on the serial port.
struct Program {
    code: Vec<u8>,
    says: String,
}

impl Program {
    fn raw(mut self, bytes: &[u8]) -> Self {
        self.code.extend_from_slice(bytes);
        self
    }

    /// `mov eax, the register's address; mov dx, 0xcf8; out dx, eax; mov dx, 0xcfc + …; mov al, value; out dx, al`
    fn steer(self, register: u8, value: u8) -> Self {
        let data = 0xfc + (register & 3);
        self.raw(&[0x66, 0xb8, register & !3, 0, 0, 0x80, 0xba, 0xf8, 0x0c, 0x66, 0xef])
            .raw(&[0xba, data, 0x0c, 0xb0, value, 0xee])
    }

    /// `mov ax, segment; mov es, ax`
    fn segment(self, segment: u16) -> Self {
        let [low, high] = segment.to_le_bytes();
        self.raw(&[0xb8, low, high, 0x8e, 0xc0])
    }

    /// `mov byte es:[offset], letter`
    fn put(self, segment: u16, offset: u16, letter: char) -> Self {
        let [low, high] = offset.to_le_bytes();
        self.segment(segment).raw(&[0x26, 0xc6, 0x06, low, high, letter as u8])
    }

    /// `inc byte es:[offset]`, `mov al, 'x'; mov di, offset; mov cx, 4; cld; rep stosb`, and `lock cmpxchg es:[offset], al`
    /// of the same byte: further ways to write.
    fn spoil(self, segment: u16, offset: u16) -> Self {
        let [low, high] = offset.to_le_bytes();
        self.segment(segment)
            .raw(&[0x26, 0xfe, 0x06, low, high])
            .raw(&[0xb0, b'x', 0xbf, low, high, 0xb9, 4, 0, 0xfc, 0xf3, 0xaa])
            .raw(&[0x26, 0xa0, low, high, 0xf0, 0x26, 0x0f, 0xb0, 0x06, low, high])
    }

    /// `mov al, es:[offset]; cmp al, 0xff; jne over; mov al, '-'; over: mov dx, port; out dx, al`
    fn tell(mut self, segment: u16, offset: u16, expected: char) -> Self {
        let ([low, high], [p0, p1]) = (offset.to_le_bytes(), SERIAL_PORT.to_le_bytes());
        self.says.push(expected);
        self.segment(segment)
            .raw(&[0x26, 0xa0, low, high, 0x3c, 0xff, 0x75, 2, 0xb0, b'-'])
            .raw(&[0xba, p0, p1, 0xee])
    }

    /// `call` the routine.
    fn call(mut self, expected: char) -> Self {
        self.says.push(expected);
        let here = self.code.len() as u16 + 3;
        let [low, high] = ROUTINE.wrapping_sub(here).to_le_bytes();
        self.raw(&[0xe8, low, high])
    }

    /// Copies all of the segment to where it is: `mov ds, ax; xor si, si; xor di, di; mov cx, 0x4000; cld; rep movsd`
    fn shadow(self, segment: u16) -> Self {
        self.segment(segment)
            .raw(&[0x8e, 0xd8, 0x31, 0xf6, 0x31, 0xff, 0xb9, 0, 0x40, 0xfc, 0x66, 0xf3, 0xa5])
    }

    /// An image of 64 KiB with the program at its start, and what it says.
    fn image(self) -> (Vec<u8>, String) {
        let [p0, p1] = END_PORT.to_le_bytes();
        let ended = self.raw(&[0xba, p0, p1, 0xb0, 0x10, 0xee, 0xfa, 0xf4]);
        assert!(ended.code.len() < usize::from(BYTE));
        let mut image = vec![0; 0x1_0000];
        let mut put = |at: u16, bytes: &[u8]| image[usize::from(at)..][..bytes.len()].copy_from_slice(bytes);
        put(0, &ended.code);
        put(BYTE, b"R");
        // mov al, 'O'; mov dx, port; out dx, al; ret
        let [p0, p1] = SERIAL_PORT.to_le_bytes();
        put(ROUTINE, &[0xb0, b'O', 0xba, p0, p1, 0xee, 0xc3]);
        // jmp 0xf000:0, from the same ROM below 4 GiB.
        put(0xfff0, &[0xea, 0, 0, 0, 0xf0]);
        (image, ended.says)
    }
}

/// A stack: `mov ax, 0; mov ss, ax; mov sp, 0x7000`.
fn program() -> Program {
    Program { code: Vec::new(), says: String::new() }.raw(&[0xb8, 0, 0, 0x8e, 0xd0, 0xbc, 0, 0x70])
}

fn says_what_is_expected(program: Program) {
    let (image, says) = program.image();
    let directory = TempDir::new().expect("a folder");
    let rom = directory.path().join("rom");
    std::fs::write(&rom, image).expect("a ROM image");
    let options = ["--firmware", rom.to_str().expect("UTF-8"), "--test-devices", "--memory", "32M"];
    let running = Machine::firmware(directory.path().join("api")).options(&options).start();
    let end = running.wait(Duration::from_secs(60));
    assert_eq!((end.output.lines().next(), end.code), (Some(says.as_str()), Some(ENDED)), "{}", end.errors);
}

#[test]
fn rom_becomes_ram_that_becomes_read_only_as_the_guest_says() {
    let both = |attribute: u8| attribute << 4;
    says_what_is_expected(
        program()
            // At power-on there is the BIOS and no RAM.
            .tell(ROM, BYTE, 'R')
            .put(ROM, BYTE, 'x')
            .spoil(ROM, BYTE)
            .tell(ROM, BYTE, 'R')
            .call('O')
            // What is written behind it is not seen yet, and runs from then on.
            .steer(PAM0, both(WRITES))
            .shadow(ROM)
            .put(ROM, BYTE, 'S')
            .put(ROM, LETTER, 'N')
            .tell(ROM, BYTE, 'R')
            .call('O')
            .steer(PAM0, both(READS | WRITES))
            .tell(ROM, BYTE, 'S')
            .call('N')
            .put(ROM, BYTE, 'T')
            .put(ROM, LETTER, 'P')
            .tell(ROM, BYTE, 'T')
            .call('P')
            .steer(PAM0, both(READS))
            .put(ROM, BYTE, 'x')
            .put(ROM, LETTER, 'x')
            .spoil(ROM, BYTE)
            .tell(ROM, BYTE, 'T')
            .call('P')
            // And back.
            .steer(PAM0, 0)
            .tell(ROM, BYTE, 'R')
            .call('O')
            .steer(PAM0, both(READS))
            .tell(ROM, BYTE, 'T')
            .call('P'),
    );
}

#[test]
fn segments_of_16_kib_are_ram_by_themselves() {
    let (first, second) = (0xc000, 0xc400);
    says_what_is_expected(
        program()
            // Nobody answers.
            .put(first, 0, 'x')
            .tell(first, 0, '-')
            .steer(PAM1, READS | WRITES)
            .put(first, 0x3fff, 'a')
            .put(second, 0, 'x')
            .tell(first, 0x3fff, 'a')
            .tell(second, 0, '-')
            .steer(PAM1, READS | (READS | WRITES) << 4)
            .put(first, 0x3fff, 'x')
            .put(second, 0, 'b')
            .spoil(first, 0x3ffc)
            .tell(first, 0x3fff, 'a')
            .tell(second, 0, 'b')
            // RAM keeps what it has while it is not to be seen.
            .steer(PAM1, WRITES << 4)
            .put(second, 0, 'c')
            .tell(first, 0x3fff, '-')
            .tell(second, 0, '-')
            .steer(PAM1, READS | READS << 4)
            .tell(first, 0x3fff, 'a')
            .tell(second, 0, 'c'),
    );
}
