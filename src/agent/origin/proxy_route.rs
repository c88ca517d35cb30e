//! Decides through which proxy a URL is asked, as Go decides it for containerd
//! (golang.org/x/net/http/httpproxy). Pure.

use std::net::IpAddr;

use reqwest::Url;

use crate::proxies::Proxies;

/// Proxies from the environment of this process; `None` if none is set. As in Go, upper case wins.
pub(super) fn of_environment(variable: impl Fn(&str) -> Option<String>) -> Option<Proxies> {
    let either = |name: &str| {
        let value = variable(name).or_else(|| variable(&name.to_ascii_lowercase()));
        value.filter(|value| !value.is_empty())
    };
    let proxies = Proxies {
        http_proxy: either("HTTP_PROXY"),
        https_proxy: either("HTTPS_PROXY"),
        no_proxy: either("NO_PROXY"),
    };
    (proxies.http_proxy.is_some() || proxies.https_proxy.is_some()).then_some(proxies)
}

/// The proxy for `url`, as a URL; `None` for a direct connection.
pub(super) fn proxy_for(proxies: &Proxies, url: &Url) -> Option<String> {
    let proxy = match url.scheme() {
        "https" => proxies.https_proxy.as_deref(),
        _ => proxies.http_proxy.as_deref(),
    }?;
    let host = url.host_str()?.trim_start_matches('[').trim_end_matches(']').trim_end_matches('.');
    let port = url.port_or_known_default()?;
    let exempt = proxies.no_proxy.as_deref().unwrap_or_default();
    if is_local(host) || exempt.split(',').any(|rule| exempts(rule.trim(), host, port)) {
        return None;
    }
    Some(if proxy.contains("://") { proxy.to_owned() } else { format!("http://{proxy}") })
}

/// Whether Go never asks a proxy for a host.
fn is_local(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Whether one entry of `NO_PROXY` covers a host: `*`, an address, a network, `host` or `.domain`, each
/// except the network optionally with a port.
fn exempts(rule: &str, host: &str, port: u16) -> bool {
    let rule = rule.to_ascii_lowercase();
    let host = host.to_ascii_lowercase();
    if rule.is_empty() {
        return false;
    }
    if rule == "*" {
        return true;
    }
    if let Some((network, length)) = rule.split_once('/') {
        let parsed = (network.parse::<IpAddr>(), length.parse::<u32>(), host.parse::<IpAddr>());
        return matches!(parsed, (Ok(network), Ok(length), Ok(host)) if contains(network, length, host));
    }
    let (name, wanted) = split_port(&rule);
    if wanted.is_some_and(|wanted| wanted != port) {
        return false;
    }
    let name = name.trim_start_matches('[').trim_end_matches(']');
    if let Ok(address) = name.parse::<IpAddr>() {
        return host.parse() == Ok(address);
    }
    let domain = name.strip_prefix('*').unwrap_or(name);
    match domain.strip_prefix('.') {
        Some(parent) => host.strip_suffix(parent).is_some_and(|rest| rest.ends_with('.')),
        None => host == domain || host.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.')),
    }
}

/// Splits a rule into host and port. An IPv6 address without brackets has no port.
fn split_port(rule: &str) -> (&str, Option<u16>) {
    if rule.parse::<IpAddr>().is_ok() {
        return (rule, None);
    }
    match rule.rsplit_once(':') {
        Some((name, port)) => match port.parse() {
            Ok(port) => (name, Some(port)),
            Err(_) => (rule, None),
        },
        None => (rule, None),
    }
}

fn contains(network: IpAddr, length: u32, host: IpAddr) -> bool {
    match (network, host) {
        (IpAddr::V4(network), IpAddr::V4(host)) if length <= 32 => {
            let mask = u32::MAX.checked_shl(32 - length).unwrap_or(0);
            u32::from(network) & mask == u32::from(host) & mask
        }
        (IpAddr::V6(network), IpAddr::V6(host)) if length <= 128 => {
            let mask = u128::MAX.checked_shl(128 - length).unwrap_or(0);
            u128::from(network) & mask == u128::from(host) & mask
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(no_proxy: &str) -> Proxies {
        Proxies {
            http_proxy: Some("plain.proxy:3128".to_owned()),
            https_proxy: Some("http://user:secret@tls.proxy:3129".to_owned()),
            no_proxy: Some(no_proxy.to_owned()),
        }
    }

    #[test]
    fn the_scheme_of_the_url_chooses_the_proxy() {
        let of = |url: &str| proxy_for(&proxies(""), &url.parse().unwrap());
        assert_eq!(of("https://r.example/v2/").as_deref(), Some("http://user:secret@tls.proxy:3129"));
        assert_eq!(of("http://r.example/v2/").as_deref(), Some("http://plain.proxy:3128"));
        for url in ["http://localhost:5000/", "https://127.0.0.1:5000/", "http://[::1]:5000/"] {
            assert_eq!(of(url), None, "{url}");
        }
        let none = proxy_for(&Proxies::default(), &"https://r.example/".parse().unwrap());
        assert_eq!(none, None);
    }

    #[test]
    fn exceptions_are_those_of_go() {
        for (rule, url, is_direct) in [
            ("*", "https://r.example/", true),
            ("r.example", "https://r.example/", true),
            ("r.example", "https://a.r.example/", true),
            ("r.example", "https://other.example/", false),
            ("r.example", "https://bar.example/", false),
            (".example", "https://r.example/", true),
            (".r.example", "https://r.example/", false),
            ("*.r.example", "https://a.r.example/", true),
            ("R.Example", "https://r.example/", true),
            ("r.example:5000", "https://r.example:5000/", true),
            ("r.example:5000", "https://r.example/", false),
            ("r.example:443", "https://r.example/", true),
            ("10.0.0.0/8", "https://10.3.4.5:5000/", true),
            ("10.0.0.0/8", "https://11.3.4.5/", false),
            ("10.0.0.0/8", "https://r.example/", false),
            ("0.0.0.0/0", "https://11.3.4.5/", true),
            ("10.0.0.7", "https://10.0.0.7/", true),
            ("10.0.0.7:5000", "https://10.0.0.7/", false),
            ("2001:db8::1", "https://[2001:db8::1]:5000/", true),
            ("2001:db8::/32", "https://[2001:db8::9]/", true),
            ("a.example, .svc ,r.example", "https://r.example/", true),
            ("", "https://r.example/", false),
        ] {
            let proxy = proxy_for(&proxies(rule), &url.parse().unwrap());
            assert_eq!(proxy.is_none(), is_direct, "{rule} for {url}: {proxy:?}");
        }
    }

    #[test]
    fn the_environment_is_read_in_both_cases() {
        let environment = |name: &str| match name {
            "https_proxy" => Some("a:1".to_owned()),
            "NO_PROXY" => Some("b".to_owned()),
            "HTTP_PROXY" => Some(String::new()),
            _ => None,
        };
        let found = of_environment(environment).unwrap();
        assert_eq!(found.https_proxy.as_deref(), Some("a:1"));
        assert_eq!((found.http_proxy, found.no_proxy.as_deref()), (None, Some("b")));
        assert_eq!(of_environment(|_| None), None);
    }
}
