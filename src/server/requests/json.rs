//! Request bodies, read as Go's encoding/json reads them, because the Go `pi` is a client: field names match
//! in any case, the last field of a name counts, `null` counts as absent, unknown fields are ignored. Errors
//! name the field.

mod fields;

use serde::de::DeserializeSeed;

use crate::limits::API_TEXT_BYTES_MAX;
use crate::server::error::FormatError;
pub use fields::Texts;
use fields::{Found, Object};

/// The wanted fields of a JSON object, and the list that `T` takes. A field is taken by one of the names that
/// were given to [`Fields::parse`].
#[derive(Debug)]
pub struct Fields<T = ()>(Object<T>);

impl Fields {
    /// Reads the fields with these names.
    pub fn parse(body: &[u8], names: &[&'static str]) -> Result<Self, FormatError> {
        Self::read(body, names, None)
    }
}

impl<T: Texts> Fields<T> {
    /// Reads the fields with these names, and the list with the name `list`.
    pub fn parse_with(body: &[u8], names: &[&'static str], list: &'static str) -> Result<Self, FormatError> {
        Self::read(body, names, Some(list))
    }

    fn read(body: &[u8], names: &[&'static str], list: Option<&'static str>) -> Result<Self, FormatError> {
        let object = Object {
            fields: names.iter().map(|name| (*name, Found::Nothing)).collect(),
            list: list.map(|name| (name, Found::Nothing)),
            texts: T::default(),
        };
        let mut deserializer = serde_json::Deserializer::from_slice(body);
        let read = object.deserialize(&mut deserializer);
        let read = read.and_then(|object| deserializer.end().map(|()| object));
        read.map(Self).map_err(|error| FormatError::Json { reason: error.to_string() })
    }

    fn take(&mut self, name: &'static str) -> Found {
        let field = self.0.fields.iter_mut().find(|(field, _)| *field == name);
        let (_, found) = field.expect("a field is read before it is asked for");
        std::mem::replace(found, Found::Nothing)
    }

    /// Takes a string; `None` if it is missing.
    pub fn text(&mut self, name: &'static str) -> Result<Option<String>, FormatError> {
        self.text_within(name, API_TEXT_BYTES_MAX)
    }

    /// Takes a string of at most `bytes_max` bytes, which are at most [`API_TEXT_BYTES_MAX`].
    pub fn text_within(
        &mut self,
        name: &'static str,
        bytes_max: usize,
    ) -> Result<Option<String>, FormatError> {
        let too_long = || Err(FormatError::value(name, format!("is longer than {bytes_max} bytes")));
        match self.take(name) {
            Found::Nothing => Ok(None),
            Found::Text(text) if text.len() <= bytes_max => Ok(Some(text)),
            Found::Text(_) | Found::PassedOver => too_long(),
            other => Err(type_error(name, "a string", other.kind())),
        }
    }

    /// Takes a string that must be there and not empty.
    pub fn required_text(&mut self, name: &'static str) -> Result<String, FormatError> {
        self.text(name)?.filter(|text| !text.is_empty()).ok_or(FormatError::Missing { field: name })
    }

    /// Takes an integer from 0 on; `None` if it is missing.
    pub fn unsigned(&mut self, name: &'static str) -> Result<Option<u64>, FormatError> {
        match self.take(name) {
            Found::Nothing => Ok(None),
            Found::Number(Some(number)) => Ok(Some(number)),
            Found::Number(None) => {
                Err(FormatError::value(name, format!("must be an integer from 0 to {}", u64::MAX)))
            }
            other => Err(type_error(name, "an integer", other.kind())),
        }
    }

    /// The list of strings, which is there.
    pub fn required_texts(&mut self) -> Result<T, FormatError> {
        let (name, found) = self.0.list.as_ref().expect("the list is read before it is asked for");
        match found {
            Found::Nothing => Err(FormatError::Missing { field: name }),
            Found::Taken(None) => Ok(std::mem::take(&mut self.0.texts)),
            Found::Taken(Some((position, kind))) => {
                Err(type_error(&format!("{name}[{position}]"), "a string", kind))
            }
            other => Err(type_error(name, "a list of strings", other.kind())),
        }
    }
}

fn type_error(field: &str, expected: &'static str, found: &'static str) -> FormatError {
    FormatError::Type { field: field.to_owned(), expected, found }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a list had.
    #[derive(Debug, Default)]
    struct Kept(Vec<(usize, String)>);

    impl Texts for Kept {
        fn take(&mut self, position: usize, text: &str) {
            self.0.push((position, text.to_owned()));
        }
    }

    fn fields(json: &str) -> Fields<Kept> {
        Fields::parse_with(json.as_bytes(), &["group", "holder", "epoch"], "keys").unwrap()
    }

    fn texts(json: &str) -> Result<Vec<String>, String> {
        let kept = fields(json).required_texts().map_err(|error| error.to_string())?;
        assert!(kept.0.iter().map(|(position, _)| *position).eq(0..kept.0.len()), "{kept:?}");
        Ok(kept.0.into_iter().map(|(_, text)| text).collect())
    }

    #[test]
    fn names_in_any_case_count_and_the_last_one_wins() {
        let json = r#"{"Group":"a","HOLDER":"x","KEYS":["a"],"group":"b","other":1,"keys":["b","c"]}"#;
        let mut read = fields(json);
        assert_eq!(read.required_text("group").unwrap(), "b");
        assert_eq!(read.required_text("holder").unwrap(), "x");
        assert_eq!(texts(json).unwrap(), ["b", "c"]);
        assert_eq!(fields(r#"{"epoch":"x","epoch":7}"#).unsigned("epoch").unwrap(), Some(7));
    }

    #[test]
    fn null_and_empty_are_missing() {
        for json in ["{}", r#"{"group":null}"#, r#"{"group":"a","group":null}"#, r#"{"group":""}"#] {
            let error = fields(json).required_text("group").unwrap_err();
            assert_eq!(error.to_string(), "field group is required", "{json}");
        }
        for json in ["{}", r#"{"keys":null}"#, r#"{"keys":["a"],"keys":null}"#] {
            assert_eq!(texts(json).unwrap_err(), "field keys is required", "{json}");
        }
        assert_eq!(texts(r#"{"keys":["a",null]}"#).unwrap(), ["a", ""]);
        assert_eq!(texts(r#"{"keys":[]}"#).unwrap(), [] as [&str; 0]);
    }

    #[test]
    fn wrong_types_are_named_with_their_position() {
        let error = fields(r#"{"holder":7}"#).text("holder").unwrap_err();
        assert_eq!(error.to_string(), "field holder must be a string, not a number");
        for (value, found) in [
            ("\"a\"", "a string"),
            ("{\"a\":[1,{}]}", "an object"),
            ("true", "a boolean"),
            ("-1", "a number"),
        ] {
            let error = texts(&format!(r#"{{"keys":{value}}}"#)).unwrap_err();
            assert_eq!(error, format!("field keys must be a list of strings, not {found}"));
        }
        for (value, found) in [("{}", "an object"), ("[[1],2]", "a list"), ("1e3", "a number")] {
            let error = texts(&format!(r#"{{"keys":["a",{value},7,"b"]}}"#)).unwrap_err();
            assert_eq!(error, format!("field keys[1] must be a string, not {found}"));
        }
        let error = fields(r#"{"epoch":"1"}"#).unsigned("epoch").unwrap_err();
        assert_eq!(error.to_string(), "field epoch must be an integer, not a string");
        for json in [r#"{"epoch":-1}"#, r#"{"epoch":1.5}"#, r#"{"epoch":18446744073709551616}"#] {
            let error = fields(json).unsigned("epoch").unwrap_err().to_string();
            assert!(error.contains("epoch must be an integer from 0"), "{json}: {error}");
        }
    }

    #[test]
    fn a_text_longer_than_any_field_is_refused_with_the_limit_of_its_own() {
        let json = |bytes: usize| format!(r#"{{"holder":"{}"}}"#, "x".repeat(bytes));
        assert!(fields(&json(API_TEXT_BYTES_MAX)).required_text("holder").is_ok());
        let error = fields(&json(API_TEXT_BYTES_MAX + 1)).required_text("holder").unwrap_err();
        assert_eq!(error.to_string(), format!("field holder is longer than {API_TEXT_BYTES_MAX} bytes"));
        for bytes in [8, API_TEXT_BYTES_MAX + 1] {
            let error = fields(&json(bytes)).text_within("holder", 7).unwrap_err();
            assert_eq!(error.to_string(), "field holder is longer than 7 bytes");
        }
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for json in ["", "{", "[]", "7", "\"a\"", "{\"a\":1} x", "\u{0}", &"[".repeat(100_000)] {
            assert!(
                matches!(Fields::parse(json.as_bytes(), &["a"]), Err(FormatError::Json { .. })),
                "{json:.20}"
            );
        }
    }
}
