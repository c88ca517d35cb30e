//! Reads the fields of a JSON object one by one. Unwanted fields are skipped, and a list goes to its
//! [`Texts`] text by text. So a body needs no memory besides its own bytes and what is kept of it; as a tree
//! of values, 16 MiB of `"",` were 190 MB.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::limits::API_TEXT_BYTES_MAX;

/// Receives the texts of a list in their order.
pub trait Texts: Default {
    /// Receives the text at a position; a null in the list is an empty text, as in Go.
    fn take(&mut self, position: usize, text: &str);
}

/// For requests without a list.
impl Texts for () {
    fn take(&mut self, _: usize, _: &str) {}
}

/// The value of a field, as far as it is kept.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Found {
    /// The field is missing or null.
    Nothing,
    Text(String),
    /// A string of which nothing was kept: it is over [`API_TEXT_BYTES_MAX`], or [`Texts`] received it.
    PassedOver,
    Boolean,
    /// A number; `None` if it is negative, too large, or not an integer.
    Number(Option<u64>),
    List,
    /// A list that [`Texts`] received. The first element that is not a string is named by position and kind.
    Taken(Option<(usize, &'static str)>),
    Object,
}

impl Found {
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Nothing => "null",
            Self::Text(_) | Self::PassedOver => "a string",
            Self::Boolean => "a boolean",
            Self::Number(_) => "a number",
            Self::List | Self::Taken(_) => "a list",
            Self::Object => "an object",
        }
    }
}

/// The wanted fields of an object. Of several fields with one name the last one counts.
#[derive(Debug)]
pub(super) struct Object<T> {
    pub(super) fields: Vec<(&'static str, Found)>,
    /// The field whose texts `texts` receives.
    pub(super) list: Option<(&'static str, Found)>,
    pub(super) texts: T,
}

/// Reads the fields whose names are in the object.
impl<'de, T: Texts> DeserializeSeed<'de> for Object<T> {
    type Value = Self;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de, T: Texts> Visitor<'de> for Object<T> {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Self, A::Error> {
        while let Some(name) = map.next_key_seed(Name(&self))? {
            match name {
                Named::Nothing => {
                    map.next_value::<IgnoredAny>()?;
                }
                Named::Field(at) => self.fields[at].1 = map.next_value_seed(Value::Field::<T>)?,
                Named::List => {
                    self.texts = T::default();
                    let found = map.next_value_seed(Value::List(&mut self.texts))?;
                    self.list = self.list.map(|(name, _)| (name, found));
                }
            }
        }
        Ok(self)
    }
}

/// Finds the field that a name means, in any case, as in Go.
struct Name<'a, T>(&'a Object<T>);

enum Named {
    Nothing,
    Field(usize),
    List,
}

impl<'de, T> DeserializeSeed<'de> for Name<'_, T> {
    type Value = Named;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Named, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<T> Visitor<'_> for Name<'_, T> {
    type Value = Named;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a field")
    }

    fn visit_str<E>(self, name: &str) -> Result<Named, E> {
        let Object { fields, list, .. } = self.0;
        if list.as_ref().is_some_and(|(list, _)| name.eq_ignore_ascii_case(list)) {
            return Ok(Named::List);
        }
        let position = fields.iter().position(|(field, _)| name.eq_ignore_ascii_case(field));
        Ok(position.map_or(Named::Nothing, Named::Field))
    }
}

/// Reads one value, by its use.
enum Value<'a, T> {
    Field,
    List(&'a mut T),
    /// An element of the list, at that position.
    Element(&'a mut T, usize),
}

impl<'de, T: Texts> DeserializeSeed<'de> for Value<'_, T> {
    type Value = Found;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Found, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, T: Texts> Visitor<'de> for Value<'_, T> {
    type Value = Found;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Found, E> {
        if let Self::Element(texts, position) = self {
            texts.take(position, "");
            return Ok(Found::PassedOver);
        }
        Ok(Found::Nothing)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Found, E> {
        Ok(Found::Boolean)
    }

    fn visit_u64<E>(self, number: u64) -> Result<Found, E> {
        Ok(Found::Number(Some(number)))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Found, E> {
        Ok(Found::Number(u64::try_from(number).ok()))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Found, E> {
        Ok(Found::Number(None))
    }

    fn visit_str<E>(self, text: &str) -> Result<Found, E> {
        match self {
            Self::Field if text.len() <= API_TEXT_BYTES_MAX => return Ok(Found::Text(text.to_owned())),
            Self::Field | Self::List(_) => {}
            Self::Element(texts, position) => texts.take(position, text),
        }
        Ok(Found::PassedOver)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Found, A::Error> {
        let Self::List(texts) = self else {
            while list.next_element::<IgnoredAny>()?.is_some() {}
            return Ok(Found::List);
        };
        let mut wrong = None;
        for position in 0.. {
            match list.next_element_seed(Value::Element(texts, position))? {
                None => break,
                Some(Found::PassedOver) => {}
                Some(other) => wrong = wrong.or(Some((position, other.kind()))),
            }
        }
        Ok(Found::Taken(wrong))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Found, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Found::Object)
    }
}
