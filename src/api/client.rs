//! Client of the discovery API.
