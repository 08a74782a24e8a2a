//! From the tree of a YAML document to a [`File`], piece by piece, so that one error does not hide another.

use super::{File, Order, Point};
use crate::matrix::{
    catalog,
    diagnostic::{FilePath, Segment},
    expect::{Expectation, Reference},
    expression::{Expression, ExpressionError},
    settings::{Settings, StressChange},
    typed::{self, Refusal, Refused, Skipped},
    yaml::{Document, Sink, Spot},
};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::{collections::HashSet, ptr, sync::Arc};

mod cells;

/// More cells than this are a mistake.
pub(crate) const MOST_CELLS: usize = 100_000;

/// Reads everything; what is wrong goes to the sink, and nothing is returned only then.
pub(super) fn file(document: &Arc<Document>, sink: &mut Sink<'_>) -> Option<File> {
    let root = FilePath::root();
    let Value::Object(keys) = &document.value else {
        let help = Some("it begins with a line like `name: my-matrix`".into());
        sink.push(&Spot::Value(root), "a matrix file is a mapping of keys to values", help);
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
    let order: Order = reader.optional("order").unwrap_or_default();
    let seed: Option<u64> = reader.optional("seed");
    if seed.is_some() && order == Order::AsWritten {
        let help = Some("write `order: shuffled`, or remove the seed".into());
        reader.sink.push(&Spot::Key(root.key("seed")), "a seed without a shuffled order has no effect", help);
    }
    let expect = reader.expectations();
    let reference = reader.optional::<Reference>("reference");
    reader.unknown_keys();
    if let Some(settings) = settings.as_ref().filter(|_| !reader.sink.is_empty()) {
        reader.check(settings, axes.iter().flat_map(|axis| &axis.points).chain(&include));
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

struct Reader<'a, 'd> {
    /// What has not been read.
    keys: Map<String, Value>,
    /// The keys that a file can have, as far as they have been asked for.
    known: Vec<&'static str>,
    sink: &'a mut Sink<'d>,
}

impl Reader<'_, '_> {
    /// Takes the value of one of the file's keys. A key without a value, all of its own keys perhaps
    /// commented out, says nothing.
    fn take(&mut self, key: &'static str) -> Option<Value> {
        self.known.push(key);
        self.keys.shift_remove(key).filter(|value| !value.is_null())
    }

    /// Reads a value. Whatever stands in the way is reported and skipped, and the rest read again, so that
    /// every key's error is found.
    fn value<T: DeserializeOwned>(&mut self, value: &Value, at: &FilePath) -> Option<T> {
        self.attempt(value, at, |skipped| typed::read(value, at, skipped))
    }

    /// Reads a value that is at `at` as [`Reader::value`] does, with any function.
    fn attempt<T>(
        &mut self,
        value: &Value,
        at: &FilePath,
        mut read: impl FnMut(&Skipped) -> Result<T, Refused>,
    ) -> Option<T> {
        let mut skipped = Skipped::default();
        loop {
            let Refused { at: place, refusal } = match read(&skipped) {
                Ok(value) => return Some(value),
                Err(refused) => refused,
            };
            let culprit = match &refusal {
                Refusal::Key { found, .. } => place.key(found),
                _ => place,
            };
            let below = culprit.segments().get(at.segments().len()..).unwrap_or_default();
            let written = below.iter().try_fold(value, |value, step| step.of(value)).unwrap_or(value);
            // What is skipped is missing, but its author did write it.
            let is_skipped = match &refusal {
                Refusal::Missing(key) => written.get(key).is_some_and(|value| skipped.has(value)),
                _ => false,
            };
            if !is_skipped {
                self.report(&culprit, written, &refusal);
            }
            if ptr::eq(written, value) || !skipped.insert(written) {
                return None;
            }
        }
    }

    /// Reports why a value is refused.
    fn report(&mut self, culprit: &FilePath, written: &Value, refusal: &Refusal) {
        if let (Refusal::Other(_), Some(Segment::Key(key)), Value::String(text)) =
            (refusal, culprit.segments().last(), written)
            && key == "where"
            && self.expression(text, culprit).is_none()
        {
            // The message is an expression's own, which says which part of the text is wrong.
            return;
        }
        let is_key = matches!(refusal, Refusal::Key { .. });
        let (message, help) = match is_key.then(|| unchangeable(culprit)).flatten() {
            Some((message, help)) => (message, Some(help)),
            None => (refusal.to_string(), catalog::help(refusal)),
        };
        let spot = if is_key { Spot::Key(culprit.clone()) } else { Spot::Value(culprit.clone()) };
        self.sink.push(&spot, message, help);
    }

    fn settings(&mut self) -> Option<Settings> {
        let mut sections = Map::new();
        for section in Settings::SECTIONS {
            sections.extend(self.take(section).map(|value| (section.to_string(), value)));
        }
        self.value(&Value::Object(sections), &FilePath::root())
    }

    /// Reports the keys that nothing has asked for.
    fn unknown_keys(&mut self) {
        for (key, _) in std::mem::take(&mut self.keys).into_iter().filter(|(_, value)| !value.is_null()) {
            let path = FilePath::root().key(&key);
            let help = catalog::help_with_key(&key, &self.known);
            self.sink.push(&Spot::Key(path), format!("unknown key `{key}`"), Some(help));
        }
    }

    /// Reports what is wrong with the shared settings, as far as no axis can change it. Expansion does this
    /// for each cell, but a file with other errors is not expanded.
    fn check<'p>(&mut self, settings: &Settings, points: impl Iterator<Item = &'p Point>) {
        let varied: HashSet<&str> =
            points.flat_map(|point| &point.assignments).map(|assignment| assignment.setting.path()).collect();
        for problem in settings.check() {
            if problem.paths.iter().any(|path| varied.contains(path.as_str())) {
                continue;
            }
            let mut paths = problem.paths.iter().map(|path| FilePath::root().dotted(path));
            let Some(path) = paths.find(|path| self.sink.document.get(path).is_some()) else { continue };
            let spot = Spot::Value(path);
            // What lacks the part that was reported and taken out, perhaps only because of that.
            if !self.sink.has_below(spot.path()) {
                self.sink.push(&spot, problem.message, problem.help);
            }
        }
    }

    fn optional<T: DeserializeOwned>(&mut self, key: &'static str) -> Option<T> {
        let value = self.take(key)?;
        self.value(&value, &FilePath::root().key(key))
    }

    fn name(&mut self) -> Option<String> {
        let path = FilePath::root().key("name");
        let help = Some("add a line like `name: my-matrix`".into());
        let Some(name) = self.take("name") else {
            self.sink.push(&Spot::File(path), "the matrix has no `name`", help);
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
        let help = "a name is up to 64 letters, digits, `.`, `_` and `-`, the first a letter or digit";
        self.sink.push(&Spot::Value(path), format!("`{name}` cannot name a folder"), Some(help.into()));
        None
    }

    fn repeat(&mut self) -> u32 {
        let repeat = self.optional("repeat").unwrap_or(1);
        if !(1..=1000).contains(&repeat) {
            let spot = Spot::Value(FilePath::root().key("repeat"));
            let message = format!("each cell cannot be measured {repeat} times");
            self.sink.push(&spot, message, Some("write a number from 1 to 1000".into()));
        }
        repeat
    }

    fn expression(&mut self, text: &str, path: &FilePath) -> Option<Expression> {
        text.parse()
            .map_err(|error: ExpressionError| {
                let spot = Spot::Within(path.clone(), error.offset, error.length);
                self.sink.push(&spot, error.message, error.help);
            })
            .ok()
    }

    /// The items of a list.
    fn list(&mut self, key: &'static str) -> Vec<Value> {
        match self.take(key) {
            None => Vec::new(),
            Some(Value::Array(items)) => items,
            Some(_) => {
                let spot = Spot::Value(FilePath::root().key(key));
                self.sink.push(&spot, format!("`{key}` is a list"), Some("begin each item with `- `".into()));
                Vec::new()
            }
        }
    }

    fn expectations(&mut self) -> Vec<Expectation> {
        let at = FilePath::root().key("expect");
        let mut expectations = Vec::new();
        for (i, item) in self.list("expect").into_iter().enumerate() {
            let at = at.index(i);
            let Some(expectation) = self.value::<Expectation>(&item, &at) else { continue };
            if expectation.is_empty() && self.sink.document.has_only(&at, &["where"]) {
                let help =
                    Some("add an `outcome`, or bounds of `downtime`, `total_time` or `transferred`".into());
                self.sink.push(&Spot::Value(at), "this expects nothing", help);
            }
            expectations.push(expectation);
        }
        expectations
    }
}

/// What to say of a key of a timeline that is a setting, but not one that a timeline can change.
fn unchangeable(path: &FilePath) -> Option<(String, String)> {
    let at = path.segments().iter().rposition(|step| *step == Segment::Key("timeline".into()))?;
    // The timeline itself may be an item of an axis.
    let below = &path.segments()[at + 1..];
    let mut keys = Vec::new();
    for step in below {
        if let Segment::Key(key) = step {
            keys.push(key.as_str());
        }
    }
    let help = match keys[..] {
        [section] if catalog::is_section(section) => "`link` and `stress` can".into(),
        ["stress", name] if catalog::find(&format!("stress.{name}")).is_some() => {
            format!("of the load, {} can; the memory stays as it is", StressChange::KEYS)
        }
        _ => return None,
    };
    Some((format!("`{}` cannot change in the middle of a migration", keys.join(".")), help))
}
