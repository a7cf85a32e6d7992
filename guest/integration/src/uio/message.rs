//! The host's messages as they lie in the channel, made into those of the kernel's former driver.
//!
//! Linux `include/linux/hyperv.h` (`icmsg_hdr`, `icmsg_negotiate`), `tools/hv/hv_fcopy_uio_daemon.c`.
//!
//! ```text
//! 0   flags and size of the pipe    20   status             28   body
//! 12  type of the message           24   transaction
//! 18  size of the body              25   flags
//! ```

use crate::FAILED;
use crate::fields::{number, put_number};

const HEADER: usize = 28;
const TYPE: usize = 12;
const SIZE: usize = 18;
const STATUS: usize = 20;
const FLAGS: usize = 25;
/// It takes part in a transaction, as an answer.
const ANSWER: u8 = 1 | 4;

const NEGOTIATE: u16 = 0;
const FILE_COPY: u16 = 7;
/// The framework's version and the service's, as two numbers each: 3.0 and 1.1.
const FRAMEWORK: u32 = 3;
const SERVICE: u32 = 1 | 1 << 16;
/// Where versions are in a body, and the most of them.
const VERSIONS: usize = HEADER + 8;
const MOST: usize = 100;

/// The operation that begins a file, with two names of UTF-16 at [`NAMES`], each in so many bytes.
const START: u32 = 0;
const NAMES: [usize; 2] = [36, 36 + NAME];
const NAME: usize = 520;

/// The answer to a message, of which `serve` answers the body with a status; `None` to what is no message.
pub fn answer(message: &[u8], serve: impl FnOnce(&[u8]) -> Option<Vec<u8>>) -> Option<Vec<u8>> {
    let body = message.get(HEADER..)?;
    let mut answer = message.to_vec();
    let status = match short(message, TYPE)? {
        NEGOTIATE => {
            negotiate(&mut answer)?;
            0
        }
        FILE_COPY => {
            let request = in_utf8(body);
            serve(&request).and_then(|status| number(&status, 0)).unwrap_or(FAILED)
        }
        _ => FAILED,
    };
    put_number(&mut answer, STATUS, status);
    answer[FLAGS] = ANSWER;
    Some(answer)
}

fn short(message: &[u8], at: usize) -> Option<u16> {
    message.get(at..)?.first_chunk().map(|bytes| u16::from_le_bytes(*bytes))
}

/// Chooses versions among those that are offered; none if it knows none of them.
fn negotiate(message: &mut [u8]) -> Option<()> {
    let (frameworks, services) =
        (usize::from(short(message, HEADER)?), usize::from(short(message, HEADER + 2)?));
    if frameworks > MOST || services > MOST || message.len() < VERSIONS + 8 {
        return None;
    }
    let offered = |from: usize, count: usize, version: u32| {
        (from..from + count).any(|index| number(message, VERSIONS + 4 * index) == Some(version))
    };
    let known = offered(0, frameworks, FRAMEWORK) && offered(frameworks, services, SERVICE);
    let chosen = u32::from(known);
    put_number(message, HEADER, chosen | chosen << 16);
    put_number(message, VERSIONS, FRAMEWORK);
    put_number(message, VERSIONS + 4, SERVICE);
    // The counts, four reserved bytes and two versions.
    message[SIZE..SIZE + 2].copy_from_slice(&16_u16.to_le_bytes());
    Some(())
}

/// A request with its names in UTF-8; those that are too long for their fields, or no UTF-16, are empty, which is refused.
fn in_utf8(body: &[u8]) -> Vec<u8> {
    let mut request = body.to_vec();
    if number(body, 0) != Some(START) {
        return request;
    }
    for at in NAMES {
        let Some(field) = request.get_mut(at..at + NAME) else { continue };
        let units =
            field.as_chunks().0.iter().map(|unit| u16::from_le_bytes(*unit)).take_while(|unit| *unit != 0);
        let name = char::decode_utf16(units).collect::<Result<String, _>>().unwrap_or_default();
        field.fill(0);
        // The driver uses half of a field.
        if name.len() < NAME / 2 {
            field[..name.len()].copy_from_slice(name.as_bytes());
        }
    }
    request
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let mut message = vec![0; HEADER];
        message[TYPE..TYPE + 2].copy_from_slice(&kind.to_le_bytes());
        message[24] = 9;
        message[FLAGS] = 1 | 2;
        [&message, body].concat()
    }

    fn offer(versions: &[[u16; 2]]) -> Vec<u8> {
        let mut body = vec![1, 0, versions.len() as u8 - 1, 0, 0, 0, 0, 0];
        body.extend(versions.iter().flatten().flat_map(|number| number.to_le_bytes()));
        message(NEGOTIATE, &body)
    }

    fn nobody(_: &[u8]) -> Option<Vec<u8>> {
        panic!("nothing is to be served")
    }

    #[test]
    fn versions_are_chosen_among_those_offered() {
        let answer = answer(&offer(&[[3, 0], [2, 0], [1, 1]]), nobody).unwrap();
        assert_eq!(answer[HEADER..HEADER + 4], [1, 0, 1, 0]);
        assert_eq!(answer[VERSIONS..VERSIONS + 8], [3, 0, 0, 0, 1, 0, 1, 0]);
        assert_eq!((answer[24], answer[FLAGS], answer[SIZE]), (9, ANSWER, 16));
        let answer = super::answer(&offer(&[[3, 0], [9, 9]]), nobody).unwrap();
        assert_eq!(answer[HEADER..HEADER + 4], [0; 4]);
        assert_eq!(super::answer(&offer(&[[3, 0]]), nobody), None);
    }

    #[test]
    fn a_start_has_its_names_in_utf8_and_the_status_goes_into_the_header() {
        let mut body = vec![0; 36 + 2 * NAME + 12];
        for (at, name) in NAMES.into_iter().zip(["blüte", "/srv/"]) {
            for (index, unit) in name.encode_utf16().enumerate() {
                body[at + 2 * index..at + 2 * index + 2].copy_from_slice(&unit.to_le_bytes());
            }
        }
        let serve = |request: &[u8]| {
            assert_eq!(request[36..36 + 7], *"blüte\0".as_bytes());
            assert_eq!(request[36 + NAME..36 + NAME + 6], *b"/srv/\0");
            Some(5_u32.to_le_bytes().into())
        };
        let answer = answer(&message(FILE_COPY, &body), serve).unwrap();
        assert_eq!(number(&answer, STATUS), Some(5));
    }

    #[test]
    fn what_is_no_message_has_no_answer_and_what_is_unknown_fails() {
        for length in 0..HEADER {
            assert_eq!(answer(&vec![0; length], nobody), None);
        }
        let refused = answer(&message(3, &[]), nobody).unwrap();
        assert_eq!(number(&refused, STATUS), Some(FAILED));
        // Half a pair of units, and a name that fills its field.
        for unit in [0xd800_u16, u16::from(b'a')] {
            let body: Vec<u8> = [0; 36].into_iter().chain([unit.to_le_bytes(); 520].concat()).collect();
            let request = in_utf8(&body);
            assert_eq!(request[36..], [0; 2 * NAME]);
        }
    }
}
