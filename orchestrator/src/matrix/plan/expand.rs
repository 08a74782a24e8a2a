//! Expands a [`File`] to a [`Plan`]: combines the axes, resolves the settings of each cell, and checks that
//! they are consistent.

use super::{Cell, Plan, RunOrder, baseline};
use crate::matrix::{
    diagnostic::{Diagnostics, KeyPath},
    file::{Assignment, CellOrder, File, MAX_CELLS, Overrides},
    settings::{Settings, SettingsError},
    traces::{TraceTexts, Traces},
    yaml::{DiagnosticSink, Location},
};
use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};
use std::{
    collections::{HashMap, HashSet},
    fmt::Write,
};

impl File {
    /// Resolves every cell of a file whose settings name no traces.
    ///
    /// # Errors
    ///
    /// Those of [`File::expand_with`]. Traces cannot be read.
    pub fn expand(&self) -> Result<Plan, Diagnostics> {
        self.expand_with(&mut Traces::kept(TraceTexts::new()))
    }

    /// Reads the traces that the settings name, and resolves every cell.
    ///
    /// # Errors
    ///
    /// Fails for traces that cannot be read or are invalid, cells whose settings contradict each other, cells
    /// that appear twice, conditions of `exclude` and `expect` that no cell meets, cells that `expect`
    /// compares and that have no or several baselines, axes that combine to more than 100,000 cells, and a
    /// matrix without cells.
    pub fn expand_with(&self, traces: &mut Traces) -> Result<Plan, Diagnostics> {
        if self.has_traces() { self.with_traces(traces)?.resolve() } else { self.resolve() }
    }

    /// Resolves every cell, once the traces have been read.
    fn resolve(&self) -> Result<Plan, Diagnostics> {
        let mut sink = DiagnosticSink::new(&self.document);
        let product = self.axes.iter().try_fold(1usize, |n, axis| n.checked_mul(axis.values.len()));
        if product.is_none_or(|n| n > MAX_CELLS) {
            let location = Location::Key(KeyPath::root().key("axes"));
            let help = "remove values, or split the matrix into several files";
            let message = format!("the axes combine to more than {MAX_CELLS} cells");
            sink.push(&location, message, Some(help.into()));
            return sink
                .finish(())
                .and(Err(Diagnostics::new(&self.document.name, self.document.text.clone())));
        }
        let mut expansion = Expansion {
            file: self,
            sink,
            cells: Vec::new(),
            reported: HashSet::new(),
            excluding: vec![false; self.exclude.len()],
            expecting: vec![false; self.expect.len()],
        };
        expansion.combine(product.unwrap_or_default());
        expansion.include();
        expansion.report_unmet();
        let Expansion { cells, sink, .. } = expansion;
        let cells = sink.finish(cells)?;
        let mut plan = Plan {
            name: self.name.clone(),
            description: self.description.clone(),
            total_cells: cells.len(),
            cells,
            repeat: self.repeat,
            order: RunOrder::AsWritten,
            expect: self.expect.clone(),
            reference: self.reference.clone(),
        };
        if self.order == CellOrder::Shuffled {
            let seed = self.seed.unwrap_or_else(|| plan.seed_from_cells());
            plan.order = RunOrder::Shuffled { seed };
        }
        Ok(plan)
    }
}

/// The expansion of a file, in progress.
struct Expansion<'a> {
    file: &'a File,
    sink: DiagnosticSink<'a>,
    cells: Vec<Cell>,
    /// The messages reported so far, so that a thousand cells with the same mistake give one message.
    reported: HashSet<(KeyPath, String)>,
    /// For each entry of `exclude`, whether a cell met its condition.
    excluding: Vec<bool>,
    /// For each entry of `expect`, whether a cell met its condition.
    expecting: Vec<bool>,
}

impl<'a> Expansion<'a> {
    /// Adds all combinations of the axes, with the last axis varying fastest.
    fn combine(&mut self, product: usize) {
        let axes = &self.file.axes;
        if axes.is_empty() && !self.file.include.is_empty() {
            return;
        }
        self.cells.reserve(product);
        for number in 0..product {
            let mut rest = number;
            let mut overrides: Vec<&Overrides> = Vec::with_capacity(axes.len());
            for axis in axes.iter().rev() {
                overrides.push(&axis.values[rest % axis.values.len()]);
                rest /= axis.values.len();
            }
            overrides.reverse();
            self.cell(&overrides, true);
        }
    }

    /// Adds the cells of `include`, and reports those that are equal to another cell.
    fn include(&mut self) {
        let file = self.file;
        let mut included = Vec::new();
        for (i, overrides) in file.include.iter().enumerate() {
            let before = self.cells.len();
            self.cell(&[overrides], false);
            if self.cells.len() > before {
                included.push((i, before));
            }
        }
        if included.is_empty() {
            return;
        }
        let first = self.cells.len() - included.len();
        let mut known: HashMap<&Settings, &str> =
            self.cells[..first].iter().map(|cell| (&cell.settings, &*cell.id)).collect();
        for (i, position) in included {
            let cell = &self.cells[position];
            if let Some(other) = known.insert(&cell.settings, &cell.id) {
                let location = Location::Value(KeyPath::root().key("include").index(i));
                let help = Some("to measure a cell more than once, set `repeat`".into());
                self.sink.push(&location, format!("this cell is the same as `{other}`"), help);
            }
        }
    }

    /// Adds one cell, unless it is `excludable` and a condition excludes it. Reports contradictions in its
    /// settings.
    fn cell(&mut self, layers: &[&'a Overrides], excludable: bool) {
        let mut settings = self.file.settings.clone();
        for layer in layers {
            layer.apply(&mut settings);
        }
        if excludable {
            let mut excluded = false;
            for (condition, met) in self.file.exclude.iter().zip(&mut self.excluding) {
                let holds = condition.matches(&settings);
                *met |= holds;
                excluded |= holds;
            }
            if excluded {
                return;
            }
        }
        for (expectation, met) in self.file.expect.iter().zip(&mut self.expecting) {
            *met = *met || expectation.applies_to(&settings);
        }
        let assignments: Vec<_> = layers.iter().flat_map(|layer| &layer.assignments).collect();
        let id = cell_id(&assignments);
        for error in settings.check() {
            self.report_settings(&error, &assignments, &id);
        }
        let axes = assignments.iter().map(|a| (a.setting.path().to_string(), a.text.to_string())).collect();
        self.cells.push(Cell { id, index: self.cells.len(), axes, settings });
    }

    /// Reports contradictory settings of a cell. The message points at the setting most likely to be wrong
    /// among those that this cell sets, or else among those that all cells share.
    fn report_settings(&mut self, error: &SettingsError, assignments: &[&Assignment], id: &str) {
        let root = KeyPath::root();
        let paths = &error.paths;
        let own = assignments.iter().find(|a| paths.iter().any(|path| path == a.setting.path()));
        let mut paths = paths.iter().map(|path| root.dotted(path));
        let culprit = paths.clone().next().unwrap_or_default();
        let written = paths.find(|path| self.file.document.get(path).is_some());
        let location = match (own, written) {
            (Some(assignment), _) => Location::Value(assignment.at.clone()),
            (None, Some(path)) => Location::Value(path),
            (None, None) => Location::File(culprit),
        };
        let cell = own.filter(|_| assignments.len() > 1).map(|_| format!("in the cell {id}"));
        let help = match (&error.help, cell) {
            (Some(help), Some(cell)) => Some(format!("{help} ({cell})")),
            (help, cell) => help.clone().or(cell),
        };
        self.report(&location, error.message.clone(), help);
    }

    /// Reports an error, unless the same one was reported before.
    fn report(&mut self, location: &Location, message: String, help: Option<String>) {
        if self.reported.insert((location.path().clone(), message.clone())) {
            self.sink.push(location, message, help);
        }
    }

    /// Reports conditions that no cell meets. They are mistakes: a condition is meant to exclude or expect
    /// something.
    fn report_unmet(&mut self) {
        let root = KeyPath::root();
        for (i, _) in self.excluding.iter().enumerate().filter(|(_, met)| !**met) {
            let help = Some("remove it, or correct its condition".into());
            let location = Location::Value(root.key("exclude").index(i));
            self.sink.push(&location, "this exclusion matches no cell", help);
        }
        if self.cells.is_empty() && self.sink.is_empty() {
            let location = Location::Key(root.key("exclude"));
            let help = Some("exclude fewer cells, or add some".into());
            self.sink.push(&location, "`exclude` leaves no cell", help);
        }
        if !self.sink.is_empty() {
            return;
        }
        for (i, _) in self.expecting.iter().enumerate().filter(|(_, met)| !**met) {
            let location = Location::Value(root.key("expect").index(i).key("where"));
            let (message, help) = if self.file.expect[i].relative_to.is_none() {
                (unmet(self.cells.len()), "remove it, or correct its condition")
            } else {
                let message = "this selects no cell to be compared with a baseline";
                (message.into(), "select cells that do not meet `relative_to`")
            };
            self.sink.push(&location, message, Some(help.into()));
        }
        for (i, expectation) in self.file.expect.iter().enumerate().filter(|(i, _)| self.expecting[*i]) {
            if let Some((message, help)) = baseline::problem(&self.cells, expectation) {
                let location = Location::Value(root.key("expect").index(i).key("relative_to"));
                self.sink.push(&location, message, Some(help));
            }
        }
    }
}

/// Returns the message for a condition that none of some cells meets.
pub(super) fn unmet(cells: usize) -> String {
    match cells {
        1 => "the only cell does not meet this condition".to_owned(),
        several => format!("none of the {several} cells meets this condition"),
    }
}

/// Returns a cell's ID, made of the settings that distinguish it. It is usable as a file name on every
/// system: at most 120 characters, of letters, digits and `.,=_-`. If other characters were replaced or the
/// ID was cut off, it ends with a hash of the exact values, so that different cells keep different IDs.
fn cell_id(assignments: &[&Assignment]) -> String {
    const MAX_LENGTH: usize = 120;
    if assignments.is_empty() {
        return "base".into();
    }
    let mut id = String::new();
    let mut exact = String::new();
    let mut lossy = false;
    for assignment in assignments {
        let separator = if id.is_empty() { "" } else { "," };
        let text = assignment
            .text
            .strip_suffix("/s")
            .map_or_else(|| assignment.text.to_string(), |amount| format!("{amount}ps"));
        let safe = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        lossy |= !text.chars().all(safe);
        let text: String = text.chars().map(|c| if safe(c) { c } else { '-' }).collect();
        let _ = write!(id, "{separator}{}={text}", assignment.setting.path());
        let _ = write!(exact, "{separator}{}={}", assignment.setting.path(), assignment.text);
    }
    if lossy || id.len() > MAX_LENGTH {
        let hash = Sha256::digest(exact.as_bytes());
        id.truncate(MAX_LENGTH - 9);
        let _ = write!(id, "-{}", HEXLOWER.encode(&hash[..4]));
    }
    id
}

impl Plan {
    /// Derives a seed of 32 bits from the IDs of the cells, so that the same cells give the same seed.
    fn seed_from_cells(&self) -> u64 {
        let mut hash = Sha256::new();
        for cell in &self.cells {
            hash.update(cell.id.as_bytes());
            hash.update(b"\n");
        }
        let hash = hash.finalize();
        u64::from_le_bytes(std::array::from_fn(|i| hash[i])) & u64::from(u32::MAX)
    }
}
