//! HTTP for both roles: listener, errors.
