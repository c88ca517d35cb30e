//! The file of `--config`: TOML with one key for each setting, and tables of registries.

use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::{Problem, Setting};

/// Key of the tables of registries.
pub(super) const REGISTRY: &str = "registry";

/// The parsed file.
#[derive(Debug, Default)]
pub(super) struct ConfigFile {
    path: PathBuf,
    table: Table,
}

impl ConfigFile {
    /// Reads `path`. If that fails, `problems` gets the reason and the result is empty.
    pub(super) fn read(path: &Path, problems: &mut Vec<Problem>) -> Self {
        let table = std::fs::read_to_string(path)
            .map_err(|error| format!("could not read the file of --config: {error}"))
            .and_then(|text| text.parse::<Table>().map_err(|error| error.to_string()));
        match table {
            Ok(table) => Self { path: path.to_owned(), table },
            Err(expected) => {
                problems.push(Problem { place: path.display().to_string(), value: None, expected });
                Self::default()
            }
        }
    }

    /// Value of one setting as text; `None` if it is absent or of a wrong type.
    pub(super) fn get(&self, flag: &str, problems: &mut Vec<Problem>) -> Option<(String, String)> {
        let value = self.table.get(flag)?;
        let place = self.place(flag);
        match scalar_or_list(value) {
            Some(text) => Some((place, text)),
            None => {
                let expected = "a text, a number, true or false, or a list of texts".to_owned();
                problems.push(Problem { place, value: Some(value.to_string()), expected });
                None
            }
        }
    }

    /// The tables of registries, if this command reads them.
    pub(super) fn registries(&self) -> Option<&Value> {
        self.table.get(REGISTRY)
    }

    /// How messages name a key of this file.
    pub(super) fn place(&self, key: &str) -> String {
        format!("{key} in {}", self.path.display())
    }

    /// Reports keys that no setting has: they are typing mistakes.
    pub(super) fn check_keys(&self, settings: &[Setting], registries: bool, problems: &mut Vec<Problem>) {
        for key in self.table.keys() {
            let known = settings.iter().any(|setting| setting.flag == key) || (registries && key == REGISTRY);
            if !known {
                let expected = "this command has no such setting (--help lists them)".to_owned();
                problems.push(Problem { place: self.place(key), value: None, expected });
            }
        }
    }
}

fn scalar_or_list(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Integer(number) => Some(number.to_string()),
        Value::Boolean(switch) => Some(switch.to_string()),
        Value::Array(items) => {
            let texts: Option<Vec<&str>> = items.iter().map(Value::as_str).collect();
            Some(texts?.join(","))
        }
        Value::Float(_) | Value::Datetime(_) | Value::Table(_) => None,
    }
}
