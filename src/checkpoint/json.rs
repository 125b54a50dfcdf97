//! JSON as Python writes it, and values of bounded number.

use std::cell::Cell;
use std::fmt;

use serde::de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// Stands in for the bare tokens that Python's `json` writes and JSON does not know: a string of
/// one or two unlikely characters, since only a string of the token's own length leaves every other
/// byte in its place.
const NAN: (&[u8], &[u8]) = (b"NaN", b"\"\x7f\"");
const MINUS_INFINITY: (&[u8], &[u8]) = (b"-Infinity", b"\"\x7f-\"     ");
const INFINITY: (&[u8], &[u8]) = (b"Infinity", b"\"\x7f+\"    ");

/// Longest text that a [`Scalar`] keeps, in bytes; the one that is wanted is an optimiser's name.
pub(super) const MAX_TEXT: usize = 64;

/// Rewrites the bare tokens `NaN`, `Infinity` and `-Infinity` outside of strings, in place, so that
/// a strict parser takes the text; [`marked`] tells them from strings. Returns how many there were.
pub(super) fn mark_non_finite(text: &mut [u8]) -> usize {
    let mut n_marked = 0_usize;
    let (mut in_string, mut at) = (false, 0_usize);
    while let Some((byte, rest)) = text.get_mut(at..).and_then(<[u8]>::split_first_mut) {
        let mut n_read = 1;
        match byte {
            b'"' => in_string = !in_string,
            b'\\' if in_string => n_read = 2,
            b'N' | b'I' | b'-' if !in_string => {
                let token = [NAN, MINUS_INFINITY, INFINITY].into_iter().find(|(token, _)| {
                    token.first() == Some(byte)
                        && rest.starts_with(token.get(1..).unwrap_or_default())
                });
                if let Some((token, mark)) = token {
                    n_read = token.len();
                    n_marked = n_marked.saturating_add(1);
                    if let Some(place) = text.get_mut(at..at.saturating_add(n_read)) {
                        place.copy_from_slice(mark);
                    }
                }
            }
            _ => {}
        }
        at = at.saturating_add(n_read);
    }
    n_marked
}

/// The number that a string left by [`mark_non_finite`] stands for.
pub(super) fn marked(text: &str) -> Option<f64> {
    match text {
        "\x7f" => Some(f64::NAN),
        "\x7f+" => Some(f64::INFINITY),
        "\x7f-" => Some(f64::NEG_INFINITY),
        _ => None,
    }
}

/// A JSON value of at most so many parts, counted over all of it; marks of non-finite numbers
/// become null, as `serde_json` cannot hold them.
#[derive(Debug, Clone, Copy)]
pub(super) struct BoundedValue<'a>(pub(super) &'a Cell<usize>);

impl BoundedValue<'_> {
    fn spend<E: de::Error>(self) -> Result<(), E> {
        let left = self.0.get().checked_sub(1);
        self.0.set(left.ok_or_else(|| E::custom("too many values, expected fewer"))?);
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for BoundedValue<'_> {
    type Value = Value;
    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.spend()?;
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for BoundedValue<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(marked(text).map_or_else(|| Value::String(text.to_owned()), |_| Value::Null))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = seq.next_element_seed(self)? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut values = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            values.insert(key, map.next_value_seed(self)?);
        }
        Ok(Value::Object(values))
    }
}

/// One value of which only a scalar matters; all else is read over in constant memory.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Scalar {
    Whole(u64),
    Number(f64),
    Text(String),
    Other,
}

impl Scalar {
    /// As a number; a marked NaN or infinity is one.
    pub(super) fn number(&self) -> Option<f64> {
        match self {
            #[expect(clippy::cast_precision_loss, reason = "a loss or a rate, not a count")]
            Self::Whole(whole) => Some(*whole as f64),
            Self::Number(number) => Some(*number),
            Self::Text(_) | Self::Other => None,
        }
    }

    /// As a finite number.
    pub(super) fn finite(&self) -> Option<f64> {
        self.number().filter(|number| number.is_finite())
    }

    /// As a count; a float without fraction is one too.
    pub(super) fn whole(&self) -> Option<u64> {
        match self {
            Self::Whole(whole) => Some(*whole),
            // 2^53: above it a float no longer says which integer it was.
            Self::Number(number) if number.fract() == 0.0 && (0.0..=9.0e15).contains(number) => {
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "whole and between 0 and 2^53"
                )]
                let whole = *number as u64;
                Some(whole)
            }
            _ => None,
        }
    }
}

impl<'de> de::Deserialize<'de> for Scalar {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ScalarVisitor)
    }
}

struct ScalarVisitor;

impl<'de> Visitor<'de> for ScalarVisitor {
    type Value = Scalar;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Scalar, E> {
        Ok(Scalar::Other)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Scalar, E> {
        Ok(Scalar::Other)
    }

    fn visit_u64<E>(self, value: u64) -> Result<Scalar, E> {
        Ok(Scalar::Whole(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Scalar, E> {
        #[expect(clippy::cast_precision_loss, reason = "no negative number here is a count")]
        Ok(Scalar::Number(value as f64))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Scalar, E> {
        Ok(Scalar::Number(value))
    }

    fn visit_str<E>(self, text: &str) -> Result<Scalar, E> {
        let short =
            || if text.len() <= MAX_TEXT { Scalar::Text(text.to_owned()) } else { Scalar::Other };
        Ok(marked(text).map_or_else(short, Scalar::Number))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Scalar, A::Error> {
        while seq.next_element::<de::IgnoredAny>()?.is_some() {}
        Ok(Scalar::Other)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Scalar, A::Error> {
        while map.next_entry::<de::IgnoredAny, de::IgnoredAny>()?.is_some() {}
        Ok(Scalar::Other)
    }
}
