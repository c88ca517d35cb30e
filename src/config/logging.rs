//! Settings of every command: its file, and how it logs.

use serde::{Deserialize, Serialize};

use super::{Fallback, Layers, Setting};
use crate::value::Parsed;

/// Settings of every command.
pub const LOGGING: &[Setting] = &[
    Setting::new("config", "FILE", "TOML file with settings; its keys are the names of the flags"),
    Setting::new("log-format", "FORMAT", "Format of log lines on stderr: text or json")
        .or(Fallback::Text("text")),
    Setting::new(
        "log-level",
        "LEVEL",
        "Least level that is logged: error, warn, info, debug, trace or off; or one for each module, like info,openraft=debug",
    )
    .or(Fallback::Text("info"))
    .alias(&["LOG_LEVEL"]),
];

/// How a process logs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Logging {
    /// Text for people or JSON for machines.
    pub format: LogFormat,
    /// The level as it was given.
    pub level: String,
    /// Filter directives for `tracing-subscriber`.
    pub filter: String,
}

/// What a log line looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LogFormat {
    /// One line for people.
    Text,
    /// One JSON object a line.
    Json,
}

impl LogFormat {
    /// The value of `--log-format` for this format.
    pub fn name(self) -> &'static str {
        match self {
            LogFormat::Text => "text",
            LogFormat::Json => "json",
        }
    }
}

/// Reads the settings of [`LOGGING`].
pub fn logging(layers: &mut Layers) -> Option<Logging> {
    let format = layers.required("log-format", log_format);
    let level = layers.required("log-level", |text| filter(text).map(|filter| (text.to_owned(), filter)));
    let (level, filter) = level?;
    Some(Logging { format: format?, level, filter })
}

fn log_format(given: &str) -> Parsed<LogFormat> {
    match given {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err("text or json".to_owned()),
    }
}

/// Makes filter directives from a level. Levels may have any case, as in the Go Piccolo. A level for
/// everything sets libraries one or two steps lower: openraft logs every heartbeat at `info`, and each that a
/// dead member does not answer at `warn`; Piccolo logs itself who leads and who is missing.
fn filter(given: &str) -> Parsed<String> {
    let expected = || "error, warn, info, debug, trace, off, or a list like info,openraft=debug".to_owned();
    let mut directives = Vec::new();
    for part in given.split(',').map(str::trim) {
        let (module, level) =
            part.split_once('=').map_or((None, part), |(module, level)| (Some(module), level));
        let level = level.to_ascii_lowercase();
        if !["error", "warn", "info", "debug", "trace", "off"].contains(&level.as_str()) {
            return Err(expected());
        }
        match module {
            None => {
                directives.push(level.clone());
                let quiet = match level.as_str() {
                    "info" => "warn",
                    "debug" | "trace" => "info",
                    other => other,
                };
                directives.extend(["hyper", "h2", "tower"].map(|name| format!("{name}={quiet}")));
                let of_raft = if level == "info" || level == "warn" { "error" } else { quiet };
                directives.push(format!("openraft={of_raft}"));
            }
            Some(module)
                if !module.is_empty()
                    && module.bytes().all(|c| c.is_ascii_alphanumeric() || b"_:".contains(&c)) =>
            {
                directives.push(format!("{module}={level}"));
            }
            Some(_) => return Err(expected()),
        }
    }
    Ok(directives.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_is_read_in_any_case() {
        assert!(filter("INFO").unwrap().starts_with("info,hyper=warn,"));
        assert!(filter("off").unwrap().starts_with("off,hyper=off,"));
    }

    #[test]
    fn a_module_can_have_its_own_level() {
        assert!(filter("info,openraft=debug").unwrap().ends_with(",openraft=debug"));
    }

    #[test]
    fn an_invalid_log_level_is_refused() {
        for given in ["inof", "", "info,", "openraft=", "=debug", "a b=debug"] {
            assert!(filter(given).is_err(), "{given}");
        }
    }
}
