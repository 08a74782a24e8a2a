//! Quantities as plain numbers in JSON, for figures that programs calculate with: serde's `serialize_with`.
//!
//! The name of such a field has the unit:
//! `#[serde(rename = "delay_ms", serialize_with = "numbers::millis")]`.

use crate::{BitRate, ByteRate, Span};
use serde::{Serialize, Serializer};

/// Writes a time in milliseconds, as a number with a fraction.
pub fn millis<S: Serializer>(span: &Span, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(span.as_millis_f64())
}

/// Writes a data rate in whole bytes per second.
pub fn bytes_per_s<S: Serializer>(rate: &ByteRate, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(rate.get())
}

/// Writes a data rate in whole bytes per second, or nothing.
pub fn optional_bytes_per_s<S: Serializer>(rate: &Option<ByteRate>, to: S) -> Result<S::Ok, S::Error> {
    rate.map(ByteRate::get).serialize(to)
}

/// Writes the rate of a link in whole bits per second, or nothing.
pub fn optional_bits_per_s<S: Serializer>(rate: &Option<BitRate>, to: S) -> Result<S::Ok, S::Error> {
    rate.map(BitRate::get).serialize(to)
}
