//! Log lines of a child, marked with its name.

use std::io::{self, Write};

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};

use crate::limits::CHILD_LINE_BYTES_MAX;

/// Copies lines until the child closes its end.
pub(super) async fn copy(name: &str, from: impl AsyncRead + Unpin) {
    let mut from = BufReader::new(from);
    let mut line = Vec::new();
    loop {
        line.clear();
        match (&mut from).take(CHILD_LINE_BYTES_MAX).read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return,
            // One write for each line, so that lines of several children do not mix.
            Ok(_) => drop(io::stderr().write_all(&named(name, &line))),
        }
    }
}

/// `server-1 | line`. A JSON object gets a field instead, and stays JSON.
fn named(name: &str, line: &[u8]) -> Vec<u8> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let (head, rest) = match line.strip_prefix(b"{\"") {
        Some(rest) => (format!("{{\"process\":\"{name}\",\""), rest),
        None => (format!("{name} | "), line),
    };
    [head.as_bytes(), rest, b"\n"].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_whose_it_is() {
        assert_eq!(named("server-1", b"ready\n"), b"server-1 | ready\n");
        assert_eq!(named("server-1", b"cut short"), b"server-1 | cut short\n");
        let json = named("agent", b"{\"level\":\"INFO\"}\n");
        assert_eq!(json, b"{\"process\":\"agent\",\"level\":\"INFO\"}\n");
    }
}
