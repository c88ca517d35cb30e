//! Parses the Bearer challenge of a registry (RFC 6750, and the token specification of the distribution
//! project). Pure.

use reqwest::Url;

/// The URL of a token for `repository`, if one of the `WWW-Authenticate` headers asks for a token.
pub(super) fn token_url<'a>(headers: impl IntoIterator<Item = &'a str>, repository: &str) -> Option<String> {
    let parameters = headers.into_iter().find_map(bearer)?;
    let of = |name: &str| parameters.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    let mut url = Url::parse(of("realm")?).ok().filter(|url| matches!(url.scheme(), "http" | "https"))?;
    let scope = of("scope").map_or_else(|| format!("repository:{repository}:pull"), str::to_owned);
    if let Some(service) = of("service") {
        url.query_pairs_mut().append_pair("service", service);
    }
    url.query_pairs_mut().append_pair("scope", &scope);
    Some(url.into())
}

/// The token in the answer of a token service.
pub(super) fn token(body: &[u8]) -> Option<String> {
    let answer: serde_json::Value = serde_json::from_slice(body).ok()?;
    let text = |name: &str| answer.get(name)?.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    text("token").or_else(|| text("access_token"))
}

/// Names and values of a `Bearer` challenge, which may follow another challenge.
fn bearer(header: &str) -> Option<Vec<(String, String)>> {
    const SCHEME: &str = "bearer ";
    let lower = header.to_ascii_lowercase();
    let start = match lower.starts_with(SCHEME) {
        true => 0,
        false => lower.find(", bearer ")? + 2,
    };
    let mut rest = &header[start + SCHEME.len()..];
    let mut parameters = Vec::new();
    while let Some((name, behind)) = rest.split_once('=') {
        let name = name.trim_matches([' ', ',']).to_ascii_lowercase();
        let behind = behind.trim_start();
        let value;
        if let Some(quoted) = behind.strip_prefix('"') {
            let end = quoted.find('"')?;
            value = &quoted[..end];
            rest = &quoted[end + 1..];
        } else {
            let end = behind.find(',').unwrap_or(behind.len());
            value = behind[..end].trim();
            rest = &behind[end..];
        }
        parameters.push((name, value.to_owned()));
    }
    Some(parameters)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_url_is_made_of_the_challenge() {
        for (header, expected) in [
            (
                "Bearer realm=\"https://auth.docker.io/token\",service=\"registry.docker.io\",scope=\"repository:library/app:pull\"",
                "https://auth.docker.io/token?service=registry.docker.io&scope=repository%3Alibrary%2Fapp%3Apull",
            ),
            (
                "bearer service=a, realm=\"http://h/t?x=1\"",
                "http://h/t?x=1&service=a&scope=repository%3Alibrary%2Fapp%3Apull",
            ),
            (
                "Basic realm=\"x\", Bearer realm=\"https://h/t\"",
                "https://h/t?scope=repository%3Alibrary%2Fapp%3Apull",
            ),
        ] {
            assert_eq!(token_url([header], "library/app").as_deref(), Some(expected), "{header}");
        }
        for header in
            ["Basic realm=\"x\"", "Bearer realm=\"file:///etc/passwd\"", "Bearer realm=\"open", "Bearer"]
        {
            assert_eq!(token_url([header], "library/app"), None, "{header}");
        }
        assert!(token_url(["Basic realm=\"x\"", "Bearer realm=\"https://h/t\""], "a").is_some());
    }

    #[test]
    fn a_token_stands_under_either_name() {
        assert_eq!(token(br#"{"token":"a"}"#).as_deref(), Some("a"));
        assert_eq!(token(br#"{"token":"","access_token":"b"}"#).as_deref(), Some("b"));
        assert_eq!(token(b"{}"), None);
        assert_eq!(token(b"<html>"), None);
    }
}
