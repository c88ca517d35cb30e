//! Metrics of both roles.
