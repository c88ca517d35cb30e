//! What a setting is: the one place from which its flag, its environment variable, its key in the
//! file, its help and its default follow.

use std::fmt;
use std::time::Duration;

use crate::value::format_duration;

/// One setting.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Name of the flag without dashes; also the key in the file.
    pub flag: &'static str,
    /// What its value is called in the help; empty: a switch without a value.
    pub value_name: &'static str,
    /// What it does.
    pub help: &'static str,
    /// What holds when nobody says anything.
    pub fallback: Fallback,
    /// Names that the Go Piccolo's environment uses for it.
    pub aliases: &'static [&'static str],
    /// Not shown in the help: set by `piccolo up` for its children only.
    pub hidden: bool,
}

/// The default of a setting.
#[derive(Clone, Copy, Debug)]
pub enum Fallback {
    /// None: required, or found out, or off.
    None,
    /// As a user would write it.
    Text(&'static str),
    /// A constant of `limits`.
    Duration(Duration),
    /// A constant of `limits`.
    Number(usize),
}

impl Setting {
    /// A setting with a value.
    pub const fn new(flag: &'static str, value_name: &'static str, help: &'static str) -> Self {
        Self { flag, value_name, help, fallback: Fallback::None, aliases: &[], hidden: false }
    }

    /// A setting that is on or off.
    pub const fn switch(flag: &'static str, help: &'static str) -> Self {
        Self::new(flag, "", help)
    }

    /// With a default.
    pub const fn or(self, fallback: Fallback) -> Self {
        Self { fallback, ..self }
    }

    /// With further environment variables.
    pub const fn alias(self, aliases: &'static [&'static str]) -> Self {
        Self { aliases, ..self }
    }

    /// Not for people.
    pub const fn hide(self) -> Self {
        Self { hidden: true, ..self }
    }

    /// True for a setting without a value.
    pub fn is_switch(&self) -> bool {
        self.value_name.is_empty()
    }

    /// `PICCOLO_` and the flag in capitals.
    pub fn variable(&self) -> String {
        format!("PICCOLO_{}", self.flag.to_ascii_uppercase().replace('-', "_"))
    }
}

impl Fallback {
    /// As a user would write it; `None` if there is none.
    pub fn text(&self) -> Option<String> {
        match self {
            Fallback::None => None,
            other => Some(other.to_string()),
        }
    }
}

impl fmt::Display for Fallback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fallback::None => Ok(()),
            Fallback::Text(text) => f.write_str(text),
            Fallback::Duration(duration) => f.write_str(&format_duration(*duration)),
            Fallback::Number(number) => write!(f, "{number}"),
        }
    }
}
