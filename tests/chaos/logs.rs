//! Reads servers' logs: every term that a server led, every lease that it ended, every error.

use serde_json::Value;

/// A log line that the checker uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    Leads {
        term: u64,
        at_ms: u64,
    },
    LeaseEnded {
        holder: String,
        at_ms: u64,
    },
    /// A panic or an error.
    Trouble {
        text: String,
    },
}

/// All such lines in order. Text that is not JSON comes from a process that cannot log: a panic.
pub fn lines(log: &str) -> Vec<Line> {
    log.lines().filter_map(line).collect()
}

fn line(text: &str) -> Option<Line> {
    let Ok(value) = serde_json::from_str::<Value>(text) else {
        // The process was killed while it wrote this line.
        let cut = text.starts_with('{');
        return (!cut && !text.trim().is_empty()).then(|| Line::Trouble { text: text.to_owned() });
    };
    let message = value["message"].as_str().unwrap_or_default();
    if message.starts_with("leads, every host") {
        let at_ms = unix_ms_of(value["timestamp"].as_str().unwrap());
        return Some(Line::Leads { term: value["term"].as_u64().unwrap(), at_ms });
    }
    if message == "a lease has ended" || message == "could not end a lease" {
        let at_ms = unix_ms_of(value["timestamp"].as_str().unwrap());
        return Some(Line::LeaseEnded { holder: value["holder"].as_str().unwrap().to_owned(), at_ms });
    }
    (value["level"] == "ERROR").then(|| Line::Trouble { text: text.to_owned() })
}

/// Unix milliseconds of an RFC 3339 time in UTC. Days from civil: Howard Hinnant, chrono-Compatible Low-Level
/// Date Algorithms.
fn unix_ms_of(timestamp: &str) -> u64 {
    let number = |range: std::ops::Range<usize>| timestamp[range].parse::<i64>().unwrap();
    let (year, month, day) = (number(0..4), number(5..7), number(8..10));
    let year = year - i64::from(month <= 2);
    let (era, of_era) = (year / 400, year % 400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    let seconds = days * 86_400 + number(11..13) * 3_600 + number(14..16) * 60 + number(17..19);
    (seconds * 1_000 + number(20..23)) as u64
}

#[test]
fn lines_are_understood() {
    let log = concat!(
        r#"{"timestamp":"2026-11-23T16:34:12.246300Z","level":"INFO","message":"leads, every host has a full lease","term":7,"hosts":0}"#,
        "\n",
        r#"{"timestamp":"2000-02-29T00:00:01.500000Z","level":"INFO","message":"a lease has ended","holder":"10.0.0.1:7","command":"Hide"}"#,
        "\n{\"timesta\nthread panicked\n",
        r#"{"timestamp":"x","level":"ERROR","message":"request failed"}"#,
    );
    let seen = lines(log);
    assert_eq!(seen[0], Line::Leads { term: 7, at_ms: 1_795_451_652_246 });
    assert_eq!(seen[1], Line::LeaseEnded { holder: "10.0.0.1:7".into(), at_ms: 951_782_401_500 });
    assert!(matches!(&seen[2], Line::Trouble { text } if text == "thread panicked"), "{seen:?}");
    assert!(matches!(&seen[3], Line::Trouble { text } if text.contains("request failed")), "{seen:?}");
    assert_eq!(seen.len(), 4);
    assert_eq!(unix_ms_of("2026-11-23T16:34:12.246300Z"), 1_795_451_652_246);
}
