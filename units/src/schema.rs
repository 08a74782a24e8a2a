//! The JSON Schema of the quantities, with which editors validate and complete matrix files.

use crate::{BitRate, ByteRate, Bytes, Quantity, Span};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use std::borrow::Cow;

/// Returns the schema of a quantity: a string that matches its text form, or the number 0.
fn schema<Q: Quantity>() -> Schema {
    let units = Q::UNITS.iter().map(|u| u.name).collect::<Vec<_>>().join("|");
    json_schema!({
        "description": format!("{} with its unit, like `{}`", Q::NOUN, Q::EXAMPLE),
        "anyOf": [
            { "type": "string", "pattern": format!("^ *(0|[0-9]+(\\.[0-9]+)? *({units})) *$") },
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
