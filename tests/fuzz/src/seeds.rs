//! Initial inputs: golden files, requests of real clients, the files of a real node, and difficult cases.

mod network;
mod stored;
mod text;

use std::fs;
use std::path::Path;

/// An input: target, name, bytes.
pub type Seed = (&'static str, String, Vec<u8>);

/// All seeds.
pub fn all() -> Vec<Seed> {
    [text::all(), network::all(), stored::all()].concat()
}

fn seed(target: &'static str, name: impl Into<String>, bytes: impl Into<Vec<u8>>) -> Seed {
    (target, name.into(), bytes.into())
}

/// Files of a golden folder by their names without extension; hex is decoded.
fn golden(folder: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(folder);
    let entries = fs::read_dir(folder).expect("golden files are there");
    let mut files: Vec<_> = entries
        .map(|entry| {
            let path = entry.expect("the folder can be read").path();
            let name = path.file_stem().expect("files have names").to_string_lossy().into_owned();
            let bytes = fs::read(&path).expect("the file can be read");
            let is_hex = path.extension().is_some_and(|extension| extension == "hex");
            (name, if is_hex { from_hex(&bytes) } else { bytes })
        })
        .collect();
    files.sort();
    files
}

fn from_hex(text: &[u8]) -> Vec<u8> {
    let digits = text.iter().filter_map(|byte| char::from(*byte).to_digit(16)).collect::<Vec<_>>();
    digits.chunks_exact(2).map(|two| (two[0] << 4 | two[1]) as u8).collect()
}

/// JSON that parsers often fail on.
fn nasty_json() -> Vec<(&'static str, String)> {
    vec![
        ("deep-lists", "[".repeat(4_000)),
        ("deep-objects", r#"{"a":"#.repeat(2_000)),
        ("deep-closed", format!("{}{}", "[".repeat(127), "]".repeat(127))),
        ("huge-number", r#"{"epoch":18446744073709551616,"seq":1e999,"count":-9223372036854775809}"#.into()),
        ("long-number", format!(r#"{{"epoch":{}}}"#, "9".repeat(5_000))),
        ("lone-surrogate", r#"{"holder":"\ud800","group":"\udc00\ud800","keys":["\udfff"]}"#.into()),
        ("surrogate-pair", r#"{"holder":"\ud83d\ude00","group":"g","keys":["\u0000"]}"#.into()),
        (
            "duplicate-keys",
            r#"{"group":"a","Group":"b","GROUP":null,"group":"c","holder":1,"holder":"x"}"#.into(),
        ),
        ("nul", "{\"group\":\"a\u{0}b\"}".into()),
        ("trailing", r#"{} {}"#.into()),
        ("bom", "\u{feff}{}".into()),
        (
            "many-fields",
            format!("{{{}\"a\":0}}", (0..800).map(|n| format!("\"{n}\":0,")).collect::<String>()),
        ),
    ]
}
