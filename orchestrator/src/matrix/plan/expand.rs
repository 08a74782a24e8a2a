//! From a [`File`] to a [`Plan`]: combines the axes, resolves each cell's settings, and checks that each cell
//! can mean something.

use super::{Cell, Plan, RunOrder};
use crate::matrix::{
    diagnostic::{Diagnostics, FilePath},
    file::{Assignment, File, MOST_CELLS, Order, Point},
    settings::{Problem, Settings},
    yaml::{Sink, Spot},
};
use sha2::{Digest, Sha256};
use std::{
    collections::{HashMap, HashSet},
    fmt::Write,
};

impl File {
    /// Resolves every cell.
    ///
    /// # Errors
    ///
    /// Cells whose settings contradict each other, cells that appear twice, conditions of `exclude` and
    /// `expect` that no cell meets, and matrices without a cell or with more than 100,000.
    pub fn expand(&self) -> Result<Plan, Diagnostics> {
        let mut sink = Sink::new(&self.document);
        let product = self.axes.iter().try_fold(1usize, |n, axis| n.checked_mul(axis.points.len()));
        if product.is_none_or(|n| n > MOST_CELLS) {
            let spot = Spot::Key(FilePath::root().key("axes"));
            let help = "leave out values, or split the matrix into several files";
            let message = format!("the axes combine to more than {MOST_CELLS} cells");
            sink.push(&spot, message, Some(help.into()));
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
        if self.order == Order::Shuffled {
            let seed = self.seed.unwrap_or_else(|| plan.seed_from_cells());
            plan.order = RunOrder::Shuffled { seed };
        }
        Ok(plan)
    }
}

struct Expansion<'a> {
    file: &'a File,
    sink: Sink<'a>,
    cells: Vec<Cell>,
    /// What was reported, so that a thousand cells with one mistake give one message.
    reported: HashSet<(FilePath, String)>,
    /// Which conditions of `exclude` and `expect` were met.
    excluding: Vec<bool>,
    expecting: Vec<bool>,
}

impl<'a> Expansion<'a> {
    /// The product of the axes, the last varying fastest.
    fn combine(&mut self, product: usize) {
        let axes = &self.file.axes;
        if axes.is_empty() && !self.file.include.is_empty() {
            return;
        }
        self.cells.reserve(product);
        for number in 0..product {
            let mut rest = number;
            let mut points: Vec<&Point> = Vec::with_capacity(axes.len());
            for axis in axes.iter().rev() {
                points.push(&axis.points[rest % axis.points.len()]);
                rest /= axis.points.len();
            }
            points.reverse();
            self.cell(&points, true);
        }
    }

    fn include(&mut self) {
        let file = self.file;
        let mut places = Vec::new();
        for (i, point) in file.include.iter().enumerate() {
            let before = self.cells.len();
            self.cell(&[point], false);
            if self.cells.len() > before {
                places.push((i, before));
            }
        }
        if places.is_empty() {
            return;
        }
        let first = self.cells.len() - places.len();
        let mut known: HashMap<&Settings, &str> =
            self.cells[..first].iter().map(|cell| (&cell.settings, &*cell.id)).collect();
        for (i, position) in places {
            let cell = &self.cells[position];
            if let Some(other) = known.insert(&cell.settings, &cell.id) {
                let spot = Spot::Value(FilePath::root().key("include").index(i));
                let help = Some("`repeat` measures a cell more than once".into());
                self.sink.push(&spot, format!("the same cell as `{other}`"), help);
            }
        }
    }

    /// Adds one cell, unless it is excluded or cannot be.
    fn cell(&mut self, points: &[&'a Point], excludable: bool) {
        let mut settings = self.file.settings.clone();
        for point in points {
            point.apply(&mut settings);
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
        let assignments: Vec<_> = points.iter().flat_map(|point| &point.assignments).collect();
        let id = identity(&assignments);
        for problem in settings.check() {
            self.problem(&problem, &assignments, &id);
        }
        let axes = assignments.iter().map(|a| (a.setting.path().to_string(), a.text.to_string())).collect();
        self.cells.push(Cell { id, index: self.cells.len(), axes, settings });
    }

    /// Reports a problem where its most likely culprit is set: by this cell, else for all cells.
    fn problem(&mut self, problem: &Problem, assignments: &[&Assignment], id: &str) {
        let root = FilePath::root();
        let paths = &problem.paths;
        let own = assignments.iter().find(|a| paths.iter().any(|path| path == a.setting.path()));
        let mut paths = paths.iter().map(|path| root.dotted(path));
        let culprit = paths.clone().next().unwrap_or_default();
        let written = paths.find(|path| self.file.document.get(path).is_some());
        let spot = match (own, written) {
            (Some(assignment), _) => Spot::Value(assignment.at.clone()),
            (None, Some(path)) => Spot::Value(path),
            (None, None) => Spot::File(culprit),
        };
        let cell = own.filter(|_| assignments.len() > 1).map(|_| format!("in the cell {id}"));
        let help = match (&problem.help, cell) {
            (Some(help), Some(cell)) => Some(format!("{help} ({cell})")),
            (help, cell) => help.clone().or(cell),
        };
        self.report(&spot, problem.message.clone(), help);
    }

    fn report(&mut self, spot: &Spot, message: String, help: Option<String>) {
        if self.reported.insert((spot.path().clone(), message.clone())) {
            self.sink.push(spot, message, help);
        }
    }

    /// Conditions that no cell meets are mistakes: nobody excludes or expects nothing.
    fn report_unmet(&mut self) {
        let root = FilePath::root();
        for (i, _) in self.excluding.iter().enumerate().filter(|(_, met)| !**met) {
            let help = Some("remove it, or correct its condition".into());
            self.sink.push(&Spot::Value(root.key("exclude").index(i)), "this excludes no cell", help);
        }
        if self.cells.is_empty() && self.sink.is_empty() {
            let spot = Spot::Key(root.key("exclude"));
            self.sink.push(&spot, "no cell is left", Some("exclude fewer, or add cells".into()));
        }
        if !self.sink.is_empty() {
            return;
        }
        for (i, _) in self.expecting.iter().enumerate().filter(|(_, met)| !**met) {
            let spot = Spot::Value(root.key("expect").index(i).key("where"));
            let message = format!("none of the {} cells meets this condition", self.cells.len());
            self.sink.push(&spot, message, Some("remove it, or correct its condition".into()));
        }
    }
}

/// A cell's identity from what distinguishes it, fit for a file name on every system: at most 120 characters
/// of letters, digits and `.,=_-`. Where writing a value so loses something, a hash of the value is added.
fn identity(assignments: &[&Assignment]) -> String {
    const LONGEST: usize = 120;
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
    if lossy || id.len() > LONGEST {
        let hash = Sha256::digest(exact.as_bytes());
        id.truncate(LONGEST - 9);
        let _ = write!(id, "-{:02x}{:02x}{:02x}{:02x}", hash[0], hash[1], hash[2], hash[3]);
    }
    id
}

impl Plan {
    /// A seed that is the same for the same cells.
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
