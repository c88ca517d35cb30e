//! Looks a setting up in all layers, and collects mistakes instead of stopping at the first.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::file::ConfigFile;
use super::{Problem, Problems, Setting};
use crate::value::{self, Parsed};

/// Input of a command.
#[derive(Clone, Debug, Default)]
pub struct Given {
    /// Flags of the command line, by name. A switch has the value `true`.
    pub flags: BTreeMap<&'static str, String>,
    /// Environment variables of the process.
    pub environment: BTreeMap<String, String>,
}

/// The layers of one command.
#[derive(Debug)]
pub struct Layers {
    settings: Vec<Setting>,
    given: Given,
    file: ConfigFile,
    problems: Vec<Problem>,
    read: BTreeSet<&'static str>,
}

impl Layers {
    /// Reads the file of `--config` if one is named. `registries`: this command reads its tables of
    /// registries.
    pub fn open(settings: Vec<Setting>, given: &Given, registries: bool) -> Self {
        let given = given.clone();
        let mut layers = Self {
            settings,
            given,
            file: ConfigFile::default(),
            problems: Vec::new(),
            read: BTreeSet::new(),
        };
        if let Some(path) = layers.optional("config", value::path) {
            layers.file = ConfigFile::read(Path::new(&path), &mut layers.problems);
            layers.file.check_keys(&layers.settings, registries, &mut layers.problems);
        }
        layers
    }

    /// Value of a setting that may be absent. `None` also if the value is invalid, with a problem.
    pub fn optional<T>(&mut self, flag: &'static str, parse: impl Fn(&str) -> Parsed<T>) -> Option<T> {
        let (place, text) = self.look_up(flag)?;
        match parse(&text) {
            Ok(value) => Some(value),
            Err(expected) => {
                self.problems.push(Problem { place, value: Some(text), expected });
                None
            }
        }
    }

    /// Value of a setting that must be present, at least by its default. `None` only with a problem.
    pub fn required<T>(&mut self, flag: &'static str, parse: impl Fn(&str) -> Parsed<T>) -> Option<T> {
        let before = self.problems.len();
        let value = self.optional(flag, parse);
        if value.is_none() && self.problems.len() == before {
            let setting = self.setting(flag);
            let expected =
                format!("is required ({} in the environment, or {flag} in the file)", setting.variable());
            self.problems.push(Problem { place: format!("--{flag}"), value: None, expected });
        }
        value
    }

    /// Value of a switch; `false` also if the value is invalid.
    pub fn switch(&mut self, flag: &'static str) -> bool {
        self.optional(flag, value::switch).unwrap_or(false)
    }

    /// The text that a user set for a setting; `None` if only the default applies.
    pub fn given(&self, flag: &'static str) -> Option<String> {
        let set = self.set_by_user(self.setting(flag));
        set.or_else(|| self.file.get(flag, &mut Vec::new())).map(|(_, text)| text)
    }

    /// True if the command line has this flag.
    pub fn is_flagged(&self, flag: &'static str) -> bool {
        self.given.flags.contains_key(flag)
    }

    /// Adds a mistake that is only found by looking at several settings.
    pub fn problem(&mut self, flag: &'static str, value: Option<String>, expected: impl Into<String>) {
        let place = self.look_up(flag).map_or_else(|| format!("--{flag}"), |(place, _)| place);
        self.problems.push(Problem { place, value, expected: expected.into() });
    }

    /// The result, or all mistakes. `built` is `None` only with a problem.
    pub fn finish<T>(self, built: Option<T>) -> Result<T, Problems> {
        debug_assert!(
            self.settings.iter().all(|setting| self.read.contains(setting.flag)),
            "a setting nobody reads: {:?}",
            self.settings.iter().map(|setting| setting.flag).collect::<BTreeSet<_>>().difference(&self.read)
        );
        if self.problems.is_empty() {
            Ok(built.expect("a missing value has left a problem"))
        } else {
            Err(Problems(self.problems))
        }
    }

    pub(super) fn file(&self) -> &ConfigFile {
        &self.file
    }

    pub(super) fn push(&mut self, problem: Problem) {
        self.problems.push(problem);
    }

    /// Place and text of a setting, from the first layer that has it.
    fn look_up(&mut self, flag: &'static str) -> Option<(String, String)> {
        self.read.insert(flag);
        let setting = *self.setting(flag);
        self.set_by_user(&setting)
            .or_else(|| self.file.get(flag, &mut self.problems))
            .or_else(|| setting.fallback.text().map(|text| (format!("--{flag}"), text)))
    }

    fn set_by_user(&self, setting: &Setting) -> Option<(String, String)> {
        if let Some(text) = self.given.flags.get(setting.flag) {
            return Some((format!("--{}", setting.flag), text.clone()));
        }
        // An empty variable counts as unset: compose files and charts leave settings out that way.
        let variable = setting.variable();
        std::iter::once(variable.as_str()).chain(setting.aliases.iter().copied()).find_map(|name| {
            let text = self.given.environment.get(name).filter(|text| !text.is_empty())?;
            Some((name.to_owned(), text.clone()))
        })
    }

    fn setting(&self, flag: &str) -> &Setting {
        self.settings.iter().find(|setting| setting.flag == flag).expect("only declared settings are read")
    }
}

/// Variables with our prefix that no command knows. Kubernetes sets such variables for every Service whose
/// name starts with `piccolo`, so they are not errors.
pub fn unknown_environment(environment: &BTreeMap<String, String>, settings: &[Setting]) -> Vec<String> {
    let known: BTreeSet<String> = settings
        .iter()
        .flat_map(|setting| {
            setting.aliases.iter().map(|alias| (*alias).to_owned()).chain([setting.variable()])
        })
        .collect();
    environment
        .keys()
        .filter(|name| name.starts_with("PICCOLO_") && !known.contains(*name))
        .cloned()
        .collect()
}
