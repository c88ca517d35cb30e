//! The corpus: inputs that are kept in the repository.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Longest input, bytes: smaller inputs find what larger ones would.
pub const INPUT_BYTES_MAX: usize = 64 * 1024;

/// Folder of a target's inputs.
pub fn folder(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target)
}

/// All inputs of a target with their paths, sorted by name.
///
/// # Errors
/// If the folder or a file cannot be read.
pub fn read(target: &str) -> io::Result<Vec<(PathBuf, Vec<u8>)>> {
    let mut paths = fs::read_dir(folder(target))?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<io::Result<Vec<_>>>()?;
    paths.sort();
    paths.into_iter().map(|path| fs::read(&path).map(|bytes| (path, bytes))).collect()
}

/// Words of `dictionary.txt` that parsers know, in libFuzzer's format: one quoted word a line, `\xNN` for
/// bytes that are not printable.
pub fn dictionary() -> Vec<Vec<u8>> {
    let lines = include_str!("../dictionary.txt").lines().map(str::trim);
    lines.filter_map(|line| line.strip_prefix('"')?.strip_suffix('"')).map(unescape).collect()
}

fn unescape(word: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = word.as_bytes();
    while let [first, tail @ ..] = rest {
        let (byte, length) = match (first, tail) {
            (b'\\', [b'x', high, low, ..]) => {
                let digit =
                    |digit: &u8| char::from(*digit).to_digit(16).expect("\\x and two hex digits") as u8;
                (digit(high) << 4 | digit(low), 4)
            }
            (b'\\', [escaped, ..]) => (*escaped, 2),
            _ => (*first, 1),
        };
        bytes.push(byte);
        rest = &rest[length..];
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seeds;

    /// After a change of a format, old inputs would be refused at their first bytes.
    #[test]
    fn kept_seeds_are_those_that_are_made_now() {
        // Files of a real node contain random ids.
        let is_random = |target: &str| ["stored_state", "stored_log", "stored_node"].contains(&target);
        for (target, name, input) in seeds::all().into_iter().filter(|(target, _, _)| !is_random(target)) {
            let kept = fs::read(folder(target).join(&name)).unwrap_or_default();
            assert!(kept == input, "{target}/{name}: run `cargo run -p piccolo-fuzz --bin seeds`");
        }
    }

    #[test]
    fn words_are_read_as_libfuzzer_reads_them() {
        assert_eq!(unescape(r#"a\x00\"b\\"#), b"a\x00\"b\\");
        assert!(dictionary().iter().any(|word| word == b"\"holder\""));
    }
}
