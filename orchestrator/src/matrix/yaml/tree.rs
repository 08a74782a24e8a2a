//! What the YAML reader makes of a text, and what this program does not take although YAML allows it.

use super::Spot;
use crate::matrix::diagnostic::{FilePath, Segment};
use serde::de::{
    self, DeserializeSeed, Deserializer, EnumAccess, IgnoredAny, MapAccess, SeqAccess, VariantAccess,
};
use serde_json::{Map, Value};
use std::{cell::RefCell, fmt};

/// Something that the YAML reader lets pass and this program does not.
pub(super) struct Fault {
    pub(super) spot: Spot,
    pub(super) message: String,
    pub(super) help: &'static str,
}

/// Reads the one document of a text.
pub(super) fn read(text: &str) -> Result<(Value, Vec<Fault>), serde_yaml::Error> {
    let faults = RefCell::default();
    let tree = Tree { faults: &faults, path: FilePath::root() };
    let value = tree.deserialize(serde_yaml::Deserializer::from_str(text))?;
    Ok((value, faults.take()))
}

/// Builds the tree, noting faults.
struct Tree<'a> {
    faults: &'a RefCell<Vec<Fault>>,
    path: FilePath,
}

impl Tree<'_> {
    fn fault(&self, spot: Spot, message: String, help: &'static str) {
        self.faults.borrow_mut().push(Fault { spot, message, help });
    }

    fn below(&self, segment: Segment) -> Self {
        Self { faults: self.faults, path: self.path.with(segment) }
    }
}

impl<'de> DeserializeSeed<'de> for Tree<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
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
        // Infinity and NaN become texts, which no setting takes for a number.
        Ok(serde_json::Number::from_f64(value).map_or_else(|| value.to_string().into(), Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(self.below(Segment::Index(list.len())))? {
            list.push(item);
        }
        Ok(list.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            let path = self.path.key(&key);
            let value = entries.next_value_seed(self.below(Segment::Key(key.clone())))?;
            if key == "<<" {
                let help = "write the keys out, or give each value an anchor of its own";
                self.fault(Spot::Key(path), "merge keys are not supported".into(), help);
            } else if map.contains_key(&key) {
                let help = "remove one of the two";
                self.fault(Spot::SecondKey(path), format!("`{key}` is set twice"), help);
            } else {
                map.insert(key, value);
            }
        }
        Ok(map.into())
    }

    fn visit_enum<A: EnumAccess<'de>>(self, data: A) -> Result<Value, A::Error> {
        let help = "remove the tag; a text is quoted, \"!like this\"";
        self.fault(Spot::Tag(self.path.clone()), "YAML tags (`!name`) are not supported".into(), help);
        let (_tag, content) = data.variant::<IgnoredAny>()?;
        content.newtype_variant::<IgnoredAny>()?;
        Ok(Value::Null)
    }
}
