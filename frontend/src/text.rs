//! Text whose control characters are shown instead of sent to a terminal.

use std::{
    fmt::{self, Write as _},
    ops::AddAssign,
};

/// Text that a terminal only shows: line ends and tabs are its only control characters, apart from the colors
/// of [`painted`](Self::painted).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Text(String);

impl Text {
    /// Returns JSON as text. Control characters that JSON allows in strings are escaped, which preserves
    /// their values.
    pub fn json(json: &str) -> Self {
        let mut text = String::with_capacity(json.len());
        for c in json.chars() {
            if symbol(c).is_none() {
                text.push(c);
                continue;
            }
            for unit in c.encode_utf16(&mut [0; 2]) {
                write!(text, "\\u{unit:04x}").expect("writing to a string");
            }
        }
        Self(text)
    }

    /// Colors the text. `sgr` are the parameters of ECMA-48's Select Graphic Rendition, such as `1;31` for
    /// bold red.
    #[must_use]
    pub fn painted(self, sgr: &str) -> Self {
        Self(format!("\x1b[{sgr}m{}\x1b[0m", self.0))
    }

    /// Returns the text as it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Text {
    /// Shows every control character except line ends and tabs.
    fn from(text: &str) -> Self {
        Self(text.chars().map(|c| symbol(c).unwrap_or(c)).collect())
    }
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        Self::from(text.as_str())
    }
}

impl<T: Into<Self>> AddAssign<T> for Text {
    fn add_assign(&mut self, other: T) {
        self.0.push_str(&other.into().0);
    }
}

impl Extend<Self> for Text {
    fn extend<I: IntoIterator<Item = Self>>(&mut self, parts: I) {
        parts.into_iter().for_each(|part| *self += part);
    }
}

impl FromIterator<Self> for Text {
    fn from_iter<I: IntoIterator<Item = Self>>(parts: I) -> Self {
        Self(parts.into_iter().map(|part| part.0).collect())
    }
}

impl PartialEq<&str> for Text {
    fn eq(&self, other: &&str) -> bool {
        self.0 == *other
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Returns the text on one line: its line ends are shown too, so that it cannot pass for several lines.
pub fn one_line(text: &str) -> String {
    text.chars().map(|c| if c == '\n' { '␊' } else { symbol(c).unwrap_or(c) }).collect()
}

/// Returns the symbol that stands for a control character, which is one column wide like most characters;
/// nothing for other characters, line ends and tabs.
///
/// Characters that change the direction of writing count as control characters, because they make a line
/// look like another one (CVE-2021-42574), and so do the line ends of Unicode and characters that nobody
/// sees. One of these joins others to a single picture, as in many emoji, whose parts are shown instead.
fn symbol(c: char) -> Option<char> {
    match c {
        '\n' | '\t' => None,
        '\0'..='\x1f' => char::from_u32(0x2400 + u32::from(c)),
        '\x7f' => Some('␡'),
        '\u{80}'..='\u{9f}'
        | '\u{ad}'
        | '\u{61c}'
        | '\u{180e}'
        | '\u{200b}'..='\u{200f}'
        | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{2064}'
        | '\u{2066}'..='\u{2069}'
        | '\u{feff}'
        | '\u{e0000}'..='\u{e007f}' => Some(char::REPLACEMENT_CHARACTER),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_shown() {
        let text = Text::from("a\x1b[31mb\x07\r\nc\td\x7f\u{9b}2J\u{202e}é…");
        assert_eq!(text.as_str(), "a␛[31mb␇␍\nc\td␡\u{fffd}2J\u{fffd}é…");
        assert_eq!(one_line("a\nb: holds\x1bc"), "a␊b: holds␛c");
    }

    #[test]
    fn characters_that_nobody_sees_are_shown() {
        for c in "\u{ad}\u{180e}\u{200b}\u{200d}\u{2060}\u{2064}\u{feff}\u{e0001}\u{e007f}".chars() {
            assert_eq!(one_line(&format!("ro{c}ot")), "ro\u{fffd}ot", "{c:?}");
            let json = format!("\"ro{c}ot\"");
            let escaped = Text::json(&json);
            assert!(escaped.as_str().is_ascii(), "{escaped}");
            assert_eq!(serde_json::from_str::<String>(escaped.as_str()).unwrap(), format!("ro{c}ot"));
        }
        let family = "👩\u{200d}👧 ❤\u{fe0f}";
        assert_eq!(Text::from(family).as_str(), "👩\u{fffd}👧 ❤\u{fe0f}");
    }

    #[test]
    fn only_colors_of_our_own_remain() {
        let mut text = Text::from("\x1b[0m").painted("1;31");
        text += " x\x1b]0;title\x07";
        assert_eq!(text.as_str(), "\x1b[1;31m␛[0m\x1b[0m x␛]0;title␇");
    }

    #[test]
    fn json_keeps_its_values() {
        assert_eq!(Text::json("{\n\"a\": \"\u{9b}\u{7f}é\"}").as_str(), "{\n\"a\": \"\\u009b\\u007fé\"}");
    }
}
