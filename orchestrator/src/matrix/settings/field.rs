//! Access to settings by their path, independent of their types.
//!
//! [`section!`] declares a section, and [`settings!`] declares the list of sections. There is no other list
//! of settings: axes, conditions, suggestions, comparisons of two matrices and hashes use the [`Field`]s that
//! these macros generate, and the schema is generated from the same types.

use super::value::{Comparability, SettingType, Value};
use crate::matrix::{
    diagnostic::KeyPath,
    typed::{self, ReadError, ReadErrorKind, SkippedValues},
};
use serde_json::Value as Json;
use std::fmt;

/// Reads a value, as written in a file, into a field of an `S`.
type ReadFn<S> = dyn Fn(&mut S, &Json, &KeyPath, &SkippedValues) -> Result<(), ReadError> + Send + Sync;
/// Copies the value of a field from one `S` to another.
type CopyFn<S> = dyn Fn(&S, &mut S) + Send + Sync;
/// Returns the value of a field of an `S`.
type GetFn<S> = dyn Fn(&S) -> Value + Send + Sync;

/// A field of a struct `S`: a setting, if `S` is [`Settings`](super::Settings), or else a key of a section.
pub(crate) struct Field<S> {
    path: String,
    comparability: Comparability,
    literal: fn(&str) -> Result<Value, ReadErrorKind>,
    read: Box<ReadFn<S>>,
    copy: Box<CopyFn<S>>,
    value: Box<GetFn<S>>,
}

/// A type whose fields are settings.
pub(crate) trait Section: Sized + 'static {
    /// Returns all fields, in the order of their declaration. A section that is itself a single setting has
    /// one field, with an empty path.
    fn fields() -> Vec<Field<Self>>;
}

impl<S: 'static> Field<S> {
    pub(super) fn new<T: SettingType>(name: &str, get: fn(&S) -> &T, get_mut: fn(&mut S) -> &mut T) -> Self {
        Self {
            path: name.into(),
            comparability: T::COMPARABILITY,
            literal: T::literal,
            read: Box::new(move |into, written, at, skipped| {
                *get_mut(into) = typed::read_settings(written, at, skipped)?;
                Ok(())
            }),
            copy: Box::new(move |from, to| get_mut(to).clone_from(get(from))),
            value: Box::new(move |of| get(of).value()),
        }
    }

    /// Converts a field of a section to a field of the `R` that contains the section.
    pub(super) fn within<R: 'static>(
        self,
        section: &str,
        get: fn(&R) -> &S,
        get_mut: fn(&mut R) -> &mut S,
    ) -> Field<R> {
        let path = if self.path.is_empty() { section.into() } else { format!("{section}.{}", self.path) };
        Field { path, ..self.of(get, get_mut) }
    }

    /// Converts a field of a part of an `R` to a field of the `R`, under the same path.
    pub(super) fn of<R: 'static>(self, get: fn(&R) -> &S, get_mut: fn(&mut R) -> &mut S) -> Field<R> {
        let Self { path, comparability, literal, read, copy, value } = self;
        Field {
            path,
            comparability,
            literal,
            read: Box::new(move |into, written, at, skipped| read(get_mut(into), written, at, skipped)),
            copy: Box::new(move |from, to| copy(get(from), get_mut(to))),
            value: Box::new(move |of| value(get(of))),
        }
    }

    /// Returns the path of the setting, such as `stress.rate`; within a section, `rate`.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// Returns the comparisons that conditions can make with the setting.
    pub(crate) const fn comparability(&self) -> Comparability {
        self.comparability
    }

    /// Parses a value in a condition, which is written as in a matrix file.
    pub(crate) fn literal(&self, text: &str) -> Result<Value, ReadErrorKind> {
        (self.literal)(text)
    }

    /// Checks that a condition can compare the setting with a value or, if `absence`, with `none`. If it
    /// cannot, the error is the message and the help.
    pub(crate) fn check_comparable(&self, absence: bool) -> Result<(), (String, Option<String>)> {
        let help = match self.comparability {
            Comparability::Ordered | Comparability::EqualityOnly => return Ok(()),
            Comparability::AbsenceOnly if absence => return Ok(()),
            Comparability::AbsenceOnly => Some("it can only be compared with `none`".into()),
            Comparability::Never => None,
        };
        Err((format!("`{}` is not a single value and cannot be compared", self.path), help))
    }

    /// Reads a value into the field, as if its skipped parts were absent. `at` is the path at which the value
    /// is written.
    pub(crate) fn read(
        &self,
        into: &mut S,
        written: &Json,
        at: &KeyPath,
        skipped: &SkippedValues,
    ) -> Result<(), ReadError> {
        (self.read)(into, written, at, skipped)
    }

    /// Copies the value of this field from one `S` to another.
    pub(crate) fn copy(&self, from: &S, to: &mut S) {
        (self.copy)(from, to);
    }

    /// Returns the value of this field.
    pub(crate) fn value(&self, of: &S) -> Value {
        (self.value)(of)
    }
}

impl<S> fmt::Debug for Field<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Field").field(&self.path).finish()
    }
}

/// Implements [`Section`] for a struct declared elsewhere, given the names of its fields. If a field is
/// missing from the list, the code does not compile.
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

/// Declares a section: each setting with its description, type and default.
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

/// Declares the list of sections, each with its description.
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
            /// The names of all sections, in the order of their declaration.
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
