//! A screen in text mode.

/// The characters of code page 437, as video adapters show them.
const LOW: &str = " ☺☻♥♦♣♠•◘○◙♂♀♪♫☼►◄↕‼¶§▬↨↑↓→←∟↔▲▼";
const HIGH: &str = concat!(
    "⌂ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒáíóúñÑªº¿⌐¬½¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐",
    "└┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■\u{a0}"
);

/// A character and its attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cell {
    /// The character, of code page 437.
    pub character: u8,
    /// Foreground in bits 0–3, background in bits 4–7.
    pub attribute: u8,
}

impl Cell {
    /// The character in Unicode.
    pub fn unicode(self) -> char {
        let index = usize::from(self.character);
        let found = match self.character {
            0x00..0x20 => LOW.chars().nth(index),
            0x20..0x7f => Some(char::from(self.character)),
            0x7f.. => HIGH.chars().nth(index - 0x7f),
        };
        found.unwrap_or(' ')
    }
}

/// A screen in text mode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextScreen {
    /// Cells in a row.
    pub columns: usize,
    /// The cells, row by row.
    pub cells: Vec<Cell>,
    /// Column and row of the cursor, if it is to be seen.
    pub cursor: Option<(usize, usize)>,
}

impl TextScreen {
    /// The screen as lines, without the blanks at the end of each.
    pub fn lines(&self) -> Vec<String> {
        let line = |cells: &[Cell]| cells.iter().map(|cell| cell.unicode()).collect::<String>();
        self.cells.chunks(self.columns.max(1)).map(|cells| line(cells).trim_end().to_owned()).collect()
    }

    /// The screen as text, without empty lines at the end.
    pub fn text(&self) -> String {
        let text = self.lines().join("\n");
        format!("{}\n", text.trim_end())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cells(bytes: &[u8]) -> Vec<Cell> {
        bytes.iter().map(|&character| Cell { character, attribute: 7 }).collect()
    }

    #[test]
    fn all_of_the_code_page_has_a_character() {
        assert_eq!((LOW.chars().count(), HIGH.chars().count()), (0x20, 0x81));
        let unicode = |character| Cell { character, attribute: 0 }.unicode();
        assert_eq!(
            [0x00, 0x41, 0x7f, 0x80, 0xc4, 0xdb, 0xfe].map(unicode),
            [' ', 'A', '⌂', 'Ç', '─', '█', '■']
        );
    }

    #[test]
    fn blanks_at_the_end_of_lines_and_of_the_screen_are_left_out() {
        let screen = TextScreen { columns: 4, cells: cells(b"ab  \0\0\0\0 c      "), cursor: None };
        assert_eq!(screen.lines(), ["ab", "", " c", ""]);
        assert_eq!(screen.text(), "ab\n\n c\n");
    }
}
