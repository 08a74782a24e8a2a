//! Builds the tree of values of a YAML text, and finds YAML features outside of the supported subset.
//!
//! A text that is larger, more deeply nested, or longer in its lists and mappings than any matrix file needs
//! to be is refused, so that no text takes minutes or gigabytes. Values repeated by aliases count each time.

use super::Location;
use crate::matrix::diagnostic::{KeyPath, Segment};
use serde::de::{
    self, DeserializeSeed, Deserializer, EnumAccess, IgnoredAny, MapAccess, SeqAccess, VariantAccess,
};
use serde_json::{Map, Value};
use std::{
    cell::{Cell, RefCell},
    fmt,
};

/// A use of a YAML feature that `serde_yaml` accepts and this program does not: a duplicate key, a merge key
/// or a tag.
pub(super) struct SubsetViolation {
    pub(super) location: Location,
    pub(super) message: String,
    pub(super) help: &'static str,
}

/// The deepest nesting of lists and mappings.
pub(super) const MAX_DEPTH: usize = 64;

/// The message for deeper nesting, before the number.
pub(super) const TOO_DEEP: &str = "lists and mappings are nested deeper than";

/// The largest number of keys in a mapping.
const MAX_KEYS: usize = 1000;

/// The largest number of items in a list: one for each cell.
const MAX_ITEMS: usize = 100_000;

/// The longest text of a value or a key, in bytes.
const MAX_TEXT: usize = 10_000;

/// The largest number of values plus bytes of their texts. What aliases repeat counts each time.
const MAX_SIZE: usize = 4 << 20;

/// Parses a text that holds one document. Returns its value and the violations of the subset in it.
pub(super) fn read(text: &str) -> Result<(Value, Vec<SubsetViolation>), serde_yaml::Error> {
    let found = Found::default();
    let tree = Tree { found: &found, path: KeyPath::root() };
    let value = tree.deserialize(serde_yaml::Deserializer::from_str(text));
    match (found.exceeded.take(), value) {
        (Some(exceeded), _) => Ok((Value::Null, vec![exceeded])),
        (None, value) => Ok((value?, found.violations.take())),
    }
}

/// Returns the message about the limit that a text exceeds, if it does.
pub(super) fn exceeded(text: &str) -> Option<String> {
    let found = Found::default();
    let tree = Tree { found: &found, path: KeyPath::root() };
    let _ = tree.deserialize(serde_yaml::Deserializer::from_str(text));
    found.exceeded.take().map(|exceeded| exceeded.message)
}

/// What was found while the tree was built.
#[derive(Default)]
struct Found {
    violations: RefCell<Vec<SubsetViolation>>,
    /// The limit at which building has stopped.
    exceeded: RefCell<Option<SubsetViolation>>,
    /// See [`MAX_SIZE`].
    size: Cell<usize>,
}

/// Builds the value at `path`, and collects the violations in it.
struct Tree<'a> {
    found: &'a Found,
    path: KeyPath,
}

impl Tree<'_> {
    fn violation(&self, location: Location, message: String, help: &'static str) {
        self.found.violations.borrow_mut().push(SubsetViolation { location, message, help });
    }

    fn below(&self, segment: Segment) -> Self {
        Self { found: self.found, path: self.path.with(segment) }
    }

    /// Returns an error that stops building if a value is beyond a limit.
    fn within<E: de::Error>(&self, size: usize, limit: usize, what: &str) -> Result<(), E> {
        if size <= limit {
            return Ok(());
        }
        let (location, message) = (Location::Value(self.path.clone()), format!("{what} {limit}"));
        let help = "split the file, or remove what it does not need";
        *self.found.exceeded.borrow_mut() = Some(SubsetViolation { location, message, help });
        Err(E::custom("beyond a limit"))
    }

    /// Counts a value whose text has this length.
    fn count<E: de::Error>(&self, length: usize) -> Result<(), E> {
        self.within(length, MAX_TEXT, "this text has more bytes than")?;
        self.found.size.set(self.found.size.get().saturating_add(1 + length));
        self.within(
            self.found.size.get(),
            MAX_SIZE,
            "with what its aliases repeat, the file has more bytes than",
        )
    }
}

impl<'de> DeserializeSeed<'de> for Tree<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.within(self.path.segments().len(), MAX_DEPTH, TOO_DEEP)?;
        self.count(0)?;
        deserializer.deserialize_any(self)
    }
}

impl<'de> de::Visitor<'de> for Tree<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i128<E>(self, value: i128) -> Result<Value, E> {
        Ok(value.to_string().into())
    }

    fn visit_u128<E>(self, value: u128) -> Result<Value, E> {
        Ok(value.to_string().into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        // JSON has no infinity and no NaN. They become strings, which no setting accepts as a number.
        Ok(serde_json::Number::from_f64(value).map_or_else(|| value.to_string().into(), Value::Number))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Value, E> {
        self.count(value.len())?;
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(self.below(Segment::Index(list.len())))? {
            list.push(item);
            self.within(list.len(), MAX_ITEMS, "the number of items in this list is above")?;
        }
        Ok(list.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            self.count(key.len())?;
            self.within(map.len() + 1, MAX_KEYS, "the number of keys in this mapping is above")?;
            let path = self.path.key(&key);
            let value = entries.next_value_seed(self.below(Segment::Key(key.clone())))?;
            if key == "<<" {
                let help = "write the keys out, or give each value its own anchor";
                self.violation(Location::Key(path), "merge keys are not supported".into(), help);
            } else if map.contains_key(&key) {
                let help = "remove one of the two";
                self.violation(Location::SecondKey(path), format!("`{key}` is set twice"), help);
            } else {
                map.insert(key, value);
            }
        }
        Ok(map.into())
    }

    fn visit_enum<A: EnumAccess<'de>>(self, data: A) -> Result<Value, A::Error> {
        let help = "remove the tag, or quote a text that starts with `!`: \"!like this\"";
        self.violation(
            Location::Tag(self.path.clone()),
            "YAML tags (`!name`) are not supported".into(),
            help,
        );
        let (_tag, content) = data.variant::<IgnoredAny>()?;
        content.newtype_variant::<IgnoredAny>()?;
        Ok(Value::Null)
    }
}
