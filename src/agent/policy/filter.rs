//! Regular expressions on names of images.

use std::fmt;
use std::str::FromStr;

use regex::{Regex, RegexBuilder};

use crate::limits::FILTER_BYTES_MAX;

/// A regular expression that matches anywhere in `registry/repository[:tag]`, unless it is anchored.
#[derive(Clone)]
pub struct Filter(Regex);

impl Filter {
    /// The filter that refuses every tag `latest`.
    ///
    /// # Panics
    /// Never: the expression is a constant.
    pub fn latest() -> Self {
        ":latest$".parse().expect("a constant")
    }

    /// Whether only names with a tag can match, as with `:latest$`. Such a filter says nothing about content,
    /// so that the sources of content do not matter for it.
    pub(super) fn is_of_tags(&self) -> bool {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
        let tag = self.0.as_str().strip_prefix(':').and_then(|rest| rest.strip_suffix('$'));
        // A repository has no colon, and a slash follows the colon of a port.
        tag.is_some_and(|tag| !tag.is_empty() && tag.bytes().all(plain))
    }

    pub(super) fn matches(&self, name: &str) -> bool {
        self.0.is_match(name)
    }
}

impl FromStr for Filter {
    type Err = regex::Error;

    fn from_str(text: &str) -> Result<Self, regex::Error> {
        let mut builder = RegexBuilder::new(text);
        builder.size_limit(FILTER_BYTES_MAX).dfa_size_limit(FILTER_BYTES_MAX).build().map(Self)
    }
}

impl PartialEq for Filter {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl Eq for Filter {}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0.as_str())
    }
}
