//! From a value as the YAML reader gives it to a typed one.
//!
//! serde describes errors by calling [`de::Error`]; [`Refusal`] keeps what it is called with, so that no
//! message has to be taken apart. An error ends the reading of the value around it. To find them all, whoever
//! reads remembers what was refused in [`Skipped`], and reads the rest again as if that had not been written.

use super::diagnostic::{FilePath, Segment};
use serde::{
    Deserializer,
    de::{
        self, DeserializeOwned, DeserializeSeed, Expected, IntoDeserializer, MapAccess, SeqAccess,
        Unexpected, Visitor,
    },
    forward_to_deserialize_any,
};
use serde_json::{Map, Value};
use std::{collections::HashSet, fmt, ptr};

/// Why a value is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Something else is expected.
    Mismatch { expected: String, found: String },
    /// A word that is not one of the known ones.
    Word { found: String, known: &'static [&'static str] },
    /// A key that is not one of the known ones.
    Key { found: String, known: &'static [&'static str] },
    /// A mapping without a key that it needs.
    Missing(&'static str),
    /// What the type itself says.
    Other(String),
}

/// What is refused, and where.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    /// The path of the value; of the mapping, if it is about a key.
    pub(crate) at: FilePath,
    pub(crate) refusal: Refusal,
}

/// What is read as if it had not been written: parts of one value, each told by where in memory it is, since
/// a path would have to be made for whatever is not skipped.
#[derive(Debug, Default)]
pub(crate) struct Skipped(HashSet<*const Value>);

impl Skipped {
    /// Skips a part; whether it was not skipped before.
    pub(crate) fn insert(&mut self, part: &Value) -> bool {
        self.0.insert(ptr::from_ref(part))
    }

    /// Whether this part is skipped.
    pub(crate) fn has(&self, part: &Value) -> bool {
        self.0.contains(&ptr::from_ref(part))
    }
}

/// Reads a value that is written at `at`, but for what is skipped.
pub(crate) fn read<T: DeserializeOwned>(
    value: &Value,
    at: &FilePath,
    skipped: &Skipped,
) -> Result<T, Refused> {
    let reading = Reading { value, place: Place::Root(at), skipped };
    T::deserialize(reading).map_err(|Error { at: place, refusal }| Refused {
        at: place.unwrap_or_else(|| at.clone()),
        refusal: *refusal,
    })
}

/// Reads a text as a file's scalar would be.
pub(crate) fn from_text<T: DeserializeOwned>(text: &str) -> Result<T, Refusal> {
    T::deserialize(IntoDeserializer::<Error>::into_deserializer(text)).map_err(|error| *error.refusal)
}

impl Refusal {
    fn mismatch(expected: impl Into<String>, found: &Unexpected<'_>) -> Self {
        let found = match found {
            Unexpected::Bool(flag) => format!("`{flag}`"),
            Unexpected::Unsigned(number) => format!("`{number}`"),
            Unexpected::Signed(number) => format!("`{number}`"),
            Unexpected::Float(number) => format!("`{number}`"),
            Unexpected::Str(text) => format!("`{}`", text.escape_debug()),
            Unexpected::Unit => "nothing".into(),
            Unexpected::Seq => "a list".into(),
            Unexpected::Map => "a mapping".into(),
            other => other.to_string(),
        };
        Self::Mismatch { expected: expected.into(), found }
    }
}

impl fmt::Display for Refusal {
    /// What is wrong; what to write instead is the business of whoever knows the settings.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mismatch { expected, found } => write!(f, "expected {expected}, found {found}"),
            Self::Word { found, known } => write!(f, "`{found}` is not one of {}", quoted(known)),
            Self::Key { found, .. } => write!(f, "unknown key `{found}`"),
            Self::Missing(key) => write!(f, "missing key `{key}`"),
            Self::Other(message) => f.write_str(message),
        }
    }
}

fn quoted(words: &[&str]) -> String {
    words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}

/// A refusal on its way up, with its place once that is known.
#[derive(Debug)]
struct Error {
    at: Option<FilePath>,
    refusal: Box<Refusal>,
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        Self { at: None, refusal: refusal.into() }
    }
}

impl Error {
    fn at(self, place: Place<'_>) -> Self {
        Self { at: self.at.or_else(|| Some(place.path())), ..self }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.refusal.fmt(f)
    }
}

impl std::error::Error for Error {}

impl de::Error for Error {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Refusal::Other(message.to_string()).into()
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Refusal::mismatch(expected.to_string(), &found).into()
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Refusal::mismatch(expected.to_string(), &found).into()
    }

    fn unknown_variant(found: &str, known: &'static [&'static str]) -> Self {
        Refusal::Word { found: found.into(), known }.into()
    }

    fn unknown_field(found: &str, known: &'static [&'static str]) -> Self {
        Refusal::Key { found: found.into(), known }.into()
    }

    fn missing_field(key: &'static str) -> Self {
        Refusal::Missing(key).into()
    }
}

/// Where a value is, as a chain up to the value that was asked for: a path costs nothing until it is wanted.
#[derive(Clone, Copy)]
enum Place<'a> {
    Root(&'a FilePath),
    Key(&'a Place<'a>, &'a str),
    Index(&'a Place<'a>, usize),
}

impl Place<'_> {
    fn path(self) -> FilePath {
        match self {
            Self::Root(path) => path.clone(),
            Self::Key(parent, key) => parent.path().key(key),
            Self::Index(parent, index) => parent.path().with(Segment::Index(index)),
        }
    }
}

/// A value to be read.
#[derive(Clone, Copy)]
struct Reading<'a> {
    value: &'a Value,
    place: Place<'a>,
    skipped: &'a Skipped,
}

impl Reading<'_> {
    fn expected(&self, what: impl Into<String>) -> Error {
        let found = match self.value {
            Value::Null => Unexpected::Unit,
            Value::Bool(flag) => Unexpected::Bool(*flag),
            Value::Number(number) => match (number.as_u64(), number.as_i64(), number.as_f64()) {
                (Some(number), ..) => Unexpected::Unsigned(number),
                (_, Some(number), _) => Unexpected::Signed(number),
                (.., number) => Unexpected::Float(number.unwrap_or_default()),
            },
            Value::String(text) => Unexpected::Str(text),
            Value::Array(_) => Unexpected::Seq,
            Value::Object(_) => Unexpected::Map,
        };
        Refusal::mismatch(what, &found).into()
    }

    fn whole_number(&self, largest: u64) -> Result<u64, Error> {
        match self.value.as_u64() {
            Some(number) if number <= largest => Ok(number),
            Some(_) => Err(self.expected(format!("a whole number up to {largest}"))),
            None => Err(self.expected("a whole number")),
        }
    }

    fn text(&self) -> Result<&str, Error> {
        self.value.as_str().ok_or_else(|| self.expected("a string"))
    }

    fn list<'v, V: Visitor<'v>>(&self, items: &[Value], visitor: V) -> Result<V::Value, Error> {
        visitor.visit_seq(List { reading: self, items, next: 0 })
    }

    fn mapping<'v, V: Visitor<'v>>(&self, keys: &Map<String, Value>, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_map(Mapping { reading: self, keys: keys.iter(), value: None })
    }
}

/// Whole numbers of these types.
macro_rules! whole_numbers {
    ($($method:ident: $type:ty;)+) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            let number = self.whole_number(<$type>::MAX.into())?;
            visitor.visit_u64(number)
        }
    )+};
}

impl<'de> Deserializer<'de> for Reading<'_> {
    type Error = Error;

    /// For types that say themselves what they expect.
    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(flag) => visitor.visit_bool(*flag),
            Value::Number(number) => match (number.as_u64(), number.as_i64(), number.as_f64()) {
                (Some(number), ..) => visitor.visit_u64(number),
                (_, Some(number), _) => visitor.visit_i64(number),
                (.., number) => visitor.visit_f64(number.unwrap_or_default()),
            },
            Value::String(text) => visitor.visit_str(text),
            Value::Array(items) => self.list(items, visitor),
            Value::Object(keys) => self.mapping(keys, visitor),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let flag = self.value.as_bool().ok_or_else(|| self.expected("`true` or `false`"))?;
        visitor.visit_bool(flag)
    }

    whole_numbers! {
        deserialize_u8: u8;
        deserialize_u16: u16;
        deserialize_u32: u32;
        deserialize_u64: u64;
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_str(self.text()?)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_str(self.text()?)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.value.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let items = self.value.as_array().ok_or_else(|| self.expected("a list"))?;
        self.list(items, visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let keys = self.value.as_object().ok_or_else(|| self.expected("a mapping of keys to values"))?;
        self.mapping(keys, visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.deserialize_map(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        words: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let word = self.value.as_str().ok_or_else(|| self.expected(format!("one of {}", quoted(words))))?;
        visitor.visit_enum(IntoDeserializer::<Error>::into_deserializer(word))
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        i8 i16 i32 i64 i128 u128 f32 f64 char bytes byte_buf unit unit_struct tuple tuple_struct identifier
    }
}

/// The items of a list that are not skipped, one after the other.
struct List<'a> {
    reading: &'a Reading<'a>,
    items: &'a [Value],
    next: usize,
}

impl<'de> SeqAccess<'de> for List<'_> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        loop {
            let Some(value) = self.items.get(self.next) else { return Ok(None) };
            let place = Place::Index(&self.reading.place, self.next);
            self.next += 1;
            if !self.reading.skipped.has(value) {
                let item = Reading { value, place, skipped: self.reading.skipped };
                return seed.deserialize(item).map(Some).map_err(|error| error.at(place));
            }
        }
    }
}

/// The keys of a mapping that are not skipped, with their values.
struct Mapping<'a> {
    reading: &'a Reading<'a>,
    keys: serde_json::map::Iter<'a>,
    value: Option<(&'a str, &'a Value)>,
}

impl<'de> MapAccess<'de> for Mapping<'_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        let skipped = self.reading.skipped;
        let Some((key, value)) = self.keys.find(|(_, value)| !skipped.has(value)) else { return Ok(None) };
        self.value = Some((key, value));
        seed.deserialize(key.as_str().into_deserializer()).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let (key, value) = self.value.take().unwrap_or(("", &Value::Null));
        let place = Place::Key(&self.reading.place, key);
        let value = Reading { value, place, skipped: self.reading.skipped };
        seed.deserialize(value).map_err(|error| error.at(place))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::settings::Settings;
    use serde_json::json;

    fn top() -> FilePath {
        FilePath::root().key("top")
    }

    fn refused<T: DeserializeOwned + fmt::Debug>(value: &Value) -> (String, Refusal) {
        let Refused { at, refusal } = read::<T>(value, &top(), &Skipped::default()).unwrap_err();
        (at.to_string(), refusal)
    }

    #[test]
    fn a_refusal_has_its_place_and_its_parts() {
        let value =
            json!({ "stress": { "phases": [{ "rate": "1MB/s", "duration": "1s" }, { "rate": "2MB/s" }] } });
        let expected = ("top.stress.phases[1]".into(), Refusal::Missing("duration"));
        assert_eq!(refused::<Settings>(&value), expected);
        let value = json!({ "guest": { "memry": 1 } });
        let (at, refusal) = refused::<Settings>(&value);
        assert!(
            matches!(refusal, Refusal::Key { found, known } if found == "memry" && known.contains(&"memory"))
        );
        assert_eq!(at, "top.guest");
        let (at, refusal) = refused::<Settings>(&json!({ "guest": { "accel": "kwm" } }));
        assert_eq!(at, "top.guest.accel");
        assert_eq!(refusal.to_string(), "`kwm` is not one of `auto`, `kvm`, `tcg`");
    }

    #[test]
    fn what_is_skipped_is_not_there_and_moves_nothing() {
        let value = json!([1, "x", "y", 4, "z"]);
        let mut skipped = Skipped::default();
        for (i, next) in [(1, 2), (2, 4)] {
            assert!(skipped.insert(&value[i]) && !skipped.insert(&value[i]));
            let refused = read::<Vec<u32>>(&value, &top(), &skipped).unwrap_err();
            assert_eq!(refused.at, top().index(next));
        }
        skipped.insert(&value[4]);
        assert_eq!(read::<Vec<u32>>(&value, &top(), &skipped), Ok(vec![1, 4]));
    }

    #[test]
    fn a_mismatch_is_told_in_words_of_the_file() {
        let words = |refusal: Refusal| refusal.to_string();
        let of = |value: Value| words(refused::<u32>(&value).1);
        assert_eq!(
            of(json!(4_294_967_296_u64)),
            "expected a whole number up to 4294967295, found `4294967296`"
        );
        assert_eq!(of(json!(-1)), "expected a whole number, found `-1`");
        assert_eq!(of(json!(1.5)), "expected a whole number, found `1.5`");
        assert_eq!(of(json!(null)), "expected a whole number, found nothing");
        assert_eq!(words(refused::<bool>(&json!([])).1), "expected `true` or `false`, found a list");
        assert_eq!(words(refused::<String>(&json!({})).1), "expected a string, found a mapping");
    }
}
