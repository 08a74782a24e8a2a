//! The threshold as a small plot of characters, for a terminal.
//!
//! A run with one group of dirty rates is drawn as dirty rate against total time, a run with several groups
//! as a line of marks for each. Rates are drawn to scale unless two would share a column; then they are
//! evenly spaced.

use crate::{
    layout::{self, Screen},
    measure::median,
    results::threshold::{Group, Level},
};
use std::fmt::Write as _;

/// The smallest and the largest width of a plot, in columns. A plot that does not go to a terminal has the
/// largest.
const WIDTHS: (usize, usize) = (40, 100);
/// The number of lines for total times.
const HEIGHT: usize = 8;

/// The characters used to draw a plot.
struct Marks {
    converged: char,
    some: char,
    given_up: char,
    failed: char,
    range: char,
    edge: char,
    vertical: char,
    tick: char,
    corner: char,
    horizontal: char,
}

const UNICODE: Marks = Marks {
    converged: '●',
    some: '◐',
    given_up: '×',
    failed: '!',
    range: '│',
    edge: '┊',
    vertical: '│',
    tick: '┤',
    corner: '└',
    horizontal: '─',
};

const ASCII: Marks = Marks {
    converged: 'o',
    some: '+',
    given_up: 'x',
    failed: '!',
    range: '|',
    edge: ':',
    vertical: '|',
    tick: '|',
    corner: '+',
    horizontal: '-',
};

impl Marks {
    fn of(&self, level: &Level) -> char {
        match (level.converged.is_empty(), level.all_converged()) {
            (_, true) => self.converged,
            (true, false) => self.without(level),
            (false, false) => self.some,
        }
    }

    /// Returns the mark of the attempts of a level that did not converge.
    fn without(&self, level: &Level) -> char {
        if level.given_up > 0 { self.given_up } else { self.failed }
    }

    /// Returns the lines below an axis that explain it and these marks, indented by `margin`.
    fn legend(&self, used: impl Iterator<Item = char>, margin: usize, width: usize) -> String {
        let used: Vec<char> = used.collect();
        let all = [
            (self.converged, "converged"),
            (self.some, "in part"),
            (self.given_up, "given up"),
            (self.failed, "failed"),
        ];
        let used = all.iter().filter(|(mark, _)| used.contains(mark));
        let words: Vec<String> = used.map(|(mark, words)| format!("{mark} {words}")).collect();
        let lines = layout::wrap(&format!("dirty rate: {}", words.join(", ")), width - margin - 1);
        let start = " ".repeat(margin + 1);
        lines.into_iter().flat_map(|line| [start.clone(), line, "\n".into()]).collect()
    }
}

/// Draws the threshold of a run, with a line end after each line. Returns an empty text without groups.
pub(super) fn draw(groups: &[Group], screen: Screen) -> String {
    let width = screen.width.unwrap_or(WIDTHS.1).clamp(WIDTHS.0, WIDTHS.1);
    let marks = if screen.is_ascii { &ASCII } else { &UNICODE };
    match groups {
        [] => String::new(),
        [only] if longest_ms(only) > 0.0 => against_time(only, width, marks),
        several => strips(several, width, marks),
    }
}

/// Returns the total times of the attempts of a level, in milliseconds, the shortest first.
fn times_ms(level: &Level) -> Vec<f64> {
    let mut times: Vec<f64> = level.converged.iter().flatten().copied().collect();
    times.sort_unstable_by(f64::total_cmp);
    times
}

/// Returns the longest total time of a group, in milliseconds; 0 if none was measured.
fn longest_ms(group: &Group) -> f64 {
    group.levels.iter().flat_map(times_ms).fold(0.0, f64::max)
}

/// Draws the total time against the dirty rate. Rates at which no attempt converged have their mark in a line
/// above all times.
fn against_time(group: &Group, width: usize, marks: &Marks) -> String {
    let longest = longest_ms(group);
    let has_given_up = group.levels.iter().any(|level| level.given_up > 0);
    let has_failed = group.levels.iter().any(|level| !level.failed.is_empty());
    let title = if has_failed && !has_given_up { "failed" } else { "given up" };
    // A record may have any time, and a label leaves room for the plot.
    let label = |share: f64| match longest * share / 1e3 {
        seconds if seconds < 1e7 => format!("{seconds:.1} s"),
        seconds => format!("{seconds:.1e} s"),
    };
    let margin = label(1.0).len().max(title.len()) + 1;
    let axis = Axis::new(std::slice::from_ref(group), width - margin - 1);
    // The first row is that of attempts that were given up or failed, the last one that of no time at all.
    let row_of = |ms: f64| HEIGHT - ((ms / longest) * (HEIGHT - 1) as f64).round() as usize;
    let mut rows = vec![vec![' '; axis.width]; HEIGHT + 1];
    if let (Some(below), Some(above)) = (group.highest_converged(), group.lowest_given_up()) {
        let edge = usize::midpoint(axis.column(below), axis.column(above));
        if edge > axis.column(below) {
            for row in &mut rows {
                row[edge] = marks.edge;
            }
        }
    }
    for level in &group.levels {
        let column = axis.column(level);
        let times = times_ms(level);
        if let (Some(middle), [first, .., last] | [first @ last]) = (median(&times), &times[..]) {
            for row in &mut rows[row_of(*last)..=row_of(*first)] {
                row[column] = marks.range;
            }
            rows[row_of(middle)][column] = marks.of(level);
        }
        if !level.all_converged() {
            rows[0][column] = marks.without(level);
        }
    }
    let all_converged = group.levels.iter().all(Level::all_converged);
    let mut text = format!("{:>width$}\n", "total time", width = margin - 1);
    for (at, row) in rows.iter().enumerate() {
        let label = match at {
            0 if all_converged => continue,
            0 => title.to_owned(),
            1 => label(1.0),
            _ if at == HEIGHT => "0 s".to_owned(),
            _ => String::new(),
        };
        let tick = if label.is_empty() { marks.vertical } else { marks.tick };
        let line: String = row.iter().collect();
        let _ = writeln!(text, "{label:>width$} {tick}{}", line.trim_end(), width = margin - 1);
    }
    text += &axis.draw(margin, marks);
    let without = group.levels.iter().filter(|level| !level.all_converged());
    let used = group.levels.iter().map(|level| marks.of(level));
    text + &marks.legend(used.chain(without.map(|level| marks.without(level))), margin, width)
}

/// Draws a line of marks for each group.
fn strips(groups: &[Group], width: usize, marks: &Marks) -> String {
    let longest = groups.iter().map(|group| group.name.chars().count()).max().unwrap_or(0);
    // Long names stand above their lines.
    let is_beside = longest <= width / 3;
    let margin = if is_beside { longest + 1 } else { 2 };
    let axis = Axis::new(groups, width - margin - 1);
    let mut text = String::new();
    for group in groups {
        let mut row = vec![' '; axis.width];
        for level in &group.levels {
            row[axis.column(level)] = marks.of(level);
        }
        let name = if is_beside { group.name.as_str() } else { "" };
        if !is_beside {
            text += &layout::fold(&group.name, Some(width));
        }
        let row: String = row.into_iter().collect();
        let _ = writeln!(text, "{name:<margin$}{}{}", marks.tick, row.trim_end());
    }
    text += &axis.draw(margin, marks);
    let used = groups.iter().flat_map(|group| &group.levels).map(|level| marks.of(level));
    text + &marks.legend(used, margin, width)
}

/// The axis of dirty rates.
struct Axis<'a> {
    /// The rates, the lowest first, each with its text and its column.
    ticks: Vec<(u64, &'a str, usize)>,
    width: usize,
}

impl<'a> Axis<'a> {
    fn new(groups: &'a [Group], width: usize) -> Self {
        let levels = groups.iter().flat_map(|group| &group.levels);
        let mut rates: Vec<(u64, &str)> =
            levels.map(|level| (level.rate.get(), level.text.as_str())).collect();
        rates.sort_unstable();
        rates.dedup_by_key(|(rate, _)| *rate);
        let (low, high) = (rates[0].0, rates[rates.len() - 1].0);
        // A space before the first rate, and room for half of the last label.
        let room = (width - 1).saturating_sub(rates[rates.len() - 1].1.chars().count() / 2 + 1);
        let at = |share: f64| 1 + (share * room.saturating_sub(1) as f64).round() as usize;
        let scaled = |rate: u64| at((rate - low) as f64 / (high - low).max(1) as f64);
        let shares_a_column = rates.windows(2).any(|pair| scaled(pair[0].0) == scaled(pair[1].0));
        let last = (rates.len() - 1).max(1) as f64;
        let ticks = rates.iter().enumerate().map(|(index, (rate, text))| {
            let column = if shares_a_column { at(index as f64 / last) } else { scaled(*rate) };
            (*rate, *text, column)
        });
        Self { ticks: ticks.collect(), width }
    }

    fn column(&self, level: &Level) -> usize {
        let tick = self.ticks.iter().find(|(rate, ..)| *rate == level.rate.get());
        tick.map_or(0, |(.., column)| *column)
    }

    /// Draws the axis and its labels. Labels without room are left out.
    fn draw(&self, margin: usize, marks: &Marks) -> String {
        let line: String = std::iter::repeat_n(marks.horizontal, self.width).collect();
        let mut labels = String::new();
        for (index, (_, text, column)) in self.ticks.iter().enumerate() {
            let length = text.chars().count();
            let start = column.saturating_sub(length / 2);
            let used = labels.chars().count();
            // The last label is kept in any case.
            let last = self.ticks.last().filter(|_| index + 1 < self.ticks.len());
            let before_last = last.is_none_or(|(_, text, column)| {
                start + length < column.saturating_sub(text.chars().count() / 2)
            });
            if before_last && (labels.is_empty() || start > used) {
                let _ = write!(labels, "{:blank$}{text}", "", blank = start.saturating_sub(used));
            }
        }
        format!("{:margin$}{}{line}\n{:margin$} {labels}\n", "", marks.corner, "")
    }
}

#[cfg(test)]
mod tests;
