//! The keys of a keyboard with 102 keys, by the codes of scan-code set 1, and what is pressed for a text on a keyboard
//! with the US layout.

use thiserror::Error;

/// A key: its code in set 1, with 0xe0 in the upper byte for keys that have that prefix; 0xe11d is Pause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key(pub u16);

/// Why something cannot be typed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum KeyError {
    /// No key has this name.
    #[error("{0:?} is no key: a character, or one of {NAMES}")]
    Name(String),
    /// No key makes this character.
    #[error("no key of a US keyboard makes {0:?}")]
    Character(char),
}

const LEFT_SHIFT: Key = Key(0x2a);

/// Names of keys that make no character.
const NAMED: [(&str, u16); 52] = [
    ("esc", 0x01),
    ("backspace", 0x0e),
    ("tab", 0x0f),
    ("enter", 0x1c),
    ("ctrl", 0x1d),
    ("shift", 0x2a),
    ("alt", 0x38),
    ("space", 0x39),
    ("capslock", 0x3a),
    ("f1", 0x3b),
    ("f2", 0x3c),
    ("f3", 0x3d),
    ("f4", 0x3e),
    ("f5", 0x3f),
    ("f6", 0x40),
    ("f7", 0x41),
    ("f8", 0x42),
    ("f9", 0x43),
    ("f10", 0x44),
    ("numlock", 0x45),
    ("scrolllock", 0x46),
    ("sysrq", 0x54),
    ("f11", 0x57),
    ("f12", 0x58),
    ("kp0", 0x52),
    ("kp1", 0x4f),
    ("kp2", 0x50),
    ("kp3", 0x51),
    ("kp4", 0x4b),
    ("kp5", 0x4c),
    ("kp6", 0x4d),
    ("kp7", 0x47),
    ("kp8", 0x48),
    ("kp9", 0x49),
    ("rightshift", 0x36),
    ("rightctrl", 0xe01d),
    ("altgr", 0xe038),
    ("home", 0xe047),
    ("up", 0xe048),
    ("pageup", 0xe049),
    ("left", 0xe04b),
    ("right", 0xe04d),
    ("end", 0xe04f),
    ("down", 0xe050),
    ("pagedown", 0xe051),
    ("insert", 0xe052),
    ("del", 0xe053),
    ("print", 0xe037),
    ("pause", 0xe11d),
    ("super", 0xe05b),
    ("menu", 0xe05d),
    ("kpenter", 0xe01c),
];

/// What an error says of names.
const NAMES: &str = "esc, enter, tab, space, backspace, ctrl, alt, shift, super, f1 to f12, up, down, left, right, home, \
                     end, pageup, pagedown, insert, del and the like";

/// Rows of keys that make characters: the code of the first, without and with Shift.
const ROWS: [(u16, &str, &str); 5] = [
    (0x02, "1234567890-=", "!@#$%^&*()_+"),
    (0x10, "qwertyuiop[]", "QWERTYUIOP{}"),
    (0x1e, "asdfghjkl;'`", "ASDFGHJKL:\"~"),
    (0x2b, "\\zxcvbnm,./", "|ZXCVBNM<>?"),
    (0x39, " ", " "),
];

/// The key that makes `character`, and whether Shift is held.
fn key_of(character: char) -> Option<(Key, bool)> {
    match character {
        '\n' | '\r' => return Some((Key(0x1c), false)),
        '\t' => return Some((Key(0x0f), false)),
        '\u{8}' | '\u{7f}' => return Some((Key(0x0e), false)),
        '\u{1b}' => return Some((Key(0x01), false)),
        _ => {}
    }
    ROWS.into_iter().find_map(|(first, plain, shifted)| {
        let at =
            |row: &str| row.chars().position(|key| key == character).map(|index| Key(first + index as u16));
        at(plain).map(|key| (key, false)).or_else(|| at(shifted).map(|key| (key, true)))
    })
}

/// Keys that go down in this order and up in the opposite one, for a text such as `ctrl-alt-del` or `shift-a`. A
/// character stands for its key, with Shift where that is needed.
///
/// # Errors
/// When a name is that of no key.
pub fn chord(text: &str) -> Result<Vec<Key>, KeyError> {
    let mut keys = Vec::new();
    // A minus sign by itself, or at the end, is the key.
    let (names, minus) = match text.strip_suffix('-') {
        Some(before) if before.is_empty() || before.ends_with('-') => (before.trim_end_matches('-'), true),
        _ => (text, false),
    };
    for name in names.split('-').filter(|_| !names.is_empty()) {
        let mut characters = name.chars();
        match (characters.next(), characters.next()) {
            (Some(character), None) => push(&mut keys, character)?,
            _ => {
                let lower = name.to_ascii_lowercase();
                let known = NAMED.iter().find(|(known, _)| *known == lower);
                keys.push(Key(known.ok_or_else(|| KeyError::Name(name.to_owned()))?.1));
            }
        }
    }
    if minus {
        push(&mut keys, '-')?;
    }
    if keys.is_empty() { Err(KeyError::Name(text.to_owned())) } else { Ok(keys) }
}

fn push(keys: &mut Vec<Key>, character: char) -> Result<(), KeyError> {
    let (key, shift) = key_of(character).ok_or(KeyError::Character(character))?;
    if shift && !keys.contains(&LEFT_SHIFT) {
        keys.push(LEFT_SHIFT);
    }
    keys.push(key);
    Ok(())
}

/// The chords that type `text`.
///
/// # Errors
/// When no key makes one of its characters.
pub fn typed(text: &str) -> Result<Vec<Vec<Key>>, KeyError> {
    let chord = |character| {
        let mut keys = Vec::new();
        push(&mut keys, character).map(|()| keys)
    };
    text.chars().map(chord).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_printable_character_of_ascii_has_a_key() {
        for character in (' '..='~').chain(['\n', '\t']) {
            assert!(key_of(character).is_some(), "{character:?}");
        }
        assert_eq!(key_of('a'), Some((Key(0x1e), false)));
        assert_eq!(key_of('`'), Some((Key(0x29), false)));
        assert_eq!(key_of('?'), Some((Key(0x35), true)));
        assert_eq!(key_of('='), Some((Key(0x0d), false)));
    }

    #[test]
    fn chords_are_keys_with_dashes_between() {
        assert_eq!(chord("ctrl-alt-del"), Ok(vec![Key(0x1d), Key(0x38), Key(0xe053)]));
        assert_eq!(chord("Enter"), Ok(vec![Key(0x1c)]));
        assert_eq!(chord("A"), Ok(vec![LEFT_SHIFT, Key(0x1e)]));
        assert_eq!(chord("shift-A"), Ok(vec![LEFT_SHIFT, Key(0x1e)]));
        assert_eq!(chord("-"), Ok(vec![Key(0x0c)]));
        assert_eq!(chord("ctrl--"), Ok(vec![Key(0x1d), Key(0x0c)]));
        assert_eq!(chord("hyper-x"), Err(KeyError::Name("hyper".to_owned())));
        assert!(chord("").is_err());
    }

    #[test]
    fn text_is_typed_key_by_key() {
        let (h, i) = (Key(0x23), Key(0x17));
        assert_eq!(typed("Hi\n"), Ok(vec![vec![LEFT_SHIFT, h], vec![i], vec![Key(0x1c)]]));
        assert_eq!(typed("é"), Err(KeyError::Character('é')));
    }
}
