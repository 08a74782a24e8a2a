//! Text laid out for people: lines wrapped at spaces, and tables folded to the width of a terminal.

use comfy_table::{CellAlignment, ColumnConstraint, ContentArrangement, Width, presets};
use std::time::Duration;

/// The smallest width for which text is laid out. A narrower terminal wraps the lines itself.
const MIN_WIDTH: usize = 40;

/// The additional indent of continuation lines.
const HANGING: usize = 4;

/// The spaces around the content of a table's column.
const PADDING: usize = 2;

/// The screen for which text is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Screen {
    /// The width of the terminal, in columns; `None` if the text goes elsewhere.
    pub width: Option<usize>,
    /// Whether only ASCII characters can be used for drawing.
    pub is_ascii: bool,
    /// Whether words that matter are colored.
    pub is_colored: bool,
}

/// Wraps a text at its spaces into lines of at most `width` characters. Text between backticks stays on one
/// line if it fits, so that a command can be copied. A longer word is cut.
pub fn wrap(text: &str, width: usize) -> Vec<String> {
    wrap_after(text, width, width)
}

/// Does the same as [`wrap`], with a different width for the first line.
pub(crate) fn wrap_after(text: &str, first: usize, others: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let mut line = String::new();
    let mut length = 0;
    let width = |lines: &[String]| if lines.is_empty() { first.max(1) } else { others.max(1) };
    for word in words(text, others) {
        if length > 0 && length + 1 + word.chars().count() > width(&lines) {
            lines.push(std::mem::take(&mut line));
            length = 0;
        }
        if length > 0 {
            line.push(' ');
            length += 1;
        }
        let mut rest: Vec<char> = word.chars().collect();
        while rest.len() > width(&lines) {
            let tail = rest.split_off(width(&lines));
            lines.push(rest.into_iter().collect());
            rest = tail;
        }
        length += rest.len();
        line.extend(rest);
    }
    if !line.is_empty() || lines.is_empty() {
        lines.push(line);
    }
    lines
}

/// Splits a text at its spaces, except between backticks if the text there is not longer than `width`.
fn words(text: &str, width: usize) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut quoted: Option<String> = None;
    for word in text.split_whitespace() {
        let closes = word.matches('`').count() % 2 == 1;
        match &mut quoted {
            Some(begun) => {
                begun.push(' ');
                begun.push_str(word);
                if closes {
                    words.extend(quoted.take());
                }
            }
            None if closes => quoted = Some(word.to_owned()),
            None => words.push(word.to_owned()),
        }
    }
    // A backtick that is never closed does not quote anything.
    let open = quoted.into_iter().flat_map(|open| split(&open));
    let split_long = |word: String| if word.chars().count() > width { split(&word) } else { vec![word] };
    words.into_iter().flat_map(split_long).chain(open).collect()
}

fn split(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

/// Wraps those lines of a text that are wider than a terminal. Continuation lines are indented by four
/// columns more than the line. Without a width, returns the text as it is.
pub fn fold(text: &str, width: Option<usize>) -> String {
    let Some(width) = width else { return text.to_owned() };
    let width = width.max(MIN_WIDTH);
    let mut folded = String::new();
    for line in text.lines() {
        if line.chars().count() <= width {
            folded.push_str(line);
            folded.push('\n');
            continue;
        }
        let content = line.trim_start();
        // A deep indent would leave no room.
        let indent = (line.len() - content.len()).min(width / 2);
        for (number, part) in wrap_after(content, width - indent, width - indent - HANGING).iter().enumerate()
        {
            let hanging = if number == 0 { 0 } else { HANGING };
            folded.push_str(&" ".repeat(indent + hanging));
            folded.push_str(part);
            folded.push('\n');
        }
    }
    folded
}

/// Returns a text whose lines after the first are indented by four columns, which shows that they belong to
/// it.
pub fn hanging(text: &str) -> String {
    text.replace('\n', &format!("\n{:HANGING$}", ""))
}

/// Returns a duration rounded to seconds, such as `45 s`, `3 min 20 s` or `2 h 01 min`.
pub fn about(duration: Duration) -> String {
    let seconds = duration.as_secs_f64().round() as u64;
    let minutes = (seconds + 30) / 60;
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        _ => format!("{} h {:02} min", minutes / 60, minutes % 60),
    }
}

/// Returns words as they would be typed into a shell.
pub fn shell_line<W: AsRef<str>>(words: impl IntoIterator<Item = W>) -> String {
    words.into_iter().map(|word| shell_word(word.as_ref())).collect::<Vec<_>>().join(" ")
}

/// Quotes a word for a shell if it needs quotes.
pub fn shell_word(word: &str) -> String {
    // Not `~`, which a shell expands.
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// A column of a [`Table`].
#[derive(Debug, Clone)]
pub struct Column {
    /// The title, on one or several lines.
    pub header: String,
    pub content: Content,
}

/// The content of a column, which determines its place when a table is folded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// The subject of the row. Repeated at the left of every part of a folded table.
    Key,
    /// Words.
    Words,
    /// A number, aligned at the right.
    Number,
}

/// A table without lines between its columns.
#[derive(Debug, Clone)]
pub struct Table {
    /// The columns, from the left.
    pub columns: Vec<Column>,
    /// The rows, each with as many cells as there are columns.
    pub rows: Vec<Vec<String>>,
}

impl Table {
    /// Draws the table. With a width, cells are folded so that no line is wider. If that is not enough, the
    /// remaining columns follow in another part below, beside the keys of the rows.
    pub fn draw(&self, width: Option<usize>) -> String {
        let Some(width) = width.map(|width| width.max(MIN_WIDTH)) else {
            return self.render(None);
        };
        if Self::total(&self.natural_widths()) <= width {
            return self.render(None);
        }
        let parts = self.parts(width);
        let draw = |part: &Self| part.render(Some(&part.widths_within(width)));
        parts.iter().map(draw).collect::<Vec<_>>().join("\n")
    }

    /// Splits the table into parts that are not wider than this if their cells are folded.
    fn parts(&self, width: usize) -> Vec<Self> {
        let least = self.least_widths();
        let place = |columns: &[usize]| {
            Self::total(&columns.iter().map(|at| least[*at]).collect::<Vec<_>>()) <= width
        };
        let is_key = |at: &usize| self.columns[*at].content == Content::Key;
        let (keys, others): (Vec<usize>, Vec<usize>) = (0..self.columns.len()).partition(is_key);
        let mut parts = vec![keys.clone()];
        for at in others {
            let part = parts.last_mut().expect("there is always a part");
            part.push(at);
            // A column that does not even fit beside the keys alone has to be cut.
            if !place(part) && part.len() > keys.len() + 1 {
                part.pop();
                parts.push(keys.iter().copied().chain([at]).collect());
            }
        }
        parts.into_iter().map(|columns| self.with(&columns)).collect()
    }

    /// Returns the table with only these columns.
    fn with(&self, columns: &[usize]) -> Self {
        let row = |row: &Vec<String>| columns.iter().map(|at| row[*at].clone()).collect();
        Self {
            columns: columns.iter().map(|at| self.columns[*at].clone()).collect(),
            rows: self.rows.iter().map(row).collect(),
        }
    }

    /// Returns the widths of the columns if nothing is folded.
    fn natural_widths(&self) -> Vec<usize> {
        self.widths(|text| text.lines().map(|line| line.chars().count()).max().unwrap_or(0))
    }

    /// Returns the smallest widths at which no word is cut.
    fn least_widths(&self) -> Vec<usize> {
        self.widths(|text| text.split_whitespace().map(|word| word.chars().count()).max().unwrap_or(0))
    }

    fn widths(&self, of: impl Fn(&str) -> usize) -> Vec<usize> {
        let column = |(at, column): (usize, &Column)| {
            let cells = self.rows.iter().map(|row| of(&row[at]));
            cells.chain([of(&column.header)]).max().unwrap_or(0).max(1)
        };
        self.columns.iter().enumerate().map(column).collect()
    }

    /// Returns the width of the whole table. The space after the last column is not printed.
    fn total(widths: &[usize]) -> usize {
        (widths.iter().sum::<usize>() + PADDING * widths.len()).saturating_sub(1)
    }

    /// Returns widths for the columns with which the table is at most this wide.
    fn widths_within(&self, width: usize) -> Vec<usize> {
        let natural = self.natural_widths();
        let mut widths = self.least_widths();
        // Words are cut only where one column is too wide beside the keys.
        while Self::total(&widths) > width && widths.iter().any(|width| *width > 1) {
            let widest = (0..widths.len()).max_by_key(|at| widths[*at]).unwrap_or(0);
            widths[widest] -= 1;
        }
        let mut spare = width.saturating_sub(Self::total(&widths));
        // Words gain more from being on one line than numbers do.
        let is_number = |at: &usize| self.columns[*at].content == Content::Number;
        let (numbers, words): (Vec<usize>, Vec<usize>) = (0..widths.len()).partition(is_number);
        for at in words.into_iter().chain(numbers) {
            let gain = natural[at].saturating_sub(widths[at]).min(spare);
            widths[at] += gain;
            spare -= gain;
        }
        widths
    }

    fn render(&self, widths: Option<&[usize]>) -> String {
        let mut table = comfy_table::Table::new();
        table.load_style(presets::NOTHING);
        table.set_header(self.columns.iter().map(|column| column.header.clone()));
        table.add_rows(self.rows.clone());
        if let Some(widths) = widths {
            table.set_content_arrangement(ContentArrangement::Dynamic);
            table.set_width(u16::try_from(Self::total(widths) + 1).unwrap_or(u16::MAX));
        }
        for (at, drawn) in table.column_iter_mut().enumerate() {
            if self.columns[at].content == Content::Number {
                drawn.set_cell_alignment(CellAlignment::Right);
            }
            if let Some(widths) = widths {
                let width = u16::try_from(widths[at] + PADDING).unwrap_or(u16::MAX);
                drawn.set_constraint(ColumnConstraint::Absolute(Width::Fixed(width)));
            }
        }
        // comfy-table pads the last column with spaces.
        table.lines().map(|line| line.trim_end().to_string() + "\n").collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_wrapped_at_blanks() {
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(wrap("", 7), [""]);
        assert_eq!(wrap("abcdefghij kl", 4), ["abcd", "efgh", "ij", "kl"]);
        assert_eq!(wrap("run `a b c` now", 8), ["run", "`a b c`", "now"]);
        assert_eq!(wrap("run `a b c d e f` now", 8), ["run `a b", "c d e f`", "now"]);
        assert_eq!(wrap("an `open one", 8), ["an `open", "one"]);
        for width in 1..40 {
            let text = "the emulator's TUN devices `ip -brief link` lists /a/long/path/without/blanks";
            assert!(wrap(text, width).iter().all(|line| line.chars().count() <= width), "{width}");
        }
    }

    #[test]
    fn quoted_text_is_one_shell_word() {
        assert_eq!(shell_word("results/my run"), "'results/my run'");
        assert_eq!(shell_word("results/latency-20261126-101500"), "results/latency-20261126-101500");
        for text in ["", "plain", "a b", "it's", "$HOME `x` \"y\" \\ *", "'\n'", "~", "a/b=c:d,e+f@g%h"] {
            let script = format!("printf %s {}", shell_word(text));
            let output = std::process::Command::new("sh").args(["-c", &script]).output();
            assert_eq!(String::from_utf8_lossy(&output.unwrap().stdout), text);
        }
    }

    #[test]
    fn only_lines_that_are_too_wide_are_folded() {
        let long = "    a line that is indented and has more than forty columns";
        let text = format!("short\n{long}\n");
        assert_eq!(fold(&text, None), text);
        assert_eq!(
            fold(&text, Some(40)),
            "short\n    a line that is indented and has more\n        than forty columns\n"
        );
    }

    #[test]
    fn durations_are_rounded_to_seconds_or_minutes() {
        let text = |ms| about(Duration::from_millis(ms));
        assert_eq!(text(400), "0 s");
        assert_eq!(text(59_400), "59 s");
        assert_eq!(text(59_600), "1 min 00 s");
        assert_eq!(text(200_000), "3 min 20 s");
        assert_eq!(text(3_599_400), "59 min 59 s");
        assert_eq!(text(3_600_000), "1 h 00 min");
        assert_eq!(text(7_265_000), "2 h 01 min");
    }

    fn table() -> Table {
        let column = |header: &str, content| Column { header: header.into(), content };
        Table {
            columns: vec![
                column("stress.rate", Content::Key),
                column("outcome", Content::Words),
                column("total time\ns", Content::Number),
                column("data\nMB", Content::Number),
            ],
            rows: vec![
                ["64MB/s", "converged 3, failed 1", "5.0 (4.0–9.0)", "458 (444–472)"].map(Into::into).into(),
                ["128MB/s", "skipped", "-", "-"].map(Into::into).into(),
            ],
        }
    }

    #[test]
    fn a_table_that_fits_or_has_no_width_is_drawn_in_full() {
        let full = table().draw(None);
        assert_eq!(
            full.lines().next().unwrap(),
            " stress.rate  outcome                   total time           data"
        );
        assert_eq!(table().draw(Some(100)), full);
        let widest = full.lines().map(|line| line.chars().count()).max().unwrap();
        assert_eq!(table().draw(Some(widest)), full);
    }

    #[test]
    fn cells_are_folded_first() {
        assert_eq!(
            table().draw(Some(60)),
            " stress.rate  outcome                  total time       data\n\
             \x20                                               s         MB\n\
             \x2064MB/s       converged 3, failed 1           5.0        458\n\
             \x20                                       (4.0–9.0)  (444–472)\n\
             \x20128MB/s      skipped                           -          -\n"
        );
    }

    #[test]
    fn columns_that_do_not_fit_follow_below() {
        assert_eq!(
            table().draw(Some(40)),
            " stress.rate  outcome              total\n\
             \x20                                   time\n\
             \x20                                      s\n\
             \x2064MB/s       converged 3,           5.0\n\
             \x20             failed 1         (4.0–9.0)\n\
             \x20128MB/s      skipped                  -\n\
             \n\
             \x20stress.rate           data\n\
             \x20                        MB\n\
             \x2064MB/s       458 (444–472)\n\
             \x20128MB/s                  -\n"
        );
    }

    #[test]
    fn no_line_is_wider_than_the_terminal() {
        let mut wide_key = table();
        wide_key.rows[0][0] = "a-key-without-blanks-that-is-wider-than-the-narrowest-terminal".into();
        for width in MIN_WIDTH..120 {
            for table in [table(), wide_key.clone()] {
                let text = table.draw(Some(width));
                assert!(text.lines().all(|line| line.chars().count() <= width), "{width}:\n{text}");
            }
        }
    }
}
