//! A setting: the one source of its flag, environment variable, key in the file, help text and default.

use std::fmt;
use std::time::Duration;

use crate::value::format_duration;

/// Description of one setting.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Name of the flag without dashes, and key in the file.
    pub flag: &'static str,
    /// Name of the value in the help; empty for a switch.
    pub value_name: &'static str,
    /// Help text.
    pub help: &'static str,
    /// The default.
    pub fallback: Fallback,
    /// Further names of the variable, from the Go Piccolo.
    pub aliases: &'static [&'static str],
    /// True if the help does not show it: only `piccolo up` sets it, for its children.
    pub hidden: bool,
}

/// The default of a setting.
#[derive(Clone, Copy, Debug)]
pub enum Fallback {
    /// No default: the setting is required, detected, or off.
    None,
    /// The text that a user would write.
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

    /// The same setting with a default.
    pub const fn or(self, fallback: Fallback) -> Self {
        Self { fallback, ..self }
    }

    /// The same setting with further environment variables.
    pub const fn alias(self, aliases: &'static [&'static str]) -> Self {
        Self { aliases, ..self }
    }

    /// The same setting, not shown in the help.
    pub const fn hide(self) -> Self {
        Self { hidden: true, ..self }
    }

    /// True for a setting without a value.
    pub fn is_switch(&self) -> bool {
        self.value_name.is_empty()
    }

    /// Name of the environment variable: `PICCOLO_` and the flag in capitals.
    pub fn variable(&self) -> String {
        format!("PICCOLO_{}", self.flag.to_ascii_uppercase().replace('-', "_"))
    }
}

impl Fallback {
    /// The default as a user would write it; `None` if there is none.
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
