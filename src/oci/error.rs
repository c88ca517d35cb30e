//! Error bodies of the OCI distribution spec (section "Error Codes").

use serde::Serialize;

/// Codes that we answer with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorCode {
    /// A blob that we cannot get.
    BlobUnknown,
    /// A manifest that we cannot get.
    ManifestUnknown,
    /// A repository name against the grammar, or no path of the API at all.
    NameInvalid,
    /// A digest that is none.
    DigestInvalid,
    /// A method that a mirror does not know.
    Unsupported,
    /// A range outside of the content.
    RangeInvalid,
    /// All upload slots are taken.
    TooManyRequests,
    /// Our own failure.
    Unknown,
}

impl ErrorCode {
    /// As it stands in the body.
    pub fn as_str(self) -> &'static str {
        match self {
            ErrorCode::BlobUnknown => "BLOB_UNKNOWN",
            ErrorCode::ManifestUnknown => "MANIFEST_UNKNOWN",
            ErrorCode::NameInvalid => "NAME_INVALID",
            ErrorCode::DigestInvalid => "DIGEST_INVALID",
            ErrorCode::Unsupported => "UNSUPPORTED",
            ErrorCode::RangeInvalid => "RANGE_INVALID",
            ErrorCode::TooManyRequests => "TOOMANYREQUESTS",
            ErrorCode::Unknown => "UNKNOWN",
        }
    }

    /// The JSON body. `attempts`: how many sources were asked in vain.
    pub fn body(self, message: &str, attempts: usize) -> String {
        #[derive(Serialize)]
        struct Errors<'a> {
            errors: [OneError<'a>; 1],
        }
        #[derive(Serialize)]
        struct OneError<'a> {
            code: &'a str,
            message: &'a str,
            detail: Detail,
        }
        #[derive(Serialize)]
        struct Detail {
            attempts: usize,
        }
        let error = OneError { code: self.as_str(), message, detail: Detail { attempts } };
        serde_json::to_string(&Errors { errors: [error] }).expect("plain strings and numbers serialise")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_body_has_the_shape_of_the_spec() {
        let body = ErrorCode::BlobUnknown.body("nobody \"has\" it", 2);
        let expected =
            r#"{"errors":[{"code":"BLOB_UNKNOWN","message":"nobody \"has\" it","detail":{"attempts":2}}]}"#;
        assert_eq!(body, expected);
    }
}
