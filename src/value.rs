//! Parsers from the text of a setting to its value. Each returns what it expected as its error; the caller
//! knows the name and the text.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// A value, or what was expected instead.
pub type Parsed<T> = Result<T, String>;

/// Any text that is not empty.
pub fn text(given: &str) -> Parsed<String> {
    if given.trim().is_empty() { Err("some text".to_owned()) } else { Ok(given.trim().to_owned()) }
}

/// A name of at most `bytes_max` bytes without white space; empty where `empty_allowed`.
pub fn name(given: &str, bytes_max: usize, empty_allowed: bool) -> Parsed<String> {
    let bad = given.len() > bytes_max
        || given.chars().any(|c| c.is_whitespace() || c.is_control())
        || (given.is_empty() && !empty_allowed);
    if bad {
        Err(format!("a name of at most {bytes_max} bytes without spaces"))
    } else {
        Ok(given.to_owned())
    }
}

/// A path that is not empty.
pub fn path(given: &str) -> Parsed<PathBuf> {
    if given.is_empty() { Err("a path".to_owned()) } else { Ok(PathBuf::from(given)) }
}

/// Absolute folders, separated by colons.
pub fn folders(given: &str) -> Parsed<Vec<PathBuf>> {
    let folders: Vec<PathBuf> = given.split(':').filter(|part| !part.is_empty()).map(PathBuf::from).collect();
    if folders.is_empty() || folders.iter().any(|folder| folder.is_relative()) {
        return Err("absolute folders, like /etc/containerd/certs.d:/etc/docker/certs.d".to_owned());
    }
    Ok(folders)
}

/// `true` or `false`.
pub fn switch(given: &str) -> Parsed<bool> {
    match given.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" => Ok(false),
        _ => Err("true or false".to_owned()),
    }
}

/// Listening address: `IP:PORT`, or `:PORT` for all addresses, as in Go. With port 0 the system chooses.
pub fn listen_address(given: &str) -> Parsed<SocketAddr> {
    let full = if given.starts_with(':') { format!("[::]{given}") } else { given.to_owned() };
    full.parse().map_err(|_| "an address like 10.0.0.7:7789, 0.0.0.0:7789 or [::]:7789".to_owned())
}

/// Advertised address: `IP:PORT` that others can reach.
pub fn told_address(given: &str) -> Parsed<SocketAddr> {
    match given.parse::<SocketAddr>() {
        Ok(address) if address.port() != 0 && !address.ip().is_unspecified() => Ok(address),
        _ => Err("an address that others can reach, like 10.0.0.7:7781".to_owned()),
    }
}

/// A list separated by commas; spaces around items are ignored.
pub fn list<T>(given: &str, item: impl Fn(&str) -> Parsed<T>) -> Parsed<Vec<T>> {
    let items = given.split(',').map(str::trim).filter(|item| !item.is_empty());
    let parsed: Vec<T> = items.map(item).collect::<Parsed<_>>()?;
    if parsed.is_empty() { Err("at least one item, separated by commas".to_owned()) } else { Ok(parsed) }
}

/// `http://HOST[:PORT][/PREFIX]` or the same with https, without a final slash.
pub fn base_url(given: &str) -> Parsed<String> {
    const EXPECTED: &str = "a URL like http://10.0.0.1:7789, without query, fragment or user";
    let url = reqwest::Url::parse(given).map_err(|_| EXPECTED.to_owned())?;
    let plain = matches!(url.scheme(), "http" | "https")
        && url.has_host()
        && url.query().is_none()
        && url.fragment().is_none()
        && url.username().is_empty()
        && url.password().is_none();
    if plain { Ok(given.trim_end_matches('/').to_owned()) } else { Err(EXPECTED.to_owned()) }
}

/// The base URL of a discovery server, which speaks plain HTTP only.
pub fn server_url(given: &str) -> Parsed<String> {
    base_url(given).ok().filter(|url| url.starts_with("http://")).ok_or_else(|| {
        "the URL of a discovery server, like http://10.0.0.1:7789 (plain http; without query, fragment or user)"
            .to_owned()
    })
}

/// A host name or IP address, without a port.
pub fn host(given: &str) -> Parsed<String> {
    let bare = given.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(given);
    if bare.parse::<IpAddr>().is_ok() || is_host_name(given) {
        Ok(bare.to_owned())
    } else {
        Err("a host name or an IP address without a port".to_owned())
    }
}

/// `HOST:PORT`, with an IPv6 address in brackets.
pub fn host_port(given: &str) -> Parsed<String> {
    const EXPECTED: &str = "HOST:PORT, like node-1:7790, 10.0.0.1:7790 or [fd00::1]:7790";
    let (name, port) = given.rsplit_once(':').ok_or_else(|| EXPECTED.to_owned())?;
    let port_right = port.parse::<u16>().is_ok_and(|port| port != 0);
    if port_right && (is_host_name(name) || given.parse::<SocketAddr>().is_ok()) {
        Ok(given.to_owned())
    } else {
        Err(EXPECTED.to_owned())
    }
}

/// True for letters, digits, dots, dashes and underscores (RFC 1123, and what is seen in practice).
pub(crate) fn is_host_name(given: &str) -> bool {
    let label_right = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-' || c == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    given.len() <= 253 && given.strip_suffix('.').unwrap_or(given).split('.').all(label_right)
}

/// A whole number between two bounds, inclusive.
pub fn number<T>(given: &str, least: T, most: T) -> Parsed<T>
where
    T: std::str::FromStr + PartialOrd + std::fmt::Display,
{
    match given.parse::<T>() {
        Ok(number) if number >= least && number <= most => Ok(number),
        _ => Err(format!("a whole number from {least} to {most}")),
    }
}

/// Bytes per second. The Go Piccolo's variable is a float (`1.073741824e+09`).
pub fn bytes_per_second(given: &str) -> Parsed<u64> {
    let whole = given.parse::<u64>().ok();
    let float =
        given.parse::<f64>().ok().filter(|float| (1.0..1e18).contains(float)).map(|float| float as u64);
    whole.or(float).ok_or_else(|| "a number of bytes, 0 for no limit".to_owned())
}

const BYTE_UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];

/// A number of bytes, optionally with a unit.
pub fn bytes(given: &str) -> Parsed<u64> {
    let unit = BYTE_UNITS.iter().find_map(|(name, unit)| Some((given.strip_suffix(name)?, *unit)));
    let (number, unit) = unit.unwrap_or((given, 1));
    let number = if number.bytes().all(|c| c.is_ascii_digit()) { number.parse::<u64>().ok() } else { None };
    number
        .and_then(|number| number.checked_mul(unit))
        .ok_or_else(|| "a number of bytes, like 512MiB, 1GiB or 10GB, 0 for no limit".to_owned())
}

/// A duration like `500ms`, `2s`, `31m`, `24h`, `7d` or `1m30s`, between two bounds.
pub fn duration(given: &str, least: Duration, most: Duration) -> Parsed<Duration> {
    match parse_duration(given) {
        Some(duration) if duration >= least && duration <= most => Ok(duration),
        _ => Err(format!(
            "a duration from {} to {}, like 500ms, 2s, 31m, 24h or 1m30s",
            format_duration(least),
            format_duration(most)
        )),
    }
}

const UNITS: [(&str, u64); 5] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

fn parse_duration(given: &str) -> Option<Duration> {
    if given == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = given;
    let mut total_ms: u64 = 0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let (number, behind) = rest.split_at(digits);
        let unit_end = behind.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(behind.len());
        let (unit, behind) = behind.split_at(unit_end);
        let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit)?;
        total_ms = total_ms.checked_add(number.parse::<u64>().ok()?.checked_mul(*factor)?)?;
        rest = behind;
    }
    (!given.is_empty()).then(|| Duration::from_millis(total_ms))
}

/// The shortest text that [`duration`] reads back, in whole milliseconds.
pub fn format_duration(duration: Duration) -> String {
    let mut rest = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let mut text = String::new();
    for (unit, factor) in UNITS.iter().rev() {
        // 24h is easier to read than 1d, and 90m than 1h30m.
        if *unit == "d" && rest < 2 * factor {
            continue;
        }
        if rest >= *factor {
            text.push_str(&format!("{}{unit}", rest / factor));
            rest %= factor;
        }
    }
    if text.is_empty() { "0".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const DAY: Duration = Duration::from_secs(86_400);

    #[test]
    fn durations_are_read_in_all_units() {
        let cases = [
            ("500ms", 500),
            ("2s", 2_000),
            ("31m", 31 * 60_000),
            ("24h", 86_400_000),
            ("7d", 7 * 86_400_000),
            ("1m30s", 90_000),
            ("0", 0),
            ("0s", 0),
        ];
        for (given, ms) in cases {
            assert_eq!(parse_duration(given), Some(Duration::from_millis(ms)), "{given}");
        }
    }

    #[test]
    fn what_is_no_duration_is_refused() {
        let cases = [
            "",
            "2",
            "s",
            "2 s",
            "-2s",
            "+2s",
            "1.5s",
            "2S",
            "2sec",
            "2s ",
            " 2s",
            "18446744073709551615s",
            "1w",
        ];
        for given in cases {
            assert_eq!(parse_duration(given), None, "{given}");
        }
    }

    #[test]
    fn a_duration_keeps_its_bounds_on_both_sides() {
        assert_eq!(duration("1s", SECOND, DAY), Ok(SECOND));
        assert!(duration("999ms", SECOND, DAY).is_err());
        assert_eq!(duration("24h", SECOND, DAY), Ok(DAY));
        let expected = duration("86400001ms", SECOND, DAY).unwrap_err();
        assert_eq!(expected, "a duration from 1s to 24h, like 500ms, 2s, 31m, 24h or 1m30s");
    }

    #[test]
    fn a_printed_duration_reads_back() {
        for ms in [0, 1, 500, 1_000, 90_000, 31 * 60_000, 86_400_000, 7 * 86_400_000, 90_061_001] {
            let duration = Duration::from_millis(ms);
            assert_eq!(parse_duration(&format_duration(duration)), Some(duration));
        }
        assert_eq!(format_duration(DAY), "24h");
    }

    #[test]
    fn numbers_keep_their_bounds_on_both_sides() {
        assert_eq!(number("1", 1_u16, 9), Ok(1));
        assert_eq!(number("9", 1_u16, 9), Ok(9));
        for given in ["0", "10", "-1", "1.0", "", "x"] {
            assert_eq!(number(given, 1_u16, 9).unwrap_err(), "a whole number from 1 to 9", "{given}");
        }
    }

    #[test]
    fn bytes_per_second_reads_gos_float() {
        assert_eq!(bytes_per_second("0"), Ok(0));
        assert_eq!(bytes_per_second("1073741824"), Ok(1 << 30));
        assert_eq!(bytes_per_second("1.073741824e+09"), Ok(1 << 30));
        for given in ["-1", "1G", "NaN", "inf", "0.5", ""] {
            assert!(bytes_per_second(given).is_err(), "{given}");
        }
    }

    #[test]
    fn bytes_are_read_in_all_units() {
        let cases = [
            ("0", 0),
            ("17", 17),
            ("17B", 17),
            ("3kB", 3_000),
            ("3KiB", 3_072),
            ("512MiB", 512 << 20),
            ("1GiB", 1 << 30),
            ("10GB", 10_000_000_000),
            ("16777215TiB", 16_777_215 << 40),
        ];
        for (given, read) in cases {
            assert_eq!(bytes(given), Ok(read), "{given}");
        }
        for given in ["", "GiB", "1G", "1.5GiB", "-1", "+1", "1 GiB", "1gib", "5%", "16777216TiB"] {
            assert!(bytes(given).is_err(), "{given}");
        }
    }

    #[test]
    fn addresses_are_told_apart() {
        assert_eq!(listen_address(":5000"), Ok("[::]:5000".parse().unwrap()));
        assert!(listen_address("[::]:7789").is_ok());
        for given in ["7789", "localhost:7789", "0.0.0.0", "1.2.3.4:99999", ""] {
            assert!(listen_address(given).is_err(), "{given}");
        }
        assert!(told_address("10.0.0.7:7781").is_ok());
        for given in ["0.0.0.0:7781", "[::]:7781", "10.0.0.7:0", "10.0.0.7"] {
            assert!(told_address(given).is_err(), "{given}");
        }
        for given in ["a:7790", "10.0.0.1:7790", "[fd00::1]:7790", "piccolo-0.piccolo:1"] {
            assert_eq!(host_port(given), Ok(given.to_owned()));
        }
        for given in ["a", "a:", ":7790", "a:0", "a:65536", "fd00::1:7790", "a b:1", "http://a:7790", "-a:1"]
        {
            assert!(host_port(given).is_err(), "{given}");
        }
        assert_eq!(host("[fd00::1]"), Ok("fd00::1".to_owned()));
        assert!(host("node-1:7789").is_err());
    }

    #[test]
    fn urls_are_plain() {
        assert_eq!(base_url("http://a:7789/"), Ok("http://a:7789".to_owned()));
        assert_eq!(base_url("https://a/prefix"), Ok("https://a/prefix".to_owned()));
        for given in ["a:7789", "ftp://a", "http://", "http://u:p@a", "http://a?x=1", "http://a#x", ""] {
            assert!(base_url(given).is_err(), "{given}");
        }
        assert_eq!(server_url("http://a:7789/"), Ok("http://a:7789".to_owned()));
        assert!(server_url("https://a:7789").is_err());
    }

    #[test]
    fn a_list_has_items() {
        assert_eq!(list("a:1, b:2,", host_port), Ok(vec!["a:1".to_owned(), "b:2".to_owned()]));
        assert!(list(",", host_port).is_err());
        assert!(list("a:1,b", host_port).is_err());
    }
}
