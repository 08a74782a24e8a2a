//! From the tree of a YAML document to a [`File`], piece by piece, so that one error does not hide another.

use super::{Assignment, Axis, File, Order, Point};
use crate::matrix::{
    catalog::{Catalog, nearest, properties, resolve, text_of},
    diagnostic::{FilePath, Segment},
    expect::{Expectation, Reference},
    expression::{Expression, View},
    schema,
    settings::Settings,
    yaml::{Document, Sink, Spot},
};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use std::{collections::HashMap, sync::Arc};

/// The sections that make up [`Settings`].
const SECTIONS: [&str; 5] = ["guest", "link", "probe", "stress", "migrate"];

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
    let mut reader = Reader { keys, sink };

    let mut base = Map::new();
    for section in SECTIONS {
        let settings = reader.keys.get(section).cloned().unwrap_or_else(|| json!({}));
        base.insert(section.into(), settings);
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

struct Reader<'a, 'd> {
    keys: Map<String, Value>,
    sink: &'a mut Sink<'d>,
}

impl Reader<'_, '_> {
    /// Reads a value as a type. Whatever stands in the way is reported and taken out, and the rest read
    /// again, so that every key's error is found.
    fn value<T: DeserializeOwned>(&mut self, mut value: Value, at: &FilePath) -> Option<T> {
        loop {
            let error = match serde_path_to_error::deserialize::<_, T>(&value) {
                Ok(read) => return Some(read),
                Err(error) => error,
            };
            let (path, culprit) = find(&value, at, error.path());
            self.report(&path, culprit, &error.into_inner().to_string());
            let below = &path.segments()[at.segments().len()..];
            if !remove(&mut value, below) {
                return None;
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
            .map_err(|error: crate::matrix::ExpressionError| {
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

    fn axes(&mut self, base: &Map<String, Value>) -> Vec<Axis> {
        let at = FilePath::root().key("axes");
        let entries = match self.keys.get("axes") {
            None => return Vec::new(),
            Some(Value::Object(entries)) if !entries.is_empty() => entries.clone(),
            Some(Value::Object(_) | Value::Null) => {
                let help = Some("name a setting and list its values, or leave `axes` out".into());
                self.sink.push(&Spot::Key(at), "`axes` is empty", help);
                return Vec::new();
            }
            Some(_) => {
                let help = Some("write it like `stress.rate: [64MB/s, 96MB/s]`".into());
                self.sink.push(
                    &Spot::Value(at),
                    "`axes` is a mapping from settings to lists of values",
                    help,
                );
                return Vec::new();
            }
        };
        let mut set_by = HashMap::new();
        let mut found = Vec::new();
        for (name, values) in entries {
            let at = at.key(&name);
            let Some(axis) = self.axis(&name, values, &at, base) else { continue };
            let mut paths: Vec<_> =
                axis.points.iter().flat_map(|point| &point.assignments).map(|a| a.path.clone()).collect();
            paths.sort();
            paths.dedup();
            for path in paths {
                if let Some(other) = set_by.insert(path.clone(), name.clone()) {
                    let help = Some("vary it in one axis only".into());
                    let message = format!("`{path}` is already varied by the axis `{other}`");
                    self.sink.push(&Spot::Key(at.clone()), message, help);
                }
            }
            found.push(axis);
        }
        found
    }

    fn axis(&mut self, name: &str, values: Value, at: &FilePath, base: &Map<String, Value>) -> Option<Axis> {
        let catalog = Catalog::get();
        let is_setting = catalog.find(name).is_some();
        let is_bundle = !is_setting
            && !name.contains('.')
            && !catalog.is_section(name)
            && values.as_array().is_some_and(|values| values.iter().all(Value::is_object));
        if !is_setting && !is_bundle {
            let help = catalog.suggest(name).unwrap_or_else(|| {
                "an axis is named by a setting, like `stress.rate`, or lists mappings from settings to values"
                    .into()
            });
            self.sink.push(&Spot::Key(at.clone()), format!("`{name}` is not a setting"), Some(help));
            return None;
        }
        let Value::Array(values) = values else {
            let help = Some(format!("write it like `{name}: [...]`"));
            self.sink.push(&Spot::Value(at.clone()), "an axis is a list of values", help);
            return None;
        };
        if values.is_empty() {
            let help = Some("list at least one value, or leave the axis out".into());
            self.sink.push(&Spot::Value(at.clone()), format!("the axis `{name}` is empty"), help);
            return None;
        }
        let mut points: Vec<Point> = Vec::with_capacity(values.len());
        let mut seen = HashMap::new();
        let path: Arc<str> = name.into();
        for (i, value) in values.into_iter().enumerate() {
            let at = at.index(i);
            let point = if is_setting {
                self.assignment(&path, value, at.clone(), base).map(|a| Point { assignments: vec![a] })
            } else {
                self.point(value, &at, base)
            };
            let Some(point) = point else { continue };
            let mut key: Vec<_> =
                point.assignments.iter().map(|a| (a.path.clone(), a.text.clone())).collect();
            key.sort();
            if let Some(first) = seen.insert(key, i) {
                let message = format!("the same value as item {first} of this axis, counted from 0");
                self.sink.push(
                    &Spot::Value(at),
                    message,
                    Some("`repeat` measures a cell more than once".into()),
                );
            }
            points.push(point);
        }
        Some(Axis { name: name.into(), points })
    }

    fn include(&mut self, base: &Map<String, Value>) -> Vec<Point> {
        let at = FilePath::root().key("include");
        let items = self.list("include").into_iter().enumerate();
        items.filter_map(|(i, item)| self.point(item, &at.index(i), base)).collect()
    }

    /// A mapping from settings to values.
    fn point(&mut self, value: Value, at: &FilePath, base: &Map<String, Value>) -> Option<Point> {
        let entries = match value {
            Value::Object(entries) if !entries.is_empty() => entries,
            _ => {
                let help = Some("write it like `{ stress.rate: 96MB/s, link.delay: 20ms }`".into());
                self.sink.push(&Spot::Value(at.clone()), "expected a mapping from settings to values", help);
                return None;
            }
        };
        let count = entries.len();
        let assignments: Vec<_> = entries
            .into_iter()
            .filter_map(|(path, value)| {
                let at = at.key(&path);
                if Catalog::get().find(&path).is_some() {
                    return self.assignment(&path.into(), value, at, base);
                }
                let help = if Catalog::get().is_section(&path) {
                    Some(format!("write its settings one by one, like `{path}.NAME: VALUE`"))
                } else {
                    Catalog::get().suggest(&path)
                };
                self.sink.push(&Spot::Key(at), format!("`{path}` is not a setting"), help);
                None
            })
            .collect();
        (assignments.len() == count).then_some(Point { assignments })
    }

    /// One value of one setting, tried on the shared settings of its section.
    fn assignment(
        &mut self,
        path: &Arc<str>,
        mut value: Value,
        at: FilePath,
        base: &Map<String, Value>,
    ) -> Option<Assignment> {
        let (section, name) = path.split_once('.')?;
        if let Some(entry) = Catalog::get().find(path) {
            unknown_keys(schema::raw(), &entry.schema, &mut value, &at, self.sink);
        }
        let mut keys = base.get(section).and_then(Value::as_object).cloned().unwrap_or_default();
        keys.insert(name.into(), value.clone());
        let mut tried = Map::new();
        tried.insert(section.into(), keys.into());
        let tried = Value::Object(tried);
        let text = match serde_path_to_error::deserialize::<_, Settings>(&tried) {
            Ok(settings) => View::new(&settings).text(path)?,
            Err(error) => {
                let root = FilePath::root();
                let (found, culprit) = find(&tried, &root, error.path());
                let own = root.key(section).key(name);
                // A combination that does not hold together may do so with what another axis sets.
                if found.segments().starts_with(own.segments()) {
                    let below = &found.segments()[own.segments().len()..];
                    let at = below.iter().fold(at, |at, segment| at.with(segment.clone()));
                    self.report(&at, culprit, &error.into_inner().to_string());
                    return None;
                }
                text_of(&value)
            }
        };
        Some(Assignment { path: path.clone(), text: text.into(), value, at })
    }

    fn exclude(&mut self, base: &Map<String, Value>) -> Vec<Expression> {
        let at = FilePath::root().key("exclude");
        let mut conditions = Vec::new();
        for (i, item) in self.list("exclude").into_iter().enumerate() {
            let at = at.index(i);
            let condition = match item {
                Value::String(text) => self.expression(&text, &at),
                item => self.point(item, &at, base).and_then(|point| {
                    let equals = |a: &Assignment| format!("{} == '{}'", a.path, a.text);
                    let terms: Vec<_> = point.assignments.iter().map(equals).collect();
                    self.expression(&terms.join(" and "), &at)
                }),
            };
            conditions.extend(condition);
        }
        conditions
    }

    fn expectations(&mut self) -> Vec<Expectation> {
        let at = FilePath::root().key("expect");
        let mut expectations = Vec::new();
        for (i, item) in self.list("expect").into_iter().enumerate() {
            let at = at.index(i);
            let whole = item.clone();
            let Some(expectation) = self.value::<Expectation>(item, &at) else { continue };
            let only_where = whole.as_object().is_some_and(|keys| keys.keys().all(|key| key == "where"));
            if expectation.is_empty() && only_where {
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

/// Takes out the key a path leads to, or the list it leads into; not the whole value, nor a whole section.
fn remove(value: &mut Value, path: &[Segment]) -> bool {
    let depth = path.iter().take_while(|segment| matches!(segment, Segment::Key(_))).count();
    let Some((Segment::Key(last), parents)) = path[..depth].split_last() else { return false };
    let parent = parents.iter().try_fold(value, |value, segment| match segment {
        Segment::Key(key) => value.get_mut(key),
        Segment::Index(_) => None,
    });
    parent.and_then(Value::as_object_mut).is_some_and(|map| map.shift_remove(last).is_some())
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
    let message = message.replace("missing field", "missing key").replace("invalid type: ", "");
    match message.find("expected struct ") {
        Some(at) => (format!("{}expected a mapping of keys to values", &message[..at]), None),
        None => (message, None),
    }
}
