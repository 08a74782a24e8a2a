//! Converts the tree of a YAML document to a [`File`], key by key, so that one error does not hide another.

use super::{CellOrder, File, Overrides};
use crate::matrix::{
    catalog,
    diagnostic::{KeyPath, Segment},
    expect::{Expectation, Reference},
    expression::{Expression, ExpressionError},
    settings::{Settings, StressChange},
    typed::{self, ReadError, ReadErrorKind, SkippedValues},
    yaml::{DiagnosticSink, Document, Location},
};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::{collections::HashSet, ptr, sync::Arc};

mod cells;

/// The largest number of cells that the axes of a matrix may combine to. More are considered a mistake.
pub(crate) const MAX_CELLS: usize = 100_000;

/// The largest number of attempts for each cell.
pub(crate) const MAX_REPEAT: u32 = 1000;

/// The largest number of items of `exclude`, and of `expect`.
const MAX_CONDITIONS: usize = 1000;

/// Reads a whole matrix file and reports every error to `sink`. Returns nothing only if it reported an error.
pub(super) fn file(document: &Arc<Document>, sink: &mut DiagnosticSink<'_>) -> Option<File> {
    let root = KeyPath::root();
    let Value::Object(keys) = &document.value else {
        let help = Some("start it with a line like `name: my-matrix`".into());
        sink.push(&Location::Value(root), "a matrix file must be a mapping of keys to values", help);
        return None;
    };
    let mut reader = Reader { keys: keys.clone(), known: Vec::new(), sink };
    let name = reader.name();
    let description = reader.optional("description");
    let settings = reader.settings();
    let axes = reader.axes();
    let include = reader.include();
    let exclude = reader.exclude();
    let repeat = reader.repeat();
    let order: CellOrder = reader.optional("order").unwrap_or_default();
    let seed: Option<u64> = reader.optional("seed");
    if seed.is_some() && order == CellOrder::AsWritten {
        let help = Some("set `order: shuffled`, or remove `seed`".into());
        let message = "`seed` has no effect without `order: shuffled`";
        reader.sink.push(&Location::Key(root.key("seed")), message, help);
    }
    let expect = reader.expectations();
    let reference = reader.optional::<Reference>("reference");
    reader.unknown_keys();
    if let Some(settings) = settings.as_ref().filter(|_| !reader.sink.is_empty()) {
        reader.check(settings, axes.iter().flat_map(|axis| &axis.values).chain(&include));
    }
    Some(File {
        name: name?,
        description,
        settings: settings?,
        axes,
        include,
        exclude,
        repeat,
        order,
        seed,
        expect,
        reference,
        document: document.clone(),
    })
}

/// A matrix file that is being read.
struct Reader<'a, 'd> {
    /// The top-level keys of the file that have not been read yet.
    keys: Map<String, Value>,
    /// The top-level keys that have been requested; in the end, all that a file may have.
    known: Vec<&'static str>,
    sink: &'a mut DiagnosticSink<'d>,
}

impl Reader<'_, '_> {
    /// Takes the value of a top-level key. A key without a value counts as absent: the author may have
    /// commented out everything below it.
    fn take(&mut self, key: &'static str) -> Option<Value> {
        self.known.push(key);
        self.keys.shift_remove(key).filter(|value| !value.is_null())
    }

    /// Reads a value. If a part of it is invalid, reports that part, skips it and reads the value again, so
    /// that every error in it is found.
    fn value<T: DeserializeOwned>(&mut self, value: &Value, at: &KeyPath) -> Option<T> {
        self.value_with(value, at, |skipped| typed::read(value, at, skipped))
    }

    /// Reads the value at path `at` with the function `read`, skipping invalid parts like [`Reader::value`].
    fn value_with<T>(
        &mut self,
        value: &Value,
        at: &KeyPath,
        mut read: impl FnMut(&SkippedValues) -> Result<T, ReadError>,
    ) -> Option<T> {
        let mut skipped = SkippedValues::default();
        loop {
            let ReadError { at: path, kind } = match read(&skipped) {
                Ok(value) => return Some(value),
                Err(error) => error,
            };
            let culprit = match &kind {
                ReadErrorKind::UnknownKey { found, .. } => path.key(found),
                _ => path,
            };
            let below = culprit.segments().get(at.segments().len()..).unwrap_or_default();
            let written = below.iter().try_fold(value, |value, step| step.of(value)).unwrap_or(value);
            // A key that was skipped looks missing now, but its author did write it.
            let is_skipped = match &kind {
                ReadErrorKind::MissingKey(key) => {
                    written.get(key).is_some_and(|value| skipped.contains(value))
                }
                _ => false,
            };
            if !is_skipped && self.sink.is_full() {
                if self.sink.omit() {
                    return None;
                }
            } else if !is_skipped {
                self.report(&culprit, written, &kind);
            }
            if ptr::eq(written, value) || !skipped.insert(written) {
                return None;
            }
        }
    }

    /// Reports why the value `written`, at path `culprit`, is invalid.
    fn report(&mut self, culprit: &KeyPath, written: &Value, kind: &ReadErrorKind) {
        if let (ReadErrorKind::Other(_), Some(Segment::Key(key)), Value::String(text)) =
            (kind, culprit.segments().last(), written)
            && matches!(key.as_str(), "where" | "relative_to")
            && self.expression(text, culprit).is_none()
        {
            // `expression` has already reported the error and its position in the text.
            return;
        }
        let is_key = matches!(kind, ReadErrorKind::UnknownKey { .. });
        let unchangeable = is_key.then(|| unchangeable(culprit)).flatten();
        let (message, help) = if let Some((message, help)) = unchangeable {
            (message, Some(help))
        } else {
            let absent = || catalog::help_with_absence(written.as_str()?, culprit);
            (kind.to_string(), catalog::help(kind, culprit).or_else(absent))
        };
        let location = if is_key { Location::Key(culprit.clone()) } else { Location::Value(culprit.clone()) };
        self.sink.push(&location, message, help);
    }

    fn settings(&mut self) -> Option<Settings> {
        let (mut sections, mut single) = (Map::new(), Vec::new());
        for section in Settings::SECTIONS {
            let Some(value) = self.take(section) else { continue };
            match catalog::find(section).filter(|_| !value.is_object()) {
                Some(setting) => single.push((section, setting, value)),
                None => drop(sections.insert(section.to_string(), value)),
            }
        }
        let (sections, root) = (Value::Object(sections), KeyPath::root());
        let mut settings: Settings =
            self.value_with(&sections, &root, |skipped| typed::read_settings(&sections, &root, skipped))?;
        for (section, setting, value) in single {
            let at = root.key(*section);
            self.value_with(&value, &at, |skipped| setting.read(&mut settings, &value, &at, skipped))?;
        }
        Some(settings)
    }

    /// Reports the top-level keys that a matrix file does not have.
    fn unknown_keys(&mut self) {
        for (key, _) in std::mem::take(&mut self.keys).into_iter().filter(|(_, value)| !value.is_null()) {
            if self.sink.is_full() {
                self.sink.omit();
                continue;
            }
            let path = KeyPath::root().key(&key);
            let help = catalog::help_with_key(&key, &self.known, None);
            self.sink.push(&Location::Key(path), format!("unknown key `{key}`"), Some(help));
        }
    }

    /// Reports contradictions among the shared settings that no axis or `include` can resolve. Expansion
    /// would check every cell in the same way, but a file with other errors is not expanded.
    fn check<'p>(&mut self, settings: &Settings, varied: impl Iterator<Item = &'p Overrides>) {
        let assignments = varied.flat_map(|overrides| &overrides.assignments);
        let varied: HashSet<&str> = assignments.map(|assignment| assignment.setting.path()).collect();
        for error in settings.check() {
            if error.paths.iter().any(|path| varied.contains(path.as_str())) {
                continue;
            }
            let mut paths = error.paths.iter().map(|path| KeyPath::root().dotted(path));
            let Some(path) = paths.find(|path| self.sink.document.get(path).is_some()) else { continue };
            let location = Location::Value(path);
            // Where an invalid part was reported and skipped, this error may only be a consequence of that.
            if !self.sink.has_below(location.path()) {
                self.sink.push(&location, error.message, error.help);
            }
        }
    }

    fn optional<T: DeserializeOwned>(&mut self, key: &'static str) -> Option<T> {
        let value = self.take(key)?;
        self.value(&value, &KeyPath::root().key(key))
    }

    fn name(&mut self) -> Option<String> {
        let path = KeyPath::root().key("name");
        let help = Some("add a line like `name: my-matrix`".into());
        let Some(name) = self.take("name") else {
            self.sink.push(&Location::File(path), "the matrix has no `name`", help);
            return None;
        };
        let name: String = self.value(&name, &path)?;
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        let sound = name.chars().all(allowed)
            && name.starts_with(|c: char| c.is_ascii_alphanumeric())
            && name.len() <= 64;
        if sound {
            return Some(name);
        }
        let help = "it names the results folder: use up to 64 letters, digits, `.`, `_` and `-`, and start \
                    with a letter or digit";
        self.sink.push(&Location::Value(path), format!("`{name}` is not a valid name"), Some(help.into()));
        None
    }

    fn repeat(&mut self) -> u32 {
        let repeat = self.optional("repeat").unwrap_or(1);
        if !(1..=MAX_REPEAT).contains(&repeat) {
            let location = Location::Value(KeyPath::root().key("repeat"));
            let message = format!("a cell cannot be measured {repeat} times");
            self.sink.push(&location, message, Some(format!("write a number from 1 to {MAX_REPEAT}")));
        }
        repeat
    }

    fn expression(&mut self, text: &str, path: &KeyPath) -> Option<Expression> {
        text.parse()
            .map_err(|error: ExpressionError| {
                let location = Location::Within(path.clone(), error.offset, error.length);
                self.sink.push(&location, error.message, error.help);
            })
            .ok()
    }

    /// Takes the items of a top-level key whose value is a list.
    fn list(&mut self, key: &'static str) -> Vec<Value> {
        match self.take(key) {
            None => Vec::new(),
            // Each is compared with each cell.
            Some(Value::Array(items)) if items.len() > MAX_CONDITIONS && key != "include" => {
                let location = Location::Key(KeyPath::root().key(key));
                let help = Some("join conditions with `or`, or split the matrix into several files".into());
                self.sink.push(&location, format!("`{key}` has more than {MAX_CONDITIONS} items"), help);
                Vec::new()
            }
            Some(Value::Array(items)) => items,
            Some(_) => {
                let location = Location::Value(KeyPath::root().key(key));
                let help = Some("begin each item with `- `".into());
                self.sink.push(&location, format!("`{key}` must be a list"), help);
                Vec::new()
            }
        }
    }

    fn expectations(&mut self) -> Vec<Expectation> {
        let at = KeyPath::root().key("expect");
        let mut expectations = Vec::new();
        for (i, item) in self.list("expect").into_iter().enumerate() {
            let at = at.index(i);
            let Some(expectation) = self.value::<Expectation>(&item, &at) else { continue };
            if expectation.is_empty() && self.sink.document.has_only(&at, &["where", "relative_to"]) {
                let help =
                    Some("add an `outcome`, or bounds on `downtime`, `total_time` or `transferred`".into());
                self.sink.push(&Location::Value(at), "this expects neither an outcome nor bounds", help);
            } else {
                self.comparison(&expectation, &at);
            }
            expectations.push(expectation);
        }
        expectations
    }

    /// Reports bounds that are percentages without a baseline, or bounds that need no baseline although one
    /// is given.
    fn comparison(&mut self, expectation: &Expectation, at: &KeyPath) {
        if self.sink.has_below(at) {
            return;
        }
        let compares = expectation.relative_to.is_some();
        let (message, help) = if compares {
            let help = "write it like `< 100%`, or move it to an entry without `relative_to`";
            ("with `relative_to`, a bound must be a percentage of the baseline", help)
        } else {
            let help = "add a condition that selects the cells to compare with, such as `relative_to: \
                        storage == block`, or write the bound with a unit";
            ("this percentage has no baseline", help)
        };
        for subject in expectation.subjects(!compares) {
            self.sink.push(&Location::Value(at.key(subject.name())), message, Some(help.into()));
        }
        if compares && expectation.subjects(true).chain(expectation.subjects(false)).next().is_none() {
            let help = Some("add a bound such as `total_time: < 100%`, or remove `relative_to`".into());
            let location = Location::Key(at.key("relative_to"));
            self.sink.push(&location, "`relative_to` has no bounds that compare figures", help);
        }
    }
}

/// Returns the message and the help for a key of a timeline that is a setting, but not one that can change
/// during a migration. Returns nothing for other keys.
fn unchangeable(path: &KeyPath) -> Option<(String, String)> {
    let at = path.segments().iter().rposition(|step| *step == Segment::Key("timeline".into()))?;
    // The timeline itself may be an item of an axis.
    let below = &path.segments()[at + 1..];
    let keys: Vec<&str> = below.iter().filter_map(Segment::as_key).collect();
    let help = match keys[..] {
        [section] if catalog::is_section(section) => "a timeline can change `link` and `stress`".into(),
        ["stress", name] if catalog::find(&format!("stress.{name}")).is_some() => {
            format!("under `stress`, a timeline can change {}; the memory stays as it is", StressChange::KEYS)
        }
        _ => return None,
    };
    Some((format!("`{}` cannot change during a migration", keys.join(".")), help))
}
