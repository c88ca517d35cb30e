//! Request bodies as Go's encoding/json reads them, because the Go `pi` is a client: field names in
//! any case, the last one of a name counts, `null` is absent, unknown fields are ignored. What is
//! wrong is said with the name of the field.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::Value;

/// What is wrong with a request; the text behind "Wrong request format: ".
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// Not JSON, or not an object.
    #[error("{reason}")]
    Json {
        /// The parser's words.
        reason: String,
    },
    /// A required field is not there, null or empty.
    #[error("field {field} is required")]
    Missing {
        /// Which.
        field: &'static str,
    },
    /// A field has another type.
    #[error("field {field} must be {expected}, not {found}")]
    Type {
        /// Which, with the position in a list.
        field: String,
        /// What it has to be.
        expected: &'static str,
        /// What it is.
        found: &'static str,
    },
    /// A field has a value that is not allowed.
    #[error("field {field} {reason}")]
    Value {
        /// Which, with the position in a list.
        field: String,
        /// Continues the sentence.
        reason: String,
    },
}

impl FormatError {
    /// A value that is not allowed; `reason` continues "field x …".
    pub fn value(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Value { field: field.into(), reason: reason.into() }
    }
}

/// The fields of a JSON object, in the order of the text.
#[derive(Debug)]
pub struct Fields(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Vec<(String, Value)>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(entries)
            }
        }
        deserializer.deserialize_map(Entries).map(Fields)
    }
}

impl Fields {
    /// Reads a body.
    pub fn parse(body: &[u8]) -> Result<Self, FormatError> {
        serde_json::from_slice(body).map_err(|error| FormatError::Json { reason: error.to_string() })
    }

    /// Takes the last field of that name in any case, unless it is null.
    fn take(&mut self, name: &str) -> Option<Value> {
        let (_, value) = self.0.iter_mut().rev().find(|(key, _)| key.eq_ignore_ascii_case(name))?;
        Some(value.take()).filter(|value| !value.is_null())
    }

    /// A string.
    pub fn text(&mut self, name: &'static str) -> Result<Option<String>, FormatError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(type_error(name, "a string", &other)),
        }
    }

    /// A string that is there and not empty.
    pub fn required_text(&mut self, name: &'static str) -> Result<String, FormatError> {
        self.text(name)?.filter(|text| !text.is_empty()).ok_or(FormatError::Missing { field: name })
    }

    /// A number from 0 on.
    pub fn unsigned(&mut self, name: &'static str) -> Result<Option<u64>, FormatError> {
        match self.take(name) {
            None => Ok(None),
            Some(value) => match value.as_u64() {
                Some(number) => Ok(Some(number)),
                None if value.is_number() => {
                    Err(FormatError::value(name, format!("must be an integer from 0 to {}", u64::MAX)))
                }
                None => Err(type_error(name, "an integer", &value)),
            },
        }
    }

    /// A list of strings that is there; a null in it is an empty string, as in Go.
    pub fn required_texts(&mut self, name: &'static str) -> Result<Vec<String>, FormatError> {
        let list = match self.take(name) {
            None => return Err(FormatError::Missing { field: name }),
            Some(Value::Array(list)) => list,
            Some(other) => return Err(type_error(name, "a list of strings", &other)),
        };
        let text = |(position, value): (usize, Value)| match value {
            Value::String(text) => Ok(text),
            Value::Null => Ok(String::new()),
            other => Err(type_error(&format!("{name}[{position}]"), "a string", &other)),
        };
        list.into_iter().enumerate().map(text).collect()
    }
}

fn type_error(field: &str, expected: &'static str, found: &Value) -> FormatError {
    let found = match found {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    };
    FormatError::Type { field: field.to_owned(), expected, found }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(json: &str) -> Fields {
        Fields::parse(json.as_bytes()).unwrap()
    }

    #[test]
    fn names_in_any_case_count_and_the_last_one_wins() {
        let mut fields = fields(r#"{"Group":"a","HOLDER":"x","group":"b","other":1}"#);
        assert_eq!(fields.required_text("group").unwrap(), "b");
        assert_eq!(fields.required_text("holder").unwrap(), "x");
    }

    #[test]
    fn null_and_empty_are_missing() {
        for json in ["{}", r#"{"group":null}"#, r#"{"group":""}"#] {
            let error = fields(json).required_text("group").unwrap_err();
            assert_eq!(error.to_string(), "field group is required", "{json}");
        }
        let error = fields(r#"{"keys":null}"#).required_texts("keys").unwrap_err();
        assert_eq!(error.to_string(), "field keys is required");
        assert_eq!(fields(r#"{"keys":["a",null]}"#).required_texts("keys").unwrap(), ["a", ""]);
    }

    #[test]
    fn wrong_types_are_named_with_their_position() {
        let error = fields(r#"{"holder":7}"#).text("holder").unwrap_err();
        assert_eq!(error.to_string(), "field holder must be a string, not a number");
        let error = fields(r#"{"keys":"a"}"#).required_texts("keys").unwrap_err();
        assert_eq!(error.to_string(), "field keys must be a list of strings, not a string");
        let error = fields(r#"{"keys":["a",{}]}"#).required_texts("keys").unwrap_err();
        assert_eq!(error.to_string(), "field keys[1] must be a string, not an object");
        let error = fields(r#"{"epoch":"1"}"#).unsigned("epoch").unwrap_err();
        assert_eq!(error.to_string(), "field epoch must be an integer, not a string");
        for json in [r#"{"epoch":-1}"#, r#"{"epoch":1.5}"#, r#"{"epoch":18446744073709551616}"#] {
            let error = fields(json).unsigned("epoch").unwrap_err().to_string();
            assert!(error.contains("epoch must be an integer from 0"), "{json}: {error}");
        }
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for json in ["", "{", "[]", "7", "\"a\"", "{\"a\":1} x", "\u{0}", &"[".repeat(100_000)] {
            assert!(matches!(Fields::parse(json.as_bytes()), Err(FormatError::Json { .. })));
        }
    }
}
