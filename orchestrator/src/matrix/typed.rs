//! Converts an untyped value, as the YAML reader returns it, to a typed one.
//!
//! serde describes errors by calling [`de::Error`]. [`ReadErrorKind`] keeps the arguments of these calls, so
//! that no message has to be parsed. An error ends the reading of the whole value. To find all errors, the
//! caller adds each invalid part to [`SkippedValues`], and reads the value again as if that part were absent.
//!
//! Words are read in upper and lower case, with any separators between their parts: `pre-copy` is `precopy`.
//! In settings, `none` is an absent value, as tables print it.

use super::diagnostic::{KeyPath, Segment};
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

/// The reason why a value is invalid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ReadErrorKind {
    /// The value has the wrong type or is out of range. Both texts describe values, in words.
    Mismatch { expected: String, found: String },
    /// The value is not one of the words that the setting allows.
    UnknownWord { found: String, known: &'static [&'static str] },
    /// The mapping has a key that its type does not know.
    UnknownKey { found: String, known: &'static [&'static str] },
    /// The mapping lacks a required key.
    MissingKey(&'static str),
    /// A message from the parser of the value's own type, such as a missing unit.
    Other(String),
}

/// An invalid value, and where it is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ReadError {
    /// The path of the invalid value. For an unknown or missing key, the path of the mapping.
    pub(crate) at: KeyPath,
    pub(crate) kind: ReadErrorKind,
}

/// Parts of one value that are read as if they were absent.
///
/// A part is identified by its address in memory: with paths, the reader would have to build a path for every
/// value just to look it up here.
#[derive(Debug, Default)]
pub(crate) struct SkippedValues(HashSet<*const Value>);

impl SkippedValues {
    /// Adds a part. Returns false if it was skipped already.
    pub(crate) fn insert(&mut self, part: &Value) -> bool {
        self.0.insert(ptr::from_ref(part))
    }

    /// Returns whether a part is skipped.
    pub(crate) fn contains(&self, part: &Value) -> bool {
        self.0.contains(&ptr::from_ref(part))
    }
}

/// Reads a value, as if its skipped parts were absent. `at` is the path at which the value is written.
pub(crate) fn read<T: DeserializeOwned>(
    value: &Value,
    at: &KeyPath,
    skipped: &SkippedValues,
) -> Result<T, ReadError> {
    read_with(value, at, skipped, false)
}

/// Reads settings as [`read`] does, and treats `none` as an absent value.
pub(crate) fn read_settings<T: DeserializeOwned>(
    value: &Value,
    at: &KeyPath,
    skipped: &SkippedValues,
) -> Result<T, ReadError> {
    read_with(value, at, skipped, true)
}

fn read_with<T: DeserializeOwned>(
    value: &Value,
    at: &KeyPath,
    skipped: &SkippedValues,
    knows_none: bool,
) -> Result<T, ReadError> {
    let deserializer = ValueDeserializer { value, path: LazyPath::Root(at), skipped, knows_none };
    T::deserialize(deserializer)
        .map_err(|Error { at: path, kind }| ReadError { at: path.unwrap_or_else(|| at.clone()), kind: *kind })
}

/// Reads a text as if it were a scalar in a file.
pub(crate) fn from_text<T: DeserializeOwned>(text: &str) -> Result<T, ReadErrorKind> {
    read(&text.into(), &KeyPath::root(), &SkippedValues::default()).map_err(|error| error.kind)
}

/// Returns a word in the form used for comparisons: in lower case and without separators.
pub(crate) fn plain(word: &str) -> String {
    let parts = word.chars().filter(|c| !matches!(c, '-' | '_' | ' '));
    parts.collect::<String>().to_ascii_lowercase()
}

/// Returns whether a text stands for an absent value.
pub(crate) fn is_none(text: &str) -> bool {
    text.trim().eq_ignore_ascii_case("none")
}

/// Parses a flag. YAML 1.1 has more words for it than YAML 1.2, and QEMU writes `on` and `off`.
pub(crate) fn flag(text: &str) -> Option<bool> {
    match text.trim().to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" => Some(true),
        "false" | "no" | "off" => Some(false),
        _ => None,
    }
}

impl ReadErrorKind {
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

impl fmt::Display for ReadErrorKind {
    /// Says what is wrong. `catalog::help`, which knows the settings, says what to write instead.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mismatch { expected, found } => write!(f, "expected {expected}, found {found}"),
            Self::UnknownWord { found, known } => write!(f, "`{found}` is not one of {}", quoted(known)),
            Self::UnknownKey { found, .. } => write!(f, "unknown key `{found}`"),
            Self::MissingKey(key) => write!(f, "missing key `{key}`"),
            Self::Other(message) => f.write_str(message),
        }
    }
}

fn quoted(words: &[&str]) -> String {
    words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}

/// The error type that serde sees. The innermost value that knows its path adds it while the error
/// propagates.
#[derive(Debug)]
struct Error {
    at: Option<KeyPath>,
    kind: Box<ReadErrorKind>,
}

impl From<ReadErrorKind> for Error {
    fn from(kind: ReadErrorKind) -> Self {
        Self { at: None, kind: kind.into() }
    }
}

impl Error {
    fn at(self, path: LazyPath<'_>) -> Self {
        Self { at: self.at.or_else(|| Some(path.build())), ..self }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.kind.fmt(f)
    }
}

impl std::error::Error for Error {}

impl de::Error for Error {
    fn custom<T: fmt::Display>(message: T) -> Self {
        ReadErrorKind::Other(message.to_string()).into()
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        ReadErrorKind::mismatch(expected.to_string(), &found).into()
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        ReadErrorKind::mismatch(expected.to_string(), &found).into()
    }

    fn unknown_variant(found: &str, known: &'static [&'static str]) -> Self {
        ReadErrorKind::UnknownWord { found: found.into(), known }.into()
    }

    fn unknown_field(found: &str, known: &'static [&'static str]) -> Self {
        ReadErrorKind::UnknownKey { found: found.into(), known }.into()
    }

    fn missing_field(key: &'static str) -> Self {
        ReadErrorKind::MissingKey(key).into()
    }
}

/// The path of a value as a chain of references up to the outermost value, so that a path is allocated only
/// if there is an error to report.
#[derive(Clone, Copy)]
enum LazyPath<'a> {
    Root(&'a KeyPath),
    Key(&'a LazyPath<'a>, &'a str),
    Index(&'a LazyPath<'a>, usize),
}

impl LazyPath<'_> {
    fn build(self) -> KeyPath {
        match self {
            Self::Root(path) => path.clone(),
            Self::Key(parent, key) => parent.build().key(key),
            Self::Index(parent, index) => parent.build().with(Segment::Index(index)),
        }
    }
}

/// The deserializer of one value. Unlike `serde_json`'s own, its errors have a path and their parts.
#[derive(Clone, Copy)]
struct ValueDeserializer<'a> {
    value: &'a Value,
    path: LazyPath<'a>,
    skipped: &'a SkippedValues,
    /// Whether `none` is read as an absent value.
    knows_none: bool,
}

impl ValueDeserializer<'_> {
    fn is_none(&self) -> bool {
        self.knows_none && self.value.as_str().is_some_and(is_none)
    }

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
        ReadErrorKind::mismatch(what, &found).into()
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
        visitor.visit_seq(ListAccess { parent: self, items, next: 0 })
    }

    fn mapping<'v, V: Visitor<'v>>(&self, keys: &Map<String, Value>, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_map(MappingAccess { parent: self, keys: keys.iter(), value: None })
    }
}

/// Implements the methods that deserialize unsigned integers of these types.
macro_rules! whole_numbers {
    ($($method:ident: $type:ty;)+) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            let number = self.whole_number(<$type>::MAX.into())?;
            visitor.visit_u64(number)
        }
    )+};
}

impl<'de> Deserializer<'de> for ValueDeserializer<'_> {
    type Error = Error;

    /// Serves the types whose visitors check the type of the value themselves.
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
        let flag = self.value.as_bool().or_else(|| flag(self.value.as_str()?));
        let flag = flag.ok_or_else(|| self.expected("`true` or `false`"))?;
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
        if self.value.is_null() || self.is_none() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.is_none() {
            return self.list(&[], visitor);
        }
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
        let known = words.iter().copied().find(|known| plain(known) == plain(word));
        let word = known.unwrap_or(word);
        visitor.visit_enum(IntoDeserializer::<Error>::into_deserializer(word))
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        i8 i16 i32 i64 i128 u128 f32 f64 char bytes byte_buf unit unit_struct tuple tuple_struct identifier
    }
}

/// Access to the items of a list that are not skipped.
struct ListAccess<'a> {
    parent: &'a ValueDeserializer<'a>,
    items: &'a [Value],
    next: usize,
}

impl<'de> SeqAccess<'de> for ListAccess<'_> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        loop {
            let Some(value) = self.items.get(self.next) else { return Ok(None) };
            let path = LazyPath::Index(&self.parent.path, self.next);
            self.next += 1;
            if !self.parent.skipped.contains(value) {
                let item = ValueDeserializer { value, path, ..*self.parent };
                return seed.deserialize(item).map(Some).map_err(|error| error.at(path));
            }
        }
    }
}

/// Access to the entries of a mapping whose values are not skipped.
struct MappingAccess<'a> {
    parent: &'a ValueDeserializer<'a>,
    keys: serde_json::map::Iter<'a>,
    value: Option<(&'a str, &'a Value)>,
}

impl<'de> MapAccess<'de> for MappingAccess<'_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        let skipped = self.parent.skipped;
        let Some((key, value)) = self.keys.find(|(_, value)| !skipped.contains(value)) else {
            return Ok(None);
        };
        self.value = Some((key, value));
        seed.deserialize(key.as_str().into_deserializer()).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let (key, value) = self.value.take().unwrap_or(("", &Value::Null));
        let path = LazyPath::Key(&self.parent.path, key);
        let value = ValueDeserializer { value, path, ..*self.parent };
        seed.deserialize(value).map_err(|error| error.at(path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::settings::Settings;
    use serde_json::json;

    fn top() -> KeyPath {
        KeyPath::root().key("top")
    }

    fn error<T: DeserializeOwned + fmt::Debug>(value: &Value) -> (String, ReadErrorKind) {
        let ReadError { at, kind } = read::<T>(value, &top(), &SkippedValues::default()).unwrap_err();
        (at.to_string(), kind)
    }

    #[test]
    fn an_error_has_its_path_and_kind() {
        let value =
            json!({ "stress": { "phases": [{ "rate": "1MB/s", "duration": "1s" }, { "rate": "2MB/s" }] } });
        let expected = ("top.stress.phases[1]".into(), ReadErrorKind::MissingKey("duration"));
        assert_eq!(error::<Settings>(&value), expected);
        let value = json!({ "guest": { "memry": 1 } });
        let (at, kind) = error::<Settings>(&value);
        let ReadErrorKind::UnknownKey { found, known } = kind else { panic!("{kind:?}") };
        assert!(found == "memry" && known.contains(&"memory"));
        assert_eq!(at, "top.guest");
        let (at, kind) = error::<Settings>(&json!({ "guest": { "accel": "kwm" } }));
        assert_eq!(at, "top.guest.accel");
        assert_eq!(kind.to_string(), "`kwm` is not one of `auto`, `kvm`, `tcg`");
    }

    #[test]
    fn skipped_items_are_absent_and_leave_indexes_unchanged() {
        let value = json!([1, "x", "y", 4, "z"]);
        let mut skipped = SkippedValues::default();
        for (i, next) in [(1, 2), (2, 4)] {
            assert!(skipped.insert(&value[i]) && !skipped.insert(&value[i]));
            let error = read::<Vec<u32>>(&value, &top(), &skipped).unwrap_err();
            assert_eq!(error.at, top().index(next));
        }
        skipped.insert(&value[4]);
        assert_eq!(read::<Vec<u32>>(&value, &top(), &skipped), Ok(vec![1, 4]));
    }

    #[test]
    fn a_mismatch_is_described_in_terms_of_the_file() {
        let words = |kind: ReadErrorKind| kind.to_string();
        let of = |value: Value| words(error::<u32>(&value).1);
        assert_eq!(
            of(json!(4_294_967_296_u64)),
            "expected a whole number up to 4294967295, found `4294967296`"
        );
        assert_eq!(of(json!(-1)), "expected a whole number, found `-1`");
        assert_eq!(of(json!(1.5)), "expected a whole number, found `1.5`");
        assert_eq!(of(json!(null)), "expected a whole number, found nothing");
        assert_eq!(words(error::<bool>(&json!([])).1), "expected `true` or `false`, found a list");
        assert_eq!(words(error::<String>(&json!({})).1), "expected a string, found a mapping");
    }
}
