//! The preview of a run: every cell with its predicted result, or with the reason why it would be skipped. It
//! is shown as a table, or written as JSON for programs, in which quantities are numbers and their names
//! contain the unit.

use crate::{
    layout::{self, Column, Content, Table},
    matrix::{Cell, Plan, RunOrder, SettingNumbers, Settings},
    measure::round_micros,
    outcome::Outcome,
    predict::precopy::{self, Prediction},
};
use frontend::one_line;
use indexmap::IndexMap;
use serde::{Serialize, Serializer};
use std::fmt::Write as _;
use units::{Span, counted, numbers};

/// The preview of a run. Its serialization has every detail; [`Preview::table`] is its form for people.
#[derive(Debug, Clone, Serialize)]
pub struct Preview {
    /// The name of the matrix.
    pub name: String,
    /// The number of attempts at each cell.
    pub repeat: u32,
    /// The order of the attempts.
    pub order: RunOrder,
    /// The number of migrations in the run, not counting skipped cells.
    pub migrations: usize,
    /// The predicted duration of all migrations together, not counting the time for booting guests.
    #[serde(rename = "migrating_ms", serialize_with = "numbers::millis")]
    pub migrating: Span,
    /// The cells, in the order of the matrix.
    pub cells: Vec<PreviewCell>,
}

/// The preview of one cell.
#[derive(Debug, Clone)]
pub struct PreviewCell {
    /// The cell's id, unique within the matrix.
    pub id: String,
    /// The axes with the cell's values, which distinguish it from the others.
    pub axes: IndexMap<String, String>,
    /// All settings of the cell.
    pub settings: Settings,
    /// The reason why the cell would be skipped; absent if it would be attempted.
    pub skipped: Option<String>,
    /// The model's prediction; absent if the cell would be skipped, or if the model does not cover it.
    pub predicted: Option<Prediction>,
}

impl Serialize for PreviewCell {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct CellJson<'a> {
            id: &'a str,
            axes: &'a IndexMap<String, String>,
            axes_as_numbers: SettingNumbers<'a>,
            settings: &'a Settings,
            settings_as_numbers: SettingNumbers<'a>,
            skipped: Option<&'a str>,
            predicted: Option<PredictionJson>,
        }
        let Self { id, axes, settings, skipped, predicted } = self;
        CellJson {
            id,
            axes,
            axes_as_numbers: SettingNumbers::of_axes(settings, axes),
            settings,
            settings_as_numbers: SettingNumbers::of_all(settings),
            skipped: skipped.as_deref(),
            predicted: predicted.map(Into::into),
        }
        .serialize(serializer)
    }
}

/// A prediction with the field names of a record's figures.
#[derive(Serialize)]
struct PredictionJson {
    outcome: Outcome,
    reason: Option<precopy::Reason>,
    total_time_ms: f64,
    downtime_ms: Option<f64>,
    transferred_bytes: u64,
    passes: u32,
}

impl From<Prediction> for PredictionJson {
    fn from(predicted: Prediction) -> Self {
        let Prediction { outcome, reason, total_time, downtime, transferred, passes } = predicted;
        Self {
            outcome,
            reason,
            total_time_ms: round_micros(total_time.as_millis_f64()),
            downtime_ms: downtime.map(|time| round_micros(time.as_millis_f64())),
            transferred_bytes: transferred.get(),
            passes,
        }
    }
}

impl Preview {
    /// Predicts every cell of a plan. `would_skip` returns the reason why a cell would be skipped, or nothing
    /// if it would be attempted.
    pub fn new(plan: &Plan, would_skip: impl Fn(&Cell) -> Option<String>) -> Self {
        let cells: Vec<_> = plan
            .cells
            .iter()
            .map(|cell| {
                let skipped = would_skip(cell);
                let predicted = if skipped.is_some() { None } else { precopy::predict(&cell.settings) };
                let Cell { id, axes, settings, .. } = cell.clone();
                PreviewCell { id, axes, settings, skipped, predicted }
            })
            .collect();
        let times = cells.iter().filter_map(|cell| cell.predicted).map(|p| p.total_time.as_nanos());
        let once = times.fold(0u64, u64::saturating_add);
        Self {
            name: plan.name.clone(),
            repeat: plan.repeat,
            order: plan.order,
            migrations: cells.iter().filter(|cell| cell.skipped.is_none()).count() * plan.repeat as usize,
            migrating: Span::from_nanos(once.saturating_mul(plan.repeat.into())),
            cells,
        }
    }

    fn columns(&self) -> indexmap::IndexSet<&str> {
        self.cells.iter().flat_map(|cell| cell.axes.keys().map(String::as_str)).collect()
    }

    /// Returns the preview as a table, folded to a terminal of this width if given, and a summary.
    pub fn table(&self, width: Option<usize>) -> String {
        let axes = self.columns();
        let names: Vec<&str> = if axes.is_empty() { vec!["cell"] } else { axes.iter().copied().collect() };
        let figures_from = names.len() + 1;
        let any_skipped = self.cells.iter().any(|cell| cell.skipped.is_some());
        let reason = any_skipped.then_some("reason");
        let columns = names.into_iter().chain(COLUMNS).chain(reason).enumerate().map(|(at, header)| {
            let content = match at {
                at if at + 1 < figures_from => Content::Key,
                at if (figures_from..figures_from + COLUMNS.len() - 1).contains(&at) => Content::Number,
                _ => Content::Words,
            };
            Column { header: header.to_owned(), content }
        });
        let rows = self.cells.iter().map(|cell| {
            let mut row: Vec<String> = if axes.is_empty() {
                vec![one_line(&cell.id)]
            } else {
                axes.iter()
                    .map(|path| cell.axes.get(*path).map_or_else(String::new, |value| one_line(value)))
                    .collect()
            };
            match (&cell.skipped, &cell.predicted) {
                (Some(_), _) => {
                    row.push(Outcome::Skipped.to_string());
                    row.extend(std::iter::repeat_n("-".into(), COLUMNS.len() - 1));
                }
                (None, Some(predicted)) => row.extend(figures(predicted)),
                (None, None) => {
                    row.push("not modelled".into());
                    row.extend(std::iter::repeat_n("-".into(), COLUMNS.len() - 1));
                }
            }
            row.extend(any_skipped.then(|| cell.skipped.clone().unwrap_or_default()));
            row
        });
        let table = Table { columns: columns.collect(), rows: rows.collect() };
        table.draw(width) + "\n" + &layout::fold(&self.summary(), width)
    }

    /// Returns the numbers of cells and migrations, and the time that they are predicted to take.
    fn summary(&self) -> String {
        let mut text = counted(self.cells.len(), "cell");
        let skipped = self.cells.iter().filter(|cell| cell.skipped.is_some()).count();
        if skipped > 0 {
            let _ = match self.cells.len() {
                1 => write!(text, ", which is skipped"),
                _ => write!(text, ", {skipped} of them skipped"),
            };
        }
        if self.repeat > 1 {
            let _ = write!(text, ", {} times each", self.repeat);
        }
        if let RunOrder::Shuffled { seed } = self.order {
            let _ = write!(text, ", shuffled by seed {seed}");
        }
        let migrations = counted(self.migrations, "migration");
        let time = match self.migrating.as_secs_f64() {
            seconds if seconds < 10.0 => format!("{seconds:.1} s"),
            _ => layout::about(self.migrating.into()),
        };
        let uncovered = self.cells.iter().filter(|c| c.skipped.is_none() && c.predicted.is_none()).count();
        let uncovered = match uncovered * self.repeat as usize {
            0 => String::new(),
            count if count == self.migrations => {
                return format!("{text}: {migrations}, which the model does not cover\n");
            }
            count => format!(", without {count} that the model does not cover"),
        };
        format!("{text}: {migrations}, predicted to take {time} in total{uncovered}\n")
    }
}

/// The columns after the axes: the outcome, then the figures.
const COLUMNS: [&str; 5] = ["predicted", "time", "downtime", "data", "passes"];

/// Returns a prediction as text, one entry for each of [`COLUMNS`].
fn figures(predicted: &Prediction) -> [String; 5] {
    [
        predicted.outcome.to_string(),
        match predicted.total_time.as_secs_f64() {
            seconds if seconds < 3600.0 => format!("{seconds:.1} s"),
            _ => layout::about(predicted.total_time.into()),
        },
        predicted.downtime.map_or_else(|| "-".into(), |time| format!("{:.0} ms", time.as_millis_f64())),
        match predicted.transferred.as_mb() {
            megabytes if megabytes < 1e5 => format!("{megabytes:.0} MB"),
            _ => predicted.transferred.rounded().to_string(),
        },
        predicted.passes.to_string(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::File;

    fn plan() -> Plan {
        let text = "name: n\nguest: { ballast: 360MiB }\nlink: { rate: 928mbit }\n\
                    migrate: { downtime_limit: 100ms }\n\
                    axes: { stress.rate: [0, 64MB/s, 128MB/s], guest.accel: [kvm, tcg] }\nrepeat: 2\n";
        File::parse(text, "n").and_then(|file| file.expand()).unwrap_or_else(|e| panic!("{e}"))
    }

    fn no_kvm(cell: &Cell) -> Option<String> {
        (cell.settings.guest.accel == crate::matrix::Accel::Kvm).then(|| "KVM does not work".into())
    }

    #[test]
    fn the_table_shows_predictions_and_reasons_for_skipping() {
        let text = Preview::new(&plan(), no_kvm).table(None);
        let expected = [
            " stress.rate  guest.accel  predicted        time  downtime     data  passes  reason",
            " 0            kvm          skipped             -         -        -       -  KVM does not work",
            " 0            tcg          converged       4.2 s     75 ms   468 MB       2",
            " 64MB/s       kvm          skipped             -         -        -       -  KVM does not work",
            " 64MB/s       tcg          converged       6.1 s     97 ms   681 MB       8",
            " 128MB/s      kvm          skipped             -         -        -       -  KVM does not work",
            " 128MB/s      tcg          not-converged  15.1 s         -  1674 MB      10",
            "",
            "6 cells, 3 of them skipped, 2 times each: 6 migrations, predicted to take 51 s in total",
        ];
        let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
        assert_eq!(lines, expected, "{text}");
    }

    #[test]
    fn a_migration_that_the_model_does_not_cover_has_no_prediction() {
        let text = "name: n\naxes: { migrate.xbzrle: [false, true] }\nrepeat: 3\n";
        let plan = File::parse(text, "n").and_then(|file| file.expand()).unwrap();
        let text = Preview::new(&plan, |_| None).table(None);
        let row = text.lines().nth(2).unwrap().split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(row, "true not modelled - - - -", "{text}");
        assert!(text.ends_with("in total, without 3 that the model does not cover\n"), "{text}");
        let text = "name: n\naxes: { link.delay: [0, 40ms] }\nlink: { rate: 1gbit, tcp_tuning: false }\n";
        let plan = File::parse(text, "n").and_then(|file| file.expand()).unwrap();
        let text = Preview::new(&plan, |_| None).table(None);
        assert!(text.contains(" 0           converged "), "{text}");
        assert!(text.contains(" 40ms        not modelled "), "{text}");
        let plan = File::parse("name: n\nmigrate: { xbzrle: true }\n", "n").and_then(|file| file.expand());
        let text = Preview::new(&plan.unwrap(), |_| None).table(None);
        assert!(text.ends_with("1 cell: 1 migration, which the model does not cover\n"), "{text}");
    }

    #[test]
    fn a_plan_of_one_cell_names_it() {
        let plan = File::parse("name: n\n", "n").and_then(|file| file.expand()).unwrap();
        let text = Preview::new(&plan, |_| None).table(None);
        assert!(text.lines().nth(1).unwrap().starts_with(" base  converged"), "{text}");
        assert!(text.ends_with("1 cell: 1 migration, predicted to take 0.1 s in total\n"), "{text}");
    }

    #[test]
    fn big_guests_and_long_migrations_are_readable() {
        let text = "name: n\nguest: { memory: 4TiB, ballast: 3TiB }\nlink: { rate: 1gbit }\n\
                    migrate: { timeout: 100h }\n";
        let plan = File::parse(text, "n").and_then(|file| file.expand()).unwrap_or_else(|e| panic!("{e}"));
        let text = Preview::new(&plan, |_| None).table(None);
        let row = text.lines().nth(1).unwrap();
        assert!(row.contains(" h ") && row.contains(" TB "), "{text}");
    }

    #[test]
    fn the_json_has_every_cell_in_full() {
        let preview = Preview::new(&plan(), no_kvm);
        let json = serde_json::to_value(&preview).unwrap();
        assert_eq!(json["cells"].as_array().unwrap().len(), 6);
        assert_eq!(json["cells"][0]["skipped"], "KVM does not work");
        assert_eq!(json["cells"][0]["predicted"], serde_json::Value::Null);
        assert_eq!(json["cells"][1]["predicted"]["outcome"], "converged");
        assert_eq!(json["cells"][5]["predicted"]["outcome"], "not-converged");
        assert_eq!(json["cells"][1]["settings"]["guest"]["ballast"], "360MiB");
        assert_eq!(json["cells"][1]["settings_as_numbers"]["guest.ballast_bytes"], 377_487_360);
        assert_eq!(json["cells"][5]["axes"]["stress.rate"], "128MB/s");
        assert_eq!(json["cells"][5]["axes_as_numbers"]["stress.rate_bytes_per_s"], 128_000_000);
        for name in ["total_time_ms", "downtime_ms", "transferred_bytes", "passes"] {
            assert!(json["cells"][1]["predicted"][name].is_number(), "{name}: {json:#}");
        }
        assert!(json["migrating_ms"].as_f64().unwrap() > 40_000.0, "{json:#}");
        assert_eq!(json["order"], "as-written");
    }
}
