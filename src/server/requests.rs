//! What clients send: bodies are read within limits ([`intake`]), as JSON the way Go reads it ([`json`]) or as a
//! query string ([`query`]), and checked before anything is proposed ([`accepted`]).

pub mod accepted;
pub mod intake;
pub mod json;
pub mod query;
