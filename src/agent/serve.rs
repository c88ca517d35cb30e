//! The two ports that give content: the mirror for containerd, and the blob server for other agents.
//!
//! Each port finds what a request asks for ([`pull`], [`tag`], [`blob_server`]); the one owner of the response
//! ([`responder`]) turns what was found, or the refusal, into headers, body, counters and the line in the log.

pub(crate) mod blob_server;
mod body;
mod conditions;
mod found;
pub(crate) mod mirror;
pub(crate) mod mirror_bypass;
mod pull;
mod record;
mod refusal;
mod responder;
mod tag;
pub(crate) mod uploads;
