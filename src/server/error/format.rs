//! What is wrong with a request.

/// What is wrong with a request. The text follows "Wrong request format: " in answers.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// The body is not JSON, or not an object.
    #[error("{reason}")]
    Json {
        /// The message of the parser.
        reason: String,
    },
    /// A required field is missing, null or empty.
    #[error("field {field} is required")]
    Missing {
        /// Name of the field.
        field: &'static str,
    },
    /// A field has another type.
    #[error("field {field} must be {expected}, not {found}")]
    Type {
        /// Name of the field, with the position in a list.
        field: String,
        /// The type that it must have.
        expected: &'static str,
        /// The type that it has.
        found: &'static str,
    },
    /// A field has a value that is not allowed.
    #[error("field {field} {reason}")]
    Value {
        /// Name of the field, with the position in a list.
        field: String,
        /// What is wrong with the value; continues "field x …".
        reason: String,
    },
}

impl FormatError {
    /// An error about a value that is not allowed; `reason` continues "field x …".
    pub fn value(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Value { field: field.into(), reason: reason.into() }
    }
}
