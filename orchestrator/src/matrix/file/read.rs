//! From the tree of a YAML document to a [`File`], piece by piece, so that one error does not hide another.

use super::{File, Order, Point};
use crate::matrix::{
    catalog::{Catalog, nearest, properties, resolve},
    diagnostic::{FilePath, Segment},
    expect::{Expectation, Reference},
    expression::{Expression, ExpressionError},
    schema,
    settings::{Settings, StressChange},
    yaml::{Document, Sink, Spot},
};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

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
    let mut keys = keys.clone();
    // A key without a value, all of its own keys perhaps commented out, says nothing; an axis must.
    keys.retain(|key, value| !value.is_null() || key == "axes");
    let mut value = Value::Object(keys);
    unknown_keys(schema::raw(), schema::raw(), &mut value, &root, sink);
    let Value::Object(keys) = value else { return None };
    let mut reader = Reader { keys, sink, printed: HashMap::new() };

    let mut base = Map::new();
    for section in Settings::SECTIONS {
        if let Some(settings) = reader.keys.get(section) {
            base.insert(section.into(), settings.clone());
        }
    }
    let settings = reader.value::<Settings>(Value::Object(base.clone()), &root);
    let name = reader.name();
    let description = reader.optional("description");
    let repeat = reader.repeat();
    let order: Order = reader.optional("order").unwrap_or_default();
    let seed: Option<u64> = reader.optional("seed");
    if seed.is_some() && order == Order::AsWritten {
        let help = Some("write `order: shuffled`, or remove the seed".into());
        reader.sink.push(&Spot::Key(root.key("seed")), "a seed without a shuffled order has no effect", help);
    }
    // Values of axes are tried on the shared settings. Where these are broken, on the defaults.
    if settings.is_none() || !reader.sink.is_empty() {
        let sound = settings.as_ref().and_then(|settings| serde_json::to_value(settings).ok());
        base = sound.and_then(|value| value.as_object().cloned()).unwrap_or_default();
    }
    let axes = reader.axes(&base);
    let include = reader.include(&base);
    let exclude = reader.exclude(&base);
    let expect = reader.expectations();
    let reference = reader.optional::<Reference>("reference");
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
        base,
        document: document.clone(),
    })
}

/// Reports and removes the keys that a schema does not know.
fn unknown_keys(root: &Value, schema: &Value, value: &mut Value, path: &FilePath, sink: &mut Sink<'_>) {
    match value {
        Value::Object(map) => {
            let known = properties(root, schema);
            if known.is_empty() {
                return;
            }
            map.retain(|key, value| {
                let path = path.key(key);
                if let Some((_, schema)) = known.iter().find(|(name, _)| name == key) {
                    unknown_keys(root, schema, value, &path, sink);
                    return true;
                }
                if let Some((message, help)) = fixed(&path) {
                    sink.push(&Spot::Key(path), message, Some(help));
                    return false;
                }
                let help = nearest(key, known.iter().map(|(name, _)| *name))
                    .map(|key| format!("the nearest known key is `{key}`"))
                    .or_else(|| Catalog::get().suggest(key))
                    .unwrap_or_else(|| {
                        let names: Vec<_> = known.iter().map(|(name, _)| *name).collect();
                        format!("the known keys are {}", names.join(", "))
                    });
                sink.push(&Spot::Key(path), format!("unknown key `{key}`"), Some(help));
                false
            });
        }
        Value::Array(items) => {
            let schemas = std::iter::once(resolve(root, schema));
            let alternatives = resolve(root, schema).get("anyOf").and_then(Value::as_array);
            let mut schemas = schemas.chain(alternatives.into_iter().flatten().map(|s| resolve(root, s)));
            if let Some(schema) = schemas.find_map(|schema| schema.get("items")) {
                for (i, item) in items.iter_mut().enumerate() {
                    unknown_keys(root, schema, item, &path.index(i), sink);
                }
            }
        }
        _ => {}
    }
}

/// What to say of a key of a timeline that is a setting, but not one that a timeline can change.
fn fixed(path: &FilePath) -> Option<(String, String)> {
    let at = path.segments().iter().rposition(|step| *step == Segment::Key(Settings::TIMELINE.into()))?;
    // The timeline itself may be an item of an axis.
    let below = &path.segments()[at + 1..];
    let mut keys = Vec::new();
    for step in below {
        if let Segment::Key(key) = step {
            keys.push(key.as_str());
        }
    }
    let help = match keys[..] {
        [section] if Catalog::get().is_section(section) => "`link` and `stress` can".into(),
        ["stress", name] if Catalog::get().find(&format!("stress.{name}")).is_some() => {
            format!("of the load, {} can; the memory stays as it is", StressChange::KEYS)
        }
        _ => return None,
    };
    Some((format!("`{}` cannot change in the middle of a migration", keys.join(".")), help))
}

struct Reader<'a, 'd> {
    keys: Map<String, Value>,
    sink: &'a mut Sink<'d>,
    /// How settings print the values seen so far, by path and the value as written.
    printed: HashMap<(Arc<str>, String), Arc<str>>,
}

impl Reader<'_, '_> {
    /// Reads a value as a type. Whatever stands in the way is reported and taken out, and the rest read
    /// again, so that every key's error is found.
    fn value<T: DeserializeOwned>(&mut self, mut value: Value, at: &FilePath) -> Option<T> {
        let mut taken = Taken::default();
        loop {
            let error = match serde_path_to_error::deserialize::<_, T>(&value) {
                Ok(read) => return Some(read),
                Err(error) => error,
            };
            let (found, culprit) = find(&value, at, error.path());
            let path = taken.original(&found);
            let message = error.into_inner().to_string();
            // What was taken out is missing, but its author did write it.
            let missing = message.strip_prefix("missing field `").and_then(|rest| rest.strip_suffix('`'));
            if !missing.is_some_and(|key| taken.keys.contains(&path.key(key))) {
                self.report(&path, culprit, &message);
            }
            if !take_out(&mut value, &found.segments()[at.segments().len()..]) {
                return None;
            }
            taken.keys.insert(path);
        }
    }

    /// Reports what is wrong with the shared settings, as far as no axis can change it. Expansion does this
    /// for each cell, but a file with other errors is not expanded.
    fn check<'p>(&mut self, settings: &Settings, points: impl Iterator<Item = &'p Point>) {
        let varied: HashSet<&str> =
            points.flat_map(|point| &point.assignments).map(|assignment| &*assignment.path).collect();
        let value = Value::Object(self.keys.clone());
        for problem in settings.check() {
            if problem.paths.iter().any(|path| varied.contains(path.as_str())) {
                continue;
            }
            let pointer = |path: &&String| value.pointer(&format!("/{}", path.replace('.', "/"))).is_some();
            let Some(path) = problem.paths.iter().find(pointer) else { continue };
            let spot = Spot::Value(FilePath::root().dotted(path));
            // What lacks the part that was reported and taken out, perhaps only because of that.
            if !self.sink.has_below(spot.path()) {
                self.sink.push(&spot, problem.message, problem.help);
            }
        }
    }

    fn report(&mut self, path: &FilePath, value: &Value, message: &str) {
        if let (Some(Segment::Key(key)), Value::String(text)) = (path.segments().last(), value)
            && key == "where"
        {
            self.expression(text, path);
            return;
        }
        let (message, help) = improve(message);
        self.sink.push(&Spot::Value(path.clone()), message, help);
    }

    fn optional<T: DeserializeOwned>(&mut self, key: &str) -> Option<T> {
        let value = self.keys.get(key)?.clone();
        self.value(value, &FilePath::root().key(key))
    }

    fn name(&mut self) -> Option<String> {
        let path = FilePath::root().key("name");
        let help = || Some("add a line like `name: my-matrix`".into());
        if !self.keys.contains_key("name") {
            self.sink.push(&Spot::File(path), "the matrix has no `name`", help());
            return None;
        }
        let name: String = self.optional("name")?;
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
    fn list(&mut self, key: &str) -> Vec<Value> {
        match self.keys.get(key) {
            None => Vec::new(),
            Some(Value::Array(items)) => items.clone(),
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
            let Some(expectation) = self.value::<Expectation>(item, &at) else { continue };
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

/// The longest part of an error's path that the value has, below `at`, and what is there.
fn find<'v>(value: &'v Value, at: &FilePath, path: &serde_path_to_error::Path) -> (FilePath, &'v Value) {
    let (mut found, mut current) = (at.clone(), value);
    for segment in path {
        let (next, segment) = match segment {
            serde_path_to_error::Segment::Seq { index } => (current.get(index), Segment::Index(*index)),
            serde_path_to_error::Segment::Map { key: name }
            | serde_path_to_error::Segment::Enum { variant: name } => {
                (current.get(name), Segment::Key(name.clone()))
            }
            serde_path_to_error::Segment::Unknown => break,
        };
        let Some(next) = next else { break };
        (found, current) = (found.with(segment), next);
    }
    (found, current)
}

/// What was taken out of a value, as paths in the file.
#[derive(Default)]
struct Taken {
    keys: HashSet<FilePath>,
}

impl Taken {
    /// The path in the file of what now has this path: items of lists have moved up.
    fn original(&self, path: &FilePath) -> FilePath {
        path.segments().iter().fold(FilePath::root(), |whole, segment| match segment {
            Segment::Key(key) => whole.key(key),
            Segment::Index(now) => {
                let mut left = (0..).filter(|index| !self.keys.contains(&whole.index(*index)));
                whole.index(left.nth(*now).unwrap_or(*now))
            }
        })
    }
}

/// Takes out the key or the item that a path leads to; not the whole value.
fn take_out(value: &mut Value, path: &[Segment]) -> bool {
    let Some((last, parents)) = path.split_last() else { return false };
    let parent = parents.iter().try_fold(value, |value, segment| match segment {
        Segment::Key(key) => value.get_mut(key),
        Segment::Index(index) => value.get_mut(index),
    });
    match (parent, last) {
        (Some(Value::Object(map)), Segment::Key(key)) => map.shift_remove(key).is_some(),
        (Some(Value::Array(items)), Segment::Index(index)) if *index < items.len() => {
            items.remove(*index);
            true
        }
        _ => false,
    }
}

/// Words for people in place of serde's, and help where its message lists what is accepted.
fn improve(message: &str) -> (String, Option<String>) {
    if let Some(rest) = message.strip_prefix("unknown variant `")
        && let Some((variant, list)) = rest.split_once('`')
    {
        let words: Vec<_> = list.split('`').skip(1).step_by(2).collect();
        let help = nearest(variant, words.iter().copied()).map(|word| format!("the nearest is `{word}`"));
        let words: Vec<_> = words.iter().map(|word| format!("`{word}`")).collect();
        return (format!("`{variant}` is not one of {}", words.join(", ")), help);
    }
    let mismatch = message.strip_prefix("invalid type: ").or_else(|| message.strip_prefix("invalid value: "));
    let Some((found, expected)) = mismatch.and_then(|rest| rest.split_once(", expected ")) else {
        return (message.replace("missing field", "missing key"), None);
    };
    let expected = match expected {
        "u32" | "u64" => "a whole number",
        "a boolean" => "`true` or `false`",
        name if name.starts_with("struct ") => "a mapping of keys to values",
        "a sequence" => "a list",
        other => other,
    };
    let found = match found {
        "sequence" => "a list".into(),
        "map" => "a mapping".into(),
        "null" | "unit value" => "nothing".into(),
        // `string "x"`, "integer `5`", and so on.
        other => other.split_once(' ').map_or(other, |(_, value)| value).replace('"', "`"),
    };
    (format!("expected {expected}, found {found}"), None)
}
