//! Text in messages.

/// `text` in UTF-16 with a zero behind it, in a field of `room` bytes, and how many of them it takes. The caller has
/// seen to it that it fits.
pub(crate) fn field(text: &str, room: usize) -> (Vec<u8>, u32) {
    let mut bytes: Vec<u8> = text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect();
    let length = bytes.len() as u32;
    bytes.resize(room, 0);
    (bytes, length)
}

/// Why `text`, which is `what`, does not do for a field of `most` units of UTF-16, if it does not.
pub(crate) fn complaint(what: &str, text: &str, most: usize) -> Option<String> {
    let units = text.encode_utf16().count();
    if units > most {
        return Some(format!("{what} of {units} characters is too long: at most {most}"));
    }
    text.contains('\0').then(|| format!("{what} has no NUL in it"))
}

/// The text of UTF-16 in `bytes` up to a zero; units that are none are replaced.
pub(crate) fn until_zero(bytes: &[u8]) -> String {
    let units = bytes.as_chunks().0.iter().map(|unit| u16::from_le_bytes(*unit));
    let units = units.take_while(|&unit| unit != 0);
    char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)).collect()
}
