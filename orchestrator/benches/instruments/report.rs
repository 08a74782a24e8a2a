//! Output of the benchmark: text and aligned tables, on standard output and in a file.

use comfy_table::{CellAlignment, Table, presets::NOTHING};
use std::{
    fs::File,
    io::{self, Write},
    path::Path,
};

/// A writer to standard output and an optional file.
pub(crate) struct ReportWriter {
    file: Option<File>,
}

impl ReportWriter {
    /// Creates a writer. A file at `path` is overwritten.
    pub(crate) fn new(path: Option<&Path>) -> io::Result<Self> {
        Ok(Self { file: path.map(File::create).transpose()? })
    }

    /// Prints a paragraph of text.
    pub(crate) fn text(&self, text: &str) {
        println!("{text}");
        if let Some(mut file) = self.file.as_ref()
            && let Err(error) = writeln!(file, "{text}")
        {
            eprintln!("cannot write to the --out file: {error}");
        }
    }

    /// Prints an underlined heading.
    pub(crate) fn heading(&self, text: &str) {
        self.text(&format!("\n{text}\n{}", "-".repeat(text.len())));
    }

    /// Prints a table. The first `left` columns and the last one, the verdict, are aligned left, the others
    /// right.
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
        self.text(&table.trim_fmt());
    }
}

/// Prints on standard error what is being measured, because a table is only printed when it is complete.
pub(crate) fn progress(what: &str) {
    eprintln!("measuring {what}");
}

/// Returns the word for whether a target is met.
pub(crate) fn verdict(holds: bool) -> String {
    (if holds { "holds" } else { "misses" }).into()
}

/// Formats a deviation as a percentage with its sign.
pub(crate) fn percent(fraction: f64) -> String {
    format!("{:+.2}%", 100.0 * fraction)
}

/// Sorts the values and returns their median, or 0 if there are none.
pub(crate) fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}
