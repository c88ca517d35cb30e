//! Query strings as gin reads them: the first value of a name counts, empty is absent.

use std::borrow::Cow;
use std::str::FromStr;

use percent_encoding::percent_decode_str;

use crate::server::error::FormatError;

/// The pairs of a query string, decoded, in their order.
#[derive(Debug, Default)]
pub struct Query<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

impl<'a> Query<'a> {
    /// Reads the part of a target behind the `?`.
    pub fn parse(query: Option<&'a str>) -> Self {
        let pairs = query.unwrap_or_default().split('&').filter(|part| !part.is_empty()).map(|part| {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            (decode(name), decode(value))
        });
        Self(pairs.collect())
    }

    /// The first value of a name; `None` if it is missing or empty.
    pub fn text(&self, name: &str) -> Option<&str> {
        let (_, value) = self.0.iter().find(|(key, _)| key == name)?;
        Some(value.as_ref()).filter(|value: &&str| !value.is_empty())
    }

    /// The first value of a name, which must be there and not empty.
    pub fn required(&self, name: &'static str) -> Result<&str, FormatError> {
        self.text(name).ok_or(FormatError::Missing { field: name })
    }

    /// An integer; `None` if it is missing or empty.
    pub fn integer<T: FromStr>(&self, name: &str) -> Result<Option<T>, FormatError> {
        let parse = |text: &str| {
            text.parse().map_err(|_| FormatError::value(name, format!("must be an integer, not {text:?}")))
        };
        self.text(name).map(parse).transpose()
    }
}

/// Decodes `+` as a space and `%XX` as a byte. Malformed escapes stay as they are; bytes that are not UTF-8
/// become U+FFFD.
fn decode(text: &str) -> Cow<'_, str> {
    if !text.contains(['%', '+']) {
        return Cow::Borrowed(text);
    }
    if !text.contains('+') {
        return percent_decode_str(text).decode_utf8_lossy();
    }
    let spaced = text.replace('+', " ");
    Cow::Owned(percent_decode_str(&spaced).decode_utf8_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_decoded_and_the_first_of_a_name_counts() {
        let query = Query::parse(Some("key=a%2Fb%3A1+c&key=x&empty=&%67roup=g&bad=%zz%2&utf=%ff"));
        assert_eq!(query.text("key"), Some("a/b:1 c"));
        assert_eq!(query.text("group"), Some("g"));
        assert_eq!(query.text("empty"), None);
        assert_eq!(query.text("bad"), Some("%zz%2"));
        assert_eq!(query.text("utf"), Some("\u{fffd}"));
        assert_eq!(Query::parse(None).text("key"), None);
    }
}
