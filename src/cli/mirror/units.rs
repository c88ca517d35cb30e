//! The environment that systemd gives to containerd, read from the files of its unit: the unit file, its
//! drop-ins and those of all services, the files of `EnvironmentFile=`, and the defaults of systemd's own
//! configuration (systemd.exec(5), systemd.unit(5), systemd-system.conf(5)).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Folders of unit files, highest priority first.
const FOLDERS: [&str; 5] = [
    "etc/systemd/system",
    "run/systemd/system",
    "usr/local/lib/systemd/system",
    "usr/lib/systemd/system",
    "lib/systemd/system",
];

/// Paths of systemd's own configuration, highest priority first.
const OWN: [&str; 5] =
    ["etc/systemd", "run/systemd", "usr/local/lib/systemd", "usr/lib/systemd", "lib/systemd"];

/// Variables by name, each with its value and the file that sets it.
pub(super) type Environment = BTreeMap<String, (String, PathBuf)>;

/// The parsed files of a unit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Unit {
    /// Path of the unit file.
    pub(super) file: PathBuf,
    pub(super) environment: Environment,
}

/// Reads the unit `name` (such as `containerd.service`) below `system`, which is `/` except in tests. `None`:
/// there is no such unit.
pub(super) fn read(system: &Path, name: &str) -> Option<Unit> {
    let file = FOLDERS.iter().map(|folder| system.join(folder).join(name)).find(|file| file.exists())?;
    let of_unit = FOLDERS.map(|folder| format!("{folder}/{name}.d"));
    let of_all = FOLDERS.map(|folder| format!("{folder}/service.d"));
    let mut service = Service::default();
    for part in std::iter::once(file.clone()).chain(drop_ins(system, of_unit.into_iter().chain(of_all))) {
        // A masked unit is a link to /dev/null.
        let text = fs::read_to_string(&part).unwrap_or_default();
        service.add(&text, &part, name);
    }
    let mut environment = of_manager(system);
    environment.extend(service.environment);
    for named in service.files {
        let path = system.join(named.trim_start_matches('/'));
        for (key, value) in fs::read_to_string(&path).iter().flat_map(|text| assignments(text)) {
            environment.insert(key, (value, path.clone()));
        }
    }
    Some(Unit { file, environment })
}

/// The `*.conf` files of these folders, by name. A file hides files of the same name in later folders.
fn drop_ins(system: &Path, folders: impl Iterator<Item = String>) -> Vec<PathBuf> {
    let mut found: BTreeMap<String, PathBuf> = BTreeMap::new();
    for folder in folders {
        for entry in fs::read_dir(system.join(folder)).into_iter().flatten().flatten() {
            let file_name = entry.file_name().to_string_lossy().into_owned();
            if file_name.ends_with(".conf") {
                found.entry(file_name).or_insert_with(|| entry.path());
            }
        }
    }
    found.into_values().collect()
}

/// `DefaultEnvironment=`: variables that systemd gives to every service.
fn of_manager(system: &Path) -> Environment {
    let main = OWN.iter().map(|folder| system.join(folder).join("system.conf")).find(|file| file.exists());
    let folders = OWN.iter().map(|folder| format!("{folder}/system.conf.d"));
    let mut environment = Environment::new();
    for part in main.into_iter().chain(drop_ins(system, folders)) {
        for (key, value) in settings(&fs::read_to_string(&part).unwrap_or_default(), "[Manager]") {
            match key.as_str() {
                "DefaultEnvironment" if value.is_empty() => environment.clear(),
                "DefaultEnvironment" => set(&mut environment, &value, &part, ""),
                _ => {}
            }
        }
    }
    environment
}

/// Adds the variables of `NAME=value "NAME=other value"`.
fn set(environment: &mut Environment, assigned: &str, file: &Path, unit: &str) {
    for word in words(assigned) {
        let word = specifiers(&word, unit);
        if let Some((name, value)) = word.split_once('=') {
            environment.insert(name.to_owned(), (value.to_owned(), file.to_owned()));
        }
    }
}

/// Keys and values of one section.
fn settings(text: &str, section: &str) -> Vec<(String, String)> {
    let mut settings = Vec::new();
    let mut is_in_section = false;
    for line in logical_lines(text) {
        if line.starts_with('[') {
            is_in_section = line == section;
        } else if let Some((key, value)) = line.split_once('=').filter(|_| is_in_section) {
            settings.push((key.trim().to_owned(), value.trim().to_owned()));
        }
    }
    settings
}

#[derive(Default)]
struct Service {
    environment: Environment,
    files: Vec<String>,
}

impl Service {
    /// Adds the variables of one file of the unit. An empty value removes earlier ones.
    fn add(&mut self, text: &str, file: &Path, unit: &str) {
        for (key, value) in settings(text, "[Service]") {
            match key.as_str() {
                "Environment" if value.is_empty() => self.environment.clear(),
                "Environment" => set(&mut self.environment, &value, file, unit),
                "EnvironmentFile" if value.is_empty() => self.files.clear(),
                "EnvironmentFile" => self.files.push(specifiers(value.trim_start_matches('-'), unit)),
                _ => {}
            }
        }
    }
}

/// Lines without comments; a line that ends in a backslash continues in the next.
fn logical_lines(text: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut begun = String::new();
    for line in text.lines() {
        let trimmed = line.trim();
        if trimmed.starts_with(['#', ';']) {
            continue;
        }
        match trimmed.strip_suffix('\\') {
            Some(part) => {
                begun.push_str(part);
                begun.push(' ');
            }
            None => {
                begun.push_str(trimmed);
                let line = std::mem::take(&mut begun);
                if !line.trim().is_empty() {
                    lines.push(line.trim().to_owned());
                }
            }
        }
    }
    if !begun.trim().is_empty() {
        lines.push(begun.trim().to_owned());
    }
    lines
}

/// Splits at white space. Quotes keep spaces, a backslash keeps the next character.
fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut begun = false;
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, quote) {
            ('\\', _) => word.extend(chars.next()),
            (c, Some(open)) if c == open => quote = None,
            ('"' | '\'', None) => (quote, begun) = (Some(c), true),
            (c, None) if c.is_whitespace() => {
                if begun || !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                begun = false;
            }
            (c, _) => word.push(c),
        }
    }
    if begun || !word.is_empty() {
        words.push(word);
    }
    words
}

/// Replaces `%n` and the other specifiers that occur in units of containerd.
fn specifiers(text: &str, unit: &str) -> String {
    let bare = unit.strip_suffix(".service").unwrap_or(unit);
    let mut replaced = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, c == '%') {
            (_, true) => match chars.next() {
                Some('%') => replaced.push('%'),
                Some('n') => replaced.push_str(unit),
                Some('N' | 'p') => replaced.push_str(bare),
                other => {
                    replaced.push('%');
                    replaced.extend(other);
                }
            },
            (c, _) => replaced.push(c),
        }
    }
    replaced
}

/// Reads the `KEY=value` lines of an environment file.
fn assignments(text: &str) -> Vec<(String, String)> {
    let pair = |line: String| {
        let (key, value) = line.split_once('=')?;
        Some((key.trim().to_owned(), words(value.trim()).join(" ")))
    };
    logical_lines(text).into_iter().filter_map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(system: &Path, name: &str, text: &str) {
        let path = system.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn value(unit: &Unit, name: &str) -> Option<String> {
        unit.environment.get(name).map(|(value, _)| value.clone())
    }

    #[test]
    fn unit_drop_ins_and_environment_files_count_in_systemds_order() {
        let folder = tempfile::tempdir().unwrap();
        let system = folder.path();
        assert_eq!(read(system, "containerd.service"), None);
        write(
            system,
            "lib/systemd/system/containerd.service",
            "[Unit]\nEnvironment=A=unit\n[Service]\n\
            Environment=A=1 \"B=two words\" 'C=3'\nEnvironmentFile=-/etc/default/%N\nEnvironmentFile=/etc/gone\n",
        );
        let unit = read(system, "containerd.service").unwrap();
        assert_eq!(unit.file, system.join("lib/systemd/system/containerd.service"));
        assert_eq!(value(&unit, "A").as_deref(), Some("1"));
        assert_eq!(value(&unit, "B").as_deref(), Some("two words"));

        write(
            system,
            "run/systemd/system/containerd.service.d/10-a.conf",
            "[Service]\nEnvironment=A=hidden\n",
        );
        write(
            system,
            "etc/systemd/system/containerd.service.d/10-a.conf",
            "# one\n[Service]\nEnvironment=\"HTTPS_PROXY=http://u:p%%40@p:3128\" \\\n  NO_PROXY=10.0.0.0/8,.svc\n",
        );
        write(system, "run/systemd/system/containerd.service.d/20-b.conf", "[Service]\nEnvironment=C=\n");
        write(system, "etc/default/containerd", "; a comment\nB=\"from file\"\nEMPTY=\n");
        let unit = read(system, "containerd.service").unwrap();
        let expected = [
            ("A", "1"),
            ("B", "from file"),
            ("C", ""),
            ("EMPTY", ""),
            ("HTTPS_PROXY", "http://u:p%40@p:3128"),
            ("NO_PROXY", "10.0.0.0/8,.svc"),
        ];
        let found: Vec<(&str, &str)> =
            unit.environment.iter().map(|(name, (value, _))| (name.as_str(), value.as_str())).collect();
        assert_eq!(found, expected);
        let from = &unit.environment["HTTPS_PROXY"].1;
        assert_eq!(from, &system.join("etc/systemd/system/containerd.service.d/10-a.conf"));

        write(
            system,
            "etc/systemd/system/containerd.service.d/30.conf",
            "[Service]\nEnvironment=\n\
            EnvironmentFile=\nEnvironment=A=last\n",
        );
        let unit = read(system, "containerd.service").unwrap();
        assert_eq!(unit.environment.keys().collect::<Vec<_>>(), ["A"]);
    }

    /// A site set the proxy once for all its services: containerd used it, but was recorded as going direct.
    #[test]
    fn what_systemd_gives_to_all_services_counts_unless_the_unit_says_something_else() {
        let folder = tempfile::tempdir().unwrap();
        let system = folder.path();
        write(system, "lib/systemd/system/containerd.service", "[Service]\nEnvironment=B=unit\n");
        write(
            system,
            "etc/systemd/system.conf",
            "[Manager]\n#DefaultEnvironment=A=no\nDefaultEnvironment=A=1 B=1 C=1\n[Other]\nDefaultEnvironment=A=other\n",
        );
        write(system, "usr/lib/systemd/system.conf", "[Manager]\nDefaultEnvironment=A=hidden\n");
        write(
            system,
            "etc/systemd/system.conf.d/proxy.conf",
            "[Manager]\nDefaultEnvironment=\"HTTPS_PROXY=http://p:3128\"\n",
        );
        write(system, "etc/systemd/system/service.d/proxy.conf", "[Service]\nEnvironment=C=all D=all\n");
        write(system, "run/systemd/system/containerd.service.d/proxy.conf", "[Service]\nEnvironment=C=own\n");
        write(system, "etc/systemd/system/service.d/x.conf", "[Service]\nEnvironment=D=x\n");
        let unit = read(system, "containerd.service").unwrap();
        let values = ["A", "B", "C", "D", "HTTPS_PROXY"].map(|name| value(&unit, name).unwrap_or_default());
        assert_eq!(values, ["1", "unit", "own", "x", "http://p:3128"]);
    }
}
