//! The part of a matrix file that says which cells there are: `axes`, `include` and `exclude`.

use super::{Reader, find, unknown_keys};
use crate::matrix::{
    catalog::{Catalog, set, text_of},
    diagnostic::FilePath,
    expression::{Expression, View},
    file::{Assignment, Axis, Point},
    schema,
    settings::Settings,
    yaml::Spot,
};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

impl Reader<'_, '_> {
    pub(super) fn axes(&mut self, base: &Map<String, Value>) -> Vec<Axis> {
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
            let help = if catalog.is_section(name) {
                format!("name one of its settings: `{name}.NAME`")
            } else {
                catalog.suggest(name).unwrap_or_else(|| {
                    "an axis is named by a setting, like `stress.rate`, or lists mappings from settings to \
                     values"
                        .into()
                })
            };
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
        let mut seen = HashSet::new();
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
            if !seen.insert(key) {
                let help = Some("`repeat` measures a cell more than once".into());
                self.sink.push(&Spot::Value(at), "this axis has the same value already", help);
            }
            points.push(point);
        }
        Some(Axis { name: name.into(), points })
    }

    pub(super) fn include(&mut self, base: &Map<String, Value>) -> Vec<Point> {
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
        let key = (path.clone(), value.to_string());
        if let Some(text) = self.printed.get(&key) {
            return Some(Assignment { path: path.clone(), text: text.clone(), value, at });
        }
        let section = path.split('.').next()?;
        let entry = Catalog::get().find(path)?;
        unknown_keys(schema::raw(), &entry.schema, &mut value, &at, self.sink);
        let mut tried: Map<_, _> =
            base.get_key_value(section).map(|(k, v)| (k.clone(), v.clone())).into_iter().collect();
        set(&mut tried, path, value.clone());
        let tried = Value::Object(tried);
        let text = if let Ok(settings) = Settings::deserialize(&tried) {
            View::new(&settings).text(entry)
        } else {
            self.refused(&tried, path, &at)?;
            text_of(&value)
        };
        let text: Arc<str> = text.into();
        self.printed.insert(key, text.clone());
        Some(Assignment { path: path.clone(), text, value, at })
    }

    /// Reports why settings cannot be read if that is the value at `path`, written at `at`. A combination that
    /// does not hold together may do so with what another axis sets, and is let pass.
    fn refused(&mut self, tried: &Value, path: &str, at: &FilePath) -> Option<()> {
        let Err(error) = serde_path_to_error::deserialize::<_, Settings>(tried) else { return Some(()) };
        let (found, culprit) = find(tried, &FilePath::root(), error.path());
        let own = FilePath::root().dotted(path);
        let below = found.segments().strip_prefix(own.segments());
        let Some(below) = below else { return Some(()) };
        let at = below.iter().fold(at.clone(), |at, segment| at.with(segment.clone()));
        self.report(&at, culprit, &error.into_inner().to_string());
        None
    }

    pub(super) fn exclude(&mut self, base: &Map<String, Value>) -> Vec<Expression> {
        let at = FilePath::root().key("exclude");
        let mut conditions = Vec::new();
        for (i, item) in self.list("exclude").into_iter().enumerate() {
            let at = at.index(i);
            let condition = match item {
                Value::String(text) => self.expression(&text, &at),
                item => self.point(item, &at, base).and_then(|point| {
                    let equals = |a: &Assignment| {
                        let quote = if a.text.contains('\'') { '"' } else { '\'' };
                        format!("{} == {quote}{}{quote}", a.path, a.text)
                    };
                    let terms: Vec<_> = point.assignments.iter().map(equals).collect();
                    self.expression(&terms.join(" and "), &at)
                }),
            };
            conditions.extend(condition);
        }
        conditions
    }
}
