//! One setting as the rest of the program handles it: by its path, whatever its type.
//!
//! [`section!`] declares a section and [`settings!`] the list of sections. Nothing else lists them: axes,
//! conditions, suggestions, comparisons of two matrices and hashes go through the fields that these make, and
//! the schema through the same types.

use super::value::{Compared, SettingType, Value};
use crate::matrix::{
    diagnostic::FilePath,
    typed::{self, Refusal, Refused, Skipped},
};
use serde_json::Value as Json;
use std::fmt;

/// Reads a value as written into an `S`.
type Read<S> = dyn Fn(&mut S, &Json, &FilePath, &Skipped) -> Result<(), Refused> + Send + Sync;
/// Copies a value from one `S` to another.
type Copy<S> = dyn Fn(&S, &mut S) + Send + Sync;
/// The value that an `S` has.
type Get<S> = dyn Fn(&S) -> Value + Send + Sync;

/// One value of an `S`: a setting of [`Settings`](super::Settings), or a key of one of its sections.
pub(crate) struct Field<S> {
    path: String,
    compared: Compared,
    literal: fn(&str) -> Result<Value, Refusal>,
    read: Box<Read<S>>,
    copy: Box<Copy<S>>,
    value: Box<Get<S>>,
}

/// A part of the settings that lists its fields.
pub(crate) trait Section: Sized + 'static {
    /// Every field, in the order of the type. A part that is a setting by itself has one, without a name.
    fn fields() -> Vec<Field<Self>>;
}

impl<S: 'static> Field<S> {
    pub(super) fn new<T: SettingType>(name: &str, get: fn(&S) -> &T, get_mut: fn(&mut S) -> &mut T) -> Self {
        Self {
            path: name.into(),
            compared: T::COMPARED,
            literal: T::literal,
            read: Box::new(move |into, written, at, skipped| {
                *get_mut(into) = typed::read(written, at, skipped)?;
                Ok(())
            }),
            copy: Box::new(move |from, to| get_mut(to).clone_from(get(from))),
            value: Box::new(move |of| get(of).value()),
        }
    }

    /// The same field, of what `S` is a part of.
    pub(super) fn within<R: 'static>(
        self,
        section: &str,
        get: fn(&R) -> &S,
        get_mut: fn(&mut R) -> &mut S,
    ) -> Field<R> {
        let Self { path, compared, literal, read, copy, value } = self;
        let path = if path.is_empty() { section.into() } else { format!("{section}.{path}") };
        Field {
            path,
            compared,
            literal,
            read: Box::new(move |into, written, at, skipped| read(get_mut(into), written, at, skipped)),
            copy: Box::new(move |from, to| copy(get(from), get_mut(to))),
            value: Box::new(move |of| value(get(of))),
        }
    }

    /// The dotted path of a setting: `stress.rate`.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// What conditions can ask of it.
    pub(crate) const fn compared(&self) -> Compared {
        self.compared
    }

    /// Reads a value of a condition, written as the setting itself is written.
    pub(crate) fn literal(&self, text: &str) -> Result<Value, Refusal> {
        (self.literal)(text)
    }

    /// Whether a condition can ask for a value of it, or for its absence. If not, the message and help.
    pub(crate) fn comparable(&self, absence: bool) -> Result<(), (String, Option<String>)> {
        let help = match self.compared {
            Compared::Ordered | Compared::Equal => return Ok(()),
            Compared::Absent if absence => return Ok(()),
            Compared::Absent => Some("compare it with `none`".into()),
            Compared::Never => None,
        };
        Err((format!("`{}` is no single value that could be compared", self.path), help))
    }

    /// Reads a value that is written at `at`, but for what is skipped.
    pub(crate) fn read(
        &self,
        into: &mut S,
        written: &Json,
        at: &FilePath,
        skipped: &Skipped,
    ) -> Result<(), Refused> {
        (self.read)(into, written, at, skipped)
    }

    /// Sets it to what it is in `from`.
    pub(crate) fn copy(&self, from: &S, to: &mut S) {
        (self.copy)(from, to);
    }

    /// Its value.
    pub(crate) fn value(&self, of: &S) -> Value {
        (self.value)(of)
    }
}

impl<S> fmt::Debug for Field<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Field").field(&self.path).finish()
    }
}

/// Lists the fields of a section whose type is declared elsewhere. Does not compile while one is missing.
macro_rules! fields {
    ($section:ty { $($field:ident),+ $(,)? }) => {
        impl $crate::matrix::settings::field::Section for $section {
            fn fields() -> Vec<$crate::matrix::settings::field::Field<Self>> {
                let _complete = |Self { $($field: _),+ }: Self| ();
                vec![$($crate::matrix::settings::field::Field::new(
                    stringify!($field),
                    |section: &Self| &section.$field,
                    |section: &mut Self| &mut section.$field,
                )),+]
            }
        }
    };
}

/// Declares a section: each setting with its description, its type and its default.
macro_rules! section {
    (
        $(#[$about:meta])*
        $visible:vis struct $section:ident {
            $($(#[$about_field:meta])* $visible_field:vis $field:ident: $type:ty = $default:expr,)+
        }
    ) => {
        $(#[$about])*
        #[derive(
            Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema,
        )]
        #[serde(default, deny_unknown_fields)]
        $visible struct $section {
            $($(#[$about_field])* $visible_field $field: $type,)+
        }

        impl Default for $section {
            fn default() -> Self {
                Self { $($field: $default),+ }
            }
        }

        $crate::matrix::settings::field::fields!($section { $($field),+ });
    };
}

/// Declares the sections, with the description of each.
macro_rules! settings {
    (
        $(#[$about:meta])*
        $visible:vis struct $settings:ident {
            $($(#[$about_section:meta])* $visible_section:vis $section:ident: $type:ty,)+
        }
    ) => {
        $(#[$about])*
        #[derive(
            Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema,
        )]
        #[serde(default, deny_unknown_fields)]
        $visible struct $settings {
            $($(#[$about_section])* $visible_section $section: $type,)+
        }

        impl $settings {
            /// The names of the sections, in the order of the type.
            pub(crate) const SECTIONS: &[&str] = &[$(stringify!($section)),+];
        }

        impl $crate::matrix::settings::field::Section for $settings {
            fn fields() -> Vec<$crate::matrix::settings::field::Field<Self>> {
                let mut all = Vec::new();
                $(
                    let section = <$type as $crate::matrix::settings::field::Section>::fields();
                    all.extend(section.into_iter().map(|field| field.within(
                        stringify!($section),
                        |settings: &Self| &settings.$section,
                        |settings: &mut Self| &mut settings.$section,
                    )));
                )+
                all
            }
        }
    };
}

pub(super) use {fields, section, settings};
