//! Headers of a request that decide what of the content is sent: `Range`, `If-Range` and `If-None-Match`
//! (RFC 9110, sections 13 and 14).

use axum::http::HeaderMap;
use axum::http::header::{IF_NONE_MATCH, IF_RANGE, RANGE, USER_AGENT};

use crate::oci::{Digest, RangeHeader};

/// The one range that a request asks for, of content with this digest. Some clients always send `bytes=0-`:
/// for an empty blob that gets the whole, 200 and no bytes, as from Go's `http.ServeContent`.
pub(super) fn range_of(headers: &HeaderMap, digest: Option<&Digest>) -> Option<RangeHeader> {
    if digest.is_some_and(Digest::is_of_nothing) || is_range_of_other(headers, digest) {
        return None;
    }
    RangeHeader::parse(headers.get(RANGE)?.to_str().ok()?)
}

/// Whether the client is a containerd that limits its downloads over all pulls (2.1 and later), as it names itself:
/// `containerd/2.1.4`, `containerd/v2.2.0`.
pub(super) fn is_limited(headers: &HeaderMap) -> bool {
    let name = headers.get(USER_AGENT).and_then(|name| name.to_str().ok()?.strip_prefix("containerd/"));
    let mut numbers = name.unwrap_or_default().trim_start_matches('v').split(|c: char| !c.is_ascii_digit());
    let mut number = || numbers.next().and_then(|number| number.parse::<u32>().ok()).unwrap_or_default();
    (number(), number()) >= (2, 1)
}

/// Whether the client has the content already.
pub(super) fn is_not_modified(headers: &HeaderMap, digest: &Digest) -> bool {
    let etag = etag(digest);
    let known = headers.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    known
        .flat_map(|value| value.split(','))
        .map(|tag| tag.trim().trim_start_matches("W/"))
        .any(|tag| tag == "*" || tag == etag)
}

/// The `ETag` of content.
pub(super) fn etag(digest: &Digest) -> String {
    format!("\"{digest}\"")
}

/// Whether a range is wanted only of other content than this.
fn is_range_of_other(headers: &HeaderMap, digest: Option<&Digest>) -> bool {
    headers
        .get(IF_RANGE)
        .is_some_and(|tag| digest.is_none_or(|digest| tag.as_bytes() != etag(digest).as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderName;

    fn headers(of: &[(HeaderName, String)]) -> HeaderMap {
        of.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect()
    }

    #[test]
    fn a_range_counts_if_it_is_of_this_content_and_that_is_not_empty() {
        let (digest, other) = (Digest::of(b"x"), Digest::of(b"y"));
        let range = || (RANGE, "bytes=3-".to_owned());
        let of = |headers: HeaderMap, digest: &Digest| range_of(&headers, Some(digest));
        assert_eq!(of(headers(&[range()]), &digest), Some(RangeHeader::From(3)));
        assert_eq!(of(headers(&[range()]), &Digest::of(b"")), None);
        assert_eq!(of(headers(&[range(), (IF_RANGE, etag(&digest))]), &digest), Some(RangeHeader::From(3)));
        assert_eq!(of(headers(&[range(), (IF_RANGE, etag(&other))]), &digest), None);
        assert_eq!(range_of(&headers(&[range(), (IF_RANGE, etag(&other))]), None), None);
    }

    #[test]
    fn a_containerd_limits_its_downloads_from_2_1_on() {
        for (name, expected) in [
            ("containerd/1.6.20~ds1", false),
            ("containerd/1.7.28", false),
            ("containerd/2.0.5", false),
            ("containerd/2.1", true),
            ("containerd/v2.1.4", true),
            ("containerd/2.10.0-rc.1", true),
            ("containerd/3.0.0", true),
            ("containerd/", false),
            ("skopeo/2.1.0", false),
        ] {
            assert_eq!(is_limited(&headers(&[(USER_AGENT, name.to_owned())])), expected, "{name}");
        }
        assert!(!is_limited(&HeaderMap::new()));
    }

    #[test]
    fn one_of_several_tags_says_that_the_client_has_it() {
        let (digest, other) = (Digest::of(b"x"), etag(&Digest::of(b"y")));
        let knows = |value: String| is_not_modified(&headers(&[(IF_NONE_MATCH, value)]), &digest);
        assert!(
            knows(etag(&digest)) && knows("*".to_owned()) && knows(format!("{other}, W/{}", etag(&digest)))
        );
        assert!(!knows(other) && !is_not_modified(&HeaderMap::new(), &digest));
    }
}
