//! The part of a matrix file that says which cells there are: `axes`, `include` and `exclude`.

use super::Reader;
use crate::matrix::{
    catalog::{self, Setting},
    diagnostic::FilePath,
    expression::Expression,
    file::{Assignment, Axis, Point},
    settings::{Settings, value::Value as Typed},
    yaml::Spot,
};
use serde_json::{Map, Value};
use std::collections::{HashMap, HashSet};

impl Reader<'_, '_> {
    pub(super) fn axes(&mut self) -> Vec<Axis> {
        let at = FilePath::root().key("axes");
        let is_written = self.keys.contains_key("axes");
        let entries = match self.take("axes") {
            None if !is_written => return Vec::new(),
            Some(Value::Object(entries)) if !entries.is_empty() => entries,
            None | Some(Value::Object(_)) => {
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
            let Some(axis) = self.axis(&name, &values, &at) else { continue };
            let all = axis.points.iter().flat_map(|point| &point.assignments);
            let mut paths: Vec<_> = all.map(|assignment| assignment.setting.path()).collect();
            paths.sort_unstable();
            paths.dedup();
            for path in paths {
                if let Some(other) = set_by.insert(path, name.clone()) {
                    let help = Some("vary it in one axis only".into());
                    let message = format!("`{path}` is already varied by the axis `{other}`");
                    self.sink.push(&Spot::Key(at.clone()), message, help);
                }
            }
            found.push(axis);
        }
        found
    }

    fn axis(&mut self, name: &str, values: &Value, at: &FilePath) -> Option<Axis> {
        let setting = catalog::find(name);
        let is_bundle = !name.contains('.')
            && !catalog::is_section(name)
            && values.as_array().is_some_and(|values| values.iter().all(Value::is_object));
        if setting.is_none() && !is_bundle {
            let help = if catalog::is_section(name) {
                format!("name one of its settings: `{name}.NAME`")
            } else {
                catalog::suggest(name).unwrap_or_else(|| {
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
        for (i, value) in values.iter().enumerate() {
            let at = at.index(i);
            let point = match setting {
                Some(setting) => {
                    let mut values = Settings::default();
                    self.assignment(setting, value, at.clone(), &mut values)
                        .map(|assignment| Point { assignments: vec![assignment], values })
                }
                None => self.point(value, &at),
            };
            let Some(point) = point else { continue };
            let value = |a: &Assignment| (a.setting.path(), a.setting.value(&point.values));
            let mut sets: Vec<_> = point.assignments.iter().map(value).collect();
            sets.sort_unstable_by_key(|(path, _)| *path);
            if !seen.insert(sets) {
                let help = Some("`repeat` measures a cell more than once".into());
                self.sink.push(&Spot::Value(at), "this axis has the same value already", help);
            }
            points.push(point);
        }
        Some(Axis { name: name.into(), points })
    }

    pub(super) fn include(&mut self) -> Vec<Point> {
        let at = FilePath::root().key("include");
        let items = self.list("include");
        items.iter().enumerate().filter_map(|(i, item)| self.point(item, &at.index(i))).collect()
    }

    /// A mapping from settings to values.
    fn point(&mut self, value: &Value, at: &FilePath) -> Option<Point> {
        let Some(entries) = value.as_object().filter(|entries| !entries.is_empty()) else {
            let help = Some("write it like `{ stress.rate: 96MB/s, link.delay: 20ms }`".into());
            self.sink.push(&Spot::Value(at.clone()), "expected a mapping from settings to values", help);
            return None;
        };
        let mut values = Settings::default();
        let assignments = self.assignments(entries, at, &mut values);
        (assignments.len() == entries.len()).then_some(Point { assignments, values })
    }

    fn assignments(
        &mut self,
        entries: &Map<String, Value>,
        at: &FilePath,
        values: &mut Settings,
    ) -> Vec<Assignment> {
        let mut assignments = Vec::with_capacity(entries.len());
        for (path, value) in entries {
            let at = at.key(path);
            if let Some(setting) = catalog::find(path) {
                assignments.extend(self.assignment(setting, value, at, values));
                continue;
            }
            let help = if catalog::is_section(path) {
                Some(format!("write its settings one by one, like `{path}.NAME: VALUE`"))
            } else {
                catalog::suggest(path)
            };
            self.sink.push(&Spot::Key(at), format!("`{path}` is not a setting"), help);
        }
        assignments
    }

    /// One value of one setting, read into `values`.
    fn assignment(
        &mut self,
        setting: &'static Setting,
        value: &Value,
        at: FilePath,
        values: &mut Settings,
    ) -> Option<Assignment> {
        self.attempt(value, &at, |skipped| setting.read(values, value, &at, skipped))?;
        if self.sink.has_below(&at) {
            return None;
        }
        let text = setting.value(values).to_string().into();
        Some(Assignment { setting, text, at })
    }

    pub(super) fn exclude(&mut self) -> Vec<Expression> {
        let at = FilePath::root().key("exclude");
        let items = self.list("exclude");
        let conditions = items.iter().enumerate().filter_map(|(i, item)| match item {
            Value::String(text) => self.expression(text, &at.index(i)),
            item => self.point(item, &at.index(i)).and_then(|point| self.exclusion(&point)),
        });
        conditions.collect()
    }

    /// The condition that everything has the values of a mapping.
    fn exclusion(&mut self, point: &Point) -> Option<Expression> {
        let mut values = Vec::new();
        for Assignment { setting, at, .. } in &point.assignments {
            let value = setting.value(&point.values);
            if let Err((message, help)) = setting.comparable(value == Typed::None) {
                self.sink.push(&Spot::Value(at.clone()), message, help);
                return None;
            }
            values.push((*setting, value));
        }
        Some(Expression::equal_to(values))
    }
}
