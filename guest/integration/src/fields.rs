//! Fields of messages.

/// The number at `at`; `None` beyond the message's end.
pub(crate) fn number(message: &[u8], at: usize) -> Option<u32> {
    message.get(at..)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
}

/// The long number at `at`; `None` beyond the message's end.
pub(crate) fn long_number(message: &[u8], at: usize) -> Option<u64> {
    message.get(at..)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
}

/// Writes a number at `at`, which is in the message.
pub(crate) fn put_number(message: &mut [u8], at: usize, value: u32) {
    message[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

/// What is in front of the first zero of a field, or all of it.
pub(crate) fn until_zero(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// Writes as much of `text` into `field` as leaves room for a zero, ending with a whole character, and zeroes behind it.
pub(crate) fn put_text(field: &mut [u8], text: &[u8]) {
    let mut length = text.len().min(field.len().saturating_sub(1));
    while length < text.len() && length > 0 && text[length] & 0xc0 == 0x80 {
        length -= 1;
    }
    field.fill(0);
    field[..length].copy_from_slice(&text[..length]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_is_too_long_ends_with_a_whole_character() {
        let mut field = [1; 6];
        put_text(&mut field, "abcdé".as_bytes());
        assert_eq!(&field, b"abcd\0\0");
        put_text(&mut field, b"abc");
        assert_eq!((&field, until_zero(&field)), (b"abc\0\0\0", &b"abc"[..]));
        assert_eq!((until_zero(b"ab"), until_zero(b"")), (&b"ab"[..], &b""[..]));
    }
}
