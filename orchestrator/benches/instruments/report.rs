//! What is printed: text and aligned tables, to standard output and to a file.

use comfy_table::{CellAlignment, Table, presets::NOTHING};
use std::{
    fs::File,
    io::{self, Write},
    path::Path,
};

/// Where the text goes.
pub(crate) struct Report {
    file: Option<File>,
}

impl Report {
    /// Prints, and writes to the file if there is one; what was in it is lost.
    pub(crate) fn new(path: Option<&Path>) -> io::Result<Self> {
        Ok(Self { file: path.map(File::create).transpose()? })
    }

    /// Prints a paragraph.
    pub(crate) fn say(&self, text: &str) {
        println!("{text}");
        if let Some(mut file) = self.file.as_ref()
            && let Err(error) = writeln!(file, "{text}")
        {
            eprintln!("cannot write to the file of --out: {error}");
        }
    }

    /// Prints a heading.
    pub(crate) fn heading(&self, text: &str) {
        self.say(&format!("\n{text}\n{}", "-".repeat(text.len())));
    }

    /// Prints a table. The first `left` columns are words, the others numbers, the last is a verdict.
    pub(crate) fn table(&self, headings: &[&str], left: usize, rows: &[Vec<String>]) {
        let mut table = Table::new();
        table.load_style(NOTHING).set_header(headings.iter().copied());
        for row in rows {
            table.add_row(row);
        }
        for (index, column) in table.column_iter_mut().enumerate() {
            let words = index < left || index + 1 == headings.len();
            column.set_cell_alignment(if words { CellAlignment::Left } else { CellAlignment::Right });
        }
        self.say(&table.trim_fmt());
    }
}

/// Says on standard error what is being measured: tables come only when they are whole.
pub(crate) fn progress(what: &str) {
    eprintln!("measuring {what}");
}

/// A verdict.
pub(crate) fn verdict(holds: bool) -> String {
    (if holds { "holds" } else { "misses" }).into()
}

/// A deviation, as a percentage with its sign.
pub(crate) fn percent(fraction: f64) -> String {
    format!("{:+.2}%", 100.0 * fraction)
}

/// The median; 0 of nothing.
pub(crate) fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}
