//! The hosts that containerd asks by a `hosts.toml`, and whether it accepts the file: one invalid value makes
//! it ignore the whole file (`parseHostsFile` in core/remotes/docker/config/hosts.go).

use toml::Value;

use super::{HostsTomlError, Values, headers, values};

/// One `[host."URL"]` table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// URL as it is written in the file.
    pub url: String,
    /// True if containerd fetches content from the host.
    pub pulls: bool,
    /// True if containerd resolves tags at the host.
    pub resolves: bool,
}

impl Host {
    /// True if this table is for the host at `url`; `/v2` and a final slash are ignored.
    pub fn is(&self, url: &str) -> bool {
        let bare = |url: &str| {
            let url = url.trim_end_matches('/');
            url.strip_suffix("/v2").unwrap_or(url).to_ascii_lowercase()
        };
        let own =
            if self.url.starts_with("http") { self.url.clone() } else { format!("https://{}", self.url) };
        bare(&own) == bare(url)
    }
}

/// The hosts in the order in which containerd asks them.
///
/// # Errors
/// If containerd does not accept the text; it then ignores the file.
pub fn hosts_in_order(text: &str) -> Result<Vec<Host>, HostsTomlError> {
    let headers = headers(text)?;
    let values = values(text)?;
    check(&values)?;
    if values.get("server").is_some_and(|server| !server.is_str()) {
        return Err(unaccepted("server"));
    }
    let mut hosts: Vec<Host> = Vec::new();
    for header in headers.iter().filter(|header| header.path.len() >= 2 && header.path[0] == "host") {
        let url = &header.path[1];
        if hosts.iter().any(|host| host.url == *url) {
            continue;
        }
        let table = values.get("host").and_then(|hosts| hosts.get(url)).and_then(Value::as_table);
        let table = table.ok_or(HostsTomlError::HostsNotTables)?;
        check(table)?;
        let named = |name: &str| match table.get("capabilities").and_then(Value::as_array) {
            Some(names) if !names.is_empty() => {
                names.iter().any(|given| given.as_str().is_some_and(|given| given.eq_ignore_ascii_case(name)))
            }
            _ => true,
        };
        hosts.push(Host { url: url.clone(), pulls: named("pull"), resolves: named("resolve") });
    }
    Ok(hosts)
}

/// Checks the values of one table: of a host, or of the file itself.
fn check(table: &Values) -> Result<(), HostsTomlError> {
    const CAPABILITIES: [&str; 4] = ["pull", "resolve", "push", "referrers"];
    let is_capability = |value: &Value| {
        value.as_str().is_some_and(|name| CAPABILITIES.iter().any(|known| known.eq_ignore_ascii_case(name)))
    };
    let all = |value: &Value, is_right: &dyn Fn(&Value) -> bool| {
        value.as_array().is_some_and(|items| items.iter().all(is_right))
    };
    let is_client = |value: &Value| {
        value.is_str()
            || value.as_array().is_some_and(|pair| pair.len() == 2 && pair.iter().all(Value::is_str))
    };
    for (key, value) in table {
        let is_right = match key.as_str() {
            "capabilities" => all(value, &is_capability),
            "ca" => value.is_str() || all(value, &Value::is_str),
            "client" => value.is_str() || all(value, &is_client),
            "skip_verify" | "override_path" => value.is_bool(),
            "header" => value.as_table().is_some_and(|header| {
                header.values().all(|value| value.is_str() || all(value, &Value::is_str))
            }),
            "dial_timeout" => value.is_str(),
            _ => true,
        };
        if !is_right {
            return Err(unaccepted(key));
        }
    }
    Ok(())
}

fn unaccepted(key: &str) -> HostsTomlError {
    HostsTomlError::NotAccepted { key: key.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_asked_in_the_order_of_their_tables_with_what_each_is_good_for() {
        let text = "server = \"https://r\"\n[host.\"http://b/v2\"]\ncapabilities = [\"Pull\"]\n\
                    [host.\"http://b/v2\".header]\nx = \"y\"\n[host.\"a\"]\n";
        let hosts = hosts_in_order(text).unwrap();
        let of = |url: &str, resolves| Host { url: url.to_owned(), pulls: true, resolves };
        assert_eq!(hosts, [of("http://b/v2", false), of("a", true)]);
        assert!(hosts[0].is("http://b") && hosts[0].is("http://B/") && !hosts[0].is("https://b"));
        assert!(hosts[1].is("https://a"));
        assert_eq!(hosts_in_order(""), Ok(Vec::new()));
    }

    #[test]
    fn one_value_that_containerd_does_not_accept_spoils_the_file() {
        let accepted = [
            "client = \"a\"",
            "client = [\"a\", \"b\"]",
            "client = [[\"a\", \"b\"], [\"c\", \"c\"]]",
            "ca = [\"a\", \"b\"]",
            "[header]\na = [\"b\"]",
        ];
        for text in accepted {
            assert_eq!(hosts_in_order(text), Ok(Vec::new()), "{text}");
        }
        let unaccepted = [
            ("client = [[\"a\"]]", "client"),
            ("client = [[\"a\", \"b\", \"c\"]]", "client"),
            ("client = 1", "client"),
            ("ca = [1]", "ca"),
            ("capabilities = [\"fetch\"]", "capabilities"),
            ("[host.\"http://a\"]\ncapabilities = \"pull\"", "capabilities"),
            ("[host.\"http://a\"]\nskip_verify = \"yes\"", "skip_verify"),
            ("[host.\"http://a\".header]\na = 1", "header"),
            ("[host.\"http://a\"]\ndial_timeout = 5", "dial_timeout"),
            ("server = 1", "server"),
        ];
        for (text, key) in unaccepted {
            let expected = Err(HostsTomlError::NotAccepted { key: key.to_owned() });
            assert_eq!(hosts_in_order(text), expected, "{text}");
        }
    }
}
