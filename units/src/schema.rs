//! The JSON Schema of the quantities, with which editors validate and complete matrix files.

use crate::{BitRate, ByteRate, Bytes, Kind, Quantity, Span, parse::Unit, spelling};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use std::borrow::Cow;

/// Returns the schema of a quantity: a string that matches its text form, or the number 0. The pattern allows
/// what the parser reads, except that it cannot tell which numbers are too large or too fine.
fn schema<Q: Quantity>() -> Schema {
    let units = Q::UNITS.iter().chain(Q::ONLY_READ).flat_map(Unit::spellings);
    let units = units.map(spelling::pattern).collect::<Vec<_>>().join("|");
    let part = format!("[0-9]+(\\.[0-9]+)?\\s*({units})");
    let more = if Q::KIND == Kind::Nanoseconds { format!("(\\s*{part})*") } else { String::new() };
    json_schema!({
        "description": format!("{} with its unit, like `{}`", Q::NOUN, Q::EXAMPLE),
        "anyOf": [
            { "type": "string", "pattern": format!("^\\s*(0+(\\.0+)?|{part}{more})\\s*$") },
            { "const": 0 },
        ],
    })
}

macro_rules! text_schema {
    ($($type:ident),+) => {$(
        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                schema::<$type>()
            }
        }
    )+};
}

text_schema!(Bytes, ByteRate, BitRate, Span);
