//! Scripts for the guest, carried by the kernel command line.

/// The most bytes of a kernel command line on x86.
const COMMAND_LINE: usize = 2047;

/// `script` as a word of the command line: the guest's init runs it with bash and powers off.
///
/// # Panics
/// If the script cannot fit.
pub fn encode(script: &str) -> String {
    let word = format!("bodhi.script={}", base64(script.as_bytes()));
    assert!(word.len() < COMMAND_LINE - 200, "a script of {} bytes is too long", script.len());
    word
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let bits =
            group.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        for digit in 0..4 {
            let value = bits >> (18 - 6 * digit) & 63;
            text.push(if digit <= group.len() { char::from(ALPHABET[value as usize]) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_follows_the_examples_of_rfc_4648() {
        let examples = [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
        ];
        for (plain, coded) in examples {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
    }
}
