//! The section `link` of a matrix: netem's [`Profile`], whose rate may follow a trace, and its ends.

use super::{
    TraceFile,
    field::{self, Field, Section},
};
use netem::Profile;
use schemars::JsonSchema;
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{DeserializeSeed, Error as _, IntoDeserializer, MapAccess, Visitor, value::MapAccessDeserializer},
};
use std::{
    fmt,
    ops::{Deref, DerefMut},
    sync::OnceLock,
};
use units::BitRate;

field::fields!(Profile {
    rate,
    shaper,
    burst,
    queue,
    delay,
    jitter,
    jitter_correlation,
    distribution,
    loss,
    loss_correlation,
    loss_bursts,
    duplicate,
    duplicate_correlation,
    corrupt,
    corrupt_correlation,
    reorder,
    reorder_correlation,
    reorder_gap,
    limit,
    slots,
});

/// Returns all settings of a link, under the names that they have within the section.
pub(super) fn fields() -> &'static [Field<Profile>] {
    static FIELDS: OnceLock<Vec<Field<Profile>>> = OnceLock::new();
    FIELDS.get_or_init(Profile::fields)
}

/// The migration link. All settings but the trace and the tuning are a `Profile`, which other links have too.
///
/// A packet first passes the delay line, where it may be lost, duplicated, corrupted, reordered and delayed.
/// It then waits in the queue of the bottleneck until the rate permits sending it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields, default)]
pub struct Link {
    /// The link without its trace and its ends.
    #[serde(flatten)]
    pub profile: Profile,
    /// The file with the rate of the link over time, in place of `rate`. It is found relative to the matrix
    /// file. Its lines are like `250ms 12mbit`, the first at `0s`, and the last is like `6s end`; or it is in
    /// Mahimahi's format. The trace begins with the migrate command; before that, its first rate is in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(default)]
    pub trace: Option<TraceFile<BitRate>>,
    /// Whether the trace starts over at its end. If not, its last rate stays.
    #[serde(skip_serializing_if = "Clone::clone")]
    #[schemars(extend("default" = true))]
    pub repeat_trace: bool,
    /// Whether TCP's buffers at both ends of a link with a delay may grow to what the link holds, as on hosts
    /// that are tuned for it. If not, the kernel's limits stay, and one connection carries a few megabytes
    /// per round trip at most.
    #[serde(skip_serializing_if = "Clone::clone")]
    #[schemars(extend("default" = true))]
    pub tcp_tuning: bool,
}

impl Default for Link {
    fn default() -> Self {
        Profile::default().into()
    }
}

impl From<Profile> for Link {
    fn from(profile: Profile) -> Self {
        Self { profile, trace: None, repeat_trace: true, tcp_tuning: true }
    }
}

impl Deref for Link {
    type Target = Profile;

    fn deref(&self) -> &Profile {
        &self.profile
    }
}

impl DerefMut for Link {
    fn deref_mut(&mut self) -> &mut Profile {
        &mut self.profile
    }
}

impl Link {
    /// Returns the link at the beginning of the migration.
    pub fn at_start(&self) -> Profile {
        self.at(self.course().and_then(|course| course.first()))
    }

    /// Returns the link with the lowest and with the highest rate of its trace; the same twice without one.
    pub fn extremes(&self) -> [Profile; 2] {
        let rates = || self.trace.as_ref()?.content().map(|trace| trace.steps().iter().map(|step| step.rate));
        [rates().and_then(Iterator::min), rates().and_then(Iterator::max)].map(|rate| self.at(rate))
    }

    fn at(&self, rate: Option<BitRate>) -> Profile {
        Profile { rate: rate.or(self.profile.rate), ..self.profile.clone() }
    }
}

impl Section for Link {
    fn fields() -> Vec<Field<Self>> {
        let of_profile = Profile::fields().into_iter();
        let mut fields: Vec<_> = of_profile
            .map(|field| field.of(|link: &Self| &link.profile, |link: &mut Self| &mut link.profile))
            .collect();
        fields.push(Field::new("trace", |link: &Self| &link.trace, |link: &mut Self| &mut link.trace));
        fields.push(Field::new(
            "repeat_trace",
            |link: &Self| &link.repeat_trace,
            |link: &mut Self| &mut link.repeat_trace,
        ));
        fields.push(Field::new(
            "tcp_tuning",
            |link: &Self| &link.tcp_tuning,
            |link: &mut Self| &mut link.tcp_tuning,
        ));
        fields
    }
}

impl<'de> Deserialize<'de> for Link {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Keys;

        impl<'de> Visitor<'de> for Keys {
            type Value = Link;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a mapping of keys to values")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Link, M::Error> {
                let mut link = Link::default();
                while let Some(key) = map.next_key::<String>()? {
                    match key.as_str() {
                        "trace" => link.trace = map.next_value()?,
                        "repeat_trace" => link.repeat_trace = map.next_value()?,
                        "tcp_tuning" => link.tcp_tuning = map.next_value()?,
                        _ => match fields().iter().find(|field| field.path() == key) {
                            Some(field) => field.copy(&one_key(&key, &mut map)?, &mut link.profile),
                            None => return Err(M::Error::unknown_field(&key, names())),
                        },
                    }
                }
                Ok(link)
            }
        }

        deserializer.deserialize_map(Keys)
    }
}

/// Returns the names of all keys of the section.
fn names() -> &'static [&'static str] {
    static FIELDS: OnceLock<Vec<Field<Link>>> = OnceLock::new();
    static NAMES: OnceLock<Vec<&str>> = OnceLock::new();
    NAMES.get_or_init(|| FIELDS.get_or_init(Link::fields).iter().map(Field::path).collect())
}

/// Reads the value of a key that was just read, as a profile that has it and is otherwise meaningless.
/// Deserializing each key as a profile of its own keeps track of the keys that were written; a whole profile
/// would not distinguish them from defaults.
pub(super) fn one_key<'de, M: MapAccess<'de>>(key: &str, map: &mut M) -> Result<Profile, M::Error> {
    /// One entry of a mapping, as a mapping.
    struct SingleEntryMap<'a, M> {
        key: Option<&'a str>,
        map: &'a mut M,
    }

    impl<'de, M: MapAccess<'de>> MapAccess<'de> for SingleEntryMap<'_, M> {
        type Error = M::Error;

        fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, M::Error> {
            self.key.take().map(|key| seed.deserialize(key.into_deserializer())).transpose()
        }

        fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, M::Error> {
            self.map.next_value_seed(seed)
        }
    }

    Profile::deserialize(MapAccessDeserializer::new(SingleEntryMap { key: Some(key), map }))
}
