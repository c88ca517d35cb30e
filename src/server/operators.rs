//! Who may change the membership and take snapshots.
//!
//! Without TLS nobody can prove to be an operator. So these calls are taken from this host only, or from
//! everywhere where `--insecure` says that all who reach the ports are trusted. A proxy on this host, or a
//! web page in a browser here, calls from this host as well, on behalf of others: the headers that they add
//! give them away. And a page may not send JSON to another origin without asking for leave.

use std::net::IpAddr;

use axum::extract::Request;
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_TYPE, FORWARDED, HeaderName, ORIGIN, VIA};

use super::error::ApiError;
use crate::http::Connection;

/// Which calls of operators are taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Operators {
    /// Whether calls from other hosts are taken as well.
    pub remote_too: bool,
}

/// Headers of calls on behalf of others: browsers add the first one, proxies the rest.
const SIGNS_OF_OTHERS: [(HeaderName, &str); 4] = [
    (ORIGIN, "Origin"),
    (FORWARDED, "Forwarded"),
    (HeaderName::from_static("x-forwarded-for"), "X-Forwarded-For"),
    (VIA, "Via"),
];

impl Operators {
    /// Refuses a call that is not an operator's.
    ///
    /// # Errors
    /// [`ApiError::NotOperator`], [`ApiError::PassedOn`] and [`ApiError::NotJson`].
    pub fn check(self, incoming: &Request) -> Result<(), ApiError> {
        let connection = incoming.extensions().get::<Connection>().map(|connection| connection.peer.ip());
        let from = connection.ok_or(ApiError::Internal { reason: "a request without a connection" })?;
        self.check_from(from, incoming.headers())
    }

    fn check_from(self, from: IpAddr, headers: &HeaderMap) -> Result<(), ApiError> {
        if !self.remote_too {
            if !from.to_canonical().is_loopback() {
                return Err(ApiError::NotOperator);
            }
            if let Some((_, name)) = SIGNS_OF_OTHERS.iter().find(|(header, _)| headers.contains_key(header)) {
                return Err(ApiError::PassedOn { name });
            }
        }
        if is_json(headers) { Ok(()) } else { Err(ApiError::NotJson) }
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let given = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    given.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    const HERE_ONLY: Operators = Operators { remote_too: false };
    const EVERYWHERE: Operators = Operators { remote_too: true };

    #[test]
    fn operators_are_on_this_host_unless_everybody_is_trusted() {
        let json = headers(&[("content-type", "application/json")]);
        for near in ["127.0.0.1", "::1", "::ffff:127.0.0.1"] {
            assert!(HERE_ONLY.check_from(near.parse().unwrap(), &json).is_ok(), "{near}");
        }
        let far: IpAddr = "10.0.0.9".parse().unwrap();
        assert!(matches!(HERE_ONLY.check_from(far, &json), Err(ApiError::NotOperator)));
        assert!(EVERYWHERE.check_from(far, &json).is_ok());
    }

    #[test]
    fn a_proxy_or_a_page_on_this_host_is_no_operator() {
        let here = IpAddr::from([127, 0, 0, 1]);
        for (sign, value) in [
            ("origin", "http://evil.example"),
            ("origin", "null"),
            ("forwarded", "for=10.0.0.9"),
            ("x-forwarded-for", "10.0.0.9"),
            ("via", "1.1 proxy"),
        ] {
            let signed = headers(&[("content-type", "application/json"), (sign, value)]);
            let refused = HERE_ONLY.check_from(here, &signed).unwrap_err();
            let ApiError::PassedOn { name } = refused else { panic!("{sign}: {refused}") };
            assert!(name.eq_ignore_ascii_case(sign), "{sign}: {name}");
            assert!(EVERYWHERE.check_from(here, &signed).is_ok(), "whoever reaches the ports is trusted");
        }
    }

    #[test]
    fn a_change_is_sent_as_json() {
        let here = IpAddr::from([127, 0, 0, 1]);
        for kind in ["application/json", "Application/JSON; charset=utf-8"] {
            assert!(HERE_ONLY.check_from(here, &headers(&[("content-type", kind)])).is_ok(), "{kind}");
        }
        for kind in ["text/plain", "application/x-www-form-urlencoded", "application/jsonp", ""] {
            for operators in [HERE_ONLY, EVERYWHERE] {
                let refused = operators.check_from(here, &headers(&[("content-type", kind)]));
                assert!(matches!(refused, Err(ApiError::NotJson)), "{kind}");
            }
        }
        assert!(matches!(HERE_ONLY.check_from(here, &headers(&[])), Err(ApiError::NotJson)));
    }

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let header = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        pairs.iter().map(header).collect()
    }
}
