//! What clients send, read and checked without I/O: bodies as JSON the way Go reads it ([`json`]), query
//! strings ([`query`]), and what a write or a heartbeat must be before anything is proposed ([`accepted`]).

pub mod accepted;
pub mod json;
pub mod query;
