//! The part of a matrix file that defines the cells: `axes`, `include` and `exclude`.

use super::Reader;
use crate::matrix::{
    catalog::{self, Setting},
    diagnostic::KeyPath,
    expression::Expression,
    file::{Assignment, Axis, Overrides},
    settings::{Settings, value::Value as SettingValue},
    yaml::Location,
};
use serde_json::{Map, Value};
use std::collections::{HashMap, HashSet};

impl Reader<'_, '_> {
    pub(super) fn axes(&mut self) -> Vec<Axis> {
        let at = KeyPath::root().key("axes");
        let is_written = self.keys.contains_key("axes");
        let entries = match self.take("axes") {
            None if !is_written => return Vec::new(),
            Some(Value::Object(entries)) if !entries.is_empty() => entries,
            None | Some(Value::Object(_)) => {
                let help = Some("add a setting with a list of values, or remove `axes`".into());
                self.sink.push(&Location::Key(at), "`axes` is empty", help);
                return Vec::new();
            }
            Some(_) => {
                let help = Some("write it like `stress.rate: [64MB/s, 96MB/s]`".into());
                self.sink.push(&Location::Value(at), "`axes` must map settings to lists of values", help);
                return Vec::new();
            }
        };
        let mut set_by = HashMap::new();
        let mut found = Vec::new();
        for (name, values) in entries {
            let at = at.key(&name);
            let Some(axis) = self.axis(&name, &values, &at) else { continue };
            let all = axis.values.iter().flat_map(|overrides| &overrides.assignments);
            let mut paths: Vec<_> = all.map(|assignment| assignment.setting.path()).collect();
            paths.sort_unstable();
            paths.dedup();
            for path in paths {
                if let Some(other) = set_by.insert(path, name.clone()) {
                    let help = Some("vary each setting in one axis only".into());
                    let message = format!("`{path}` is already varied by the axis `{other}`");
                    self.sink.push(&Location::Key(at.clone()), message, help);
                }
            }
            found.push(axis);
        }
        found
    }

    fn axis(&mut self, name: &str, values: &Value, at: &KeyPath) -> Option<Axis> {
        let setting = catalog::find(name);
        let is_bundle = !name.contains('.')
            && !catalog::is_section(name)
            && values.as_array().is_some_and(|values| values.iter().all(Value::is_object));
        if setting.is_none() && !is_bundle {
            let help = if catalog::is_section(name) {
                format!("name one of its settings: `{name}.NAME`")
            } else {
                catalog::suggest(name).unwrap_or_else(|| {
                    "name the axis after a setting, like `stress.rate`, or list mappings from settings to \
                     values"
                        .into()
                })
            };
            self.sink.push(&Location::Key(at.clone()), format!("`{name}` is not a setting"), Some(help));
            return None;
        }
        let Value::Array(values) = values else {
            let help = Some(format!("write it like `{name}: [...]`"));
            self.sink.push(&Location::Value(at.clone()), "an axis must be a list of values", help);
            return None;
        };
        if values.is_empty() {
            let help = Some("list at least one value, or remove the axis".into());
            self.sink.push(&Location::Value(at.clone()), format!("the axis `{name}` is empty"), help);
            return None;
        }
        let mut axis_values: Vec<Overrides> = Vec::with_capacity(values.len());
        let mut seen = HashSet::new();
        for (i, value) in values.iter().enumerate() {
            let at = at.index(i);
            let overrides = match setting {
                Some(setting) => {
                    let mut values = Settings::default();
                    self.assignment(setting, value, at.clone(), &mut values)
                        .map(|assignment| Overrides { assignments: vec![assignment], values })
                }
                None => self.overrides(value, &at),
            };
            let Some(overrides) = overrides else { continue };
            let value = |a: &Assignment| (a.setting.path(), a.setting.value(&overrides.values));
            let mut sets: Vec<_> = overrides.assignments.iter().map(value).collect();
            sets.sort_unstable_by_key(|(path, _)| *path);
            if !seen.insert(sets) {
                let help = Some("to measure a cell more than once, set `repeat`".into());
                self.sink.push(&Location::Value(at), "this value is already on the axis", help);
            }
            axis_values.push(overrides);
        }
        Some(Axis { name: name.into(), values: axis_values })
    }

    pub(super) fn include(&mut self) -> Vec<Overrides> {
        let at = KeyPath::root().key("include");
        let items = self.list("include");
        items.iter().enumerate().filter_map(|(i, item)| self.overrides(item, &at.index(i))).collect()
    }

    /// Reads a mapping from settings to values: an entry of `include` or `exclude`, or a value of an axis
    /// that varies several settings.
    fn overrides(&mut self, value: &Value, at: &KeyPath) -> Option<Overrides> {
        let Some(entries) = value.as_object().filter(|entries| !entries.is_empty()) else {
            let help = Some("write it like `{ stress.rate: 96MB/s, link.delay: 20ms }`".into());
            self.sink.push(&Location::Value(at.clone()), "expected a mapping from settings to values", help);
            return None;
        };
        let mut values = Settings::default();
        let assignments = self.assignments(entries, at, &mut values);
        (assignments.len() == entries.len()).then_some(Overrides { assignments, values })
    }

    fn assignments(
        &mut self,
        entries: &Map<String, Value>,
        at: &KeyPath,
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
            self.sink.push(&Location::Key(at), format!("`{path}` is not a setting"), help);
        }
        assignments
    }

    /// Reads a value of `setting` into `values`. Returns nothing if the value has errors, which are reported.
    fn assignment(
        &mut self,
        setting: &'static Setting,
        value: &Value,
        at: KeyPath,
        values: &mut Settings,
    ) -> Option<Assignment> {
        self.value_with(value, &at, |skipped| setting.read(values, value, &at, skipped))?;
        if self.sink.has_below(&at) {
            return None;
        }
        let text = setting.value(values).to_string().into();
        Some(Assignment { setting, text, at })
    }

    pub(super) fn exclude(&mut self) -> Vec<Expression> {
        let at = KeyPath::root().key("exclude");
        let items = self.list("exclude");
        let conditions = items.iter().enumerate().filter_map(|(i, item)| match item {
            Value::String(text) => self.expression(text, &at.index(i)),
            item => self.overrides(item, &at.index(i)).and_then(|overrides| self.exclusion(&overrides)),
        });
        conditions.collect()
    }

    /// Returns the condition that all settings in `overrides` have the values given there.
    fn exclusion(&mut self, overrides: &Overrides) -> Option<Expression> {
        let mut values = Vec::new();
        for Assignment { setting, at, .. } in &overrides.assignments {
            let value = setting.value(&overrides.values);
            if let Err((message, help)) = setting.check_comparable(value == SettingValue::None) {
                self.sink.push(&Location::Value(at.clone()), message, help);
                return None;
            }
            values.push((*setting, value));
        }
        Some(Expression::equal_to(values))
    }
}
