//! The two ports that give content, the mirror for containerd and the blob server for other agents, and what
//! their responses are built from.

pub(crate) mod answer;
pub(crate) mod blob_server;
pub(crate) mod body;
pub(crate) mod content_response;
pub(crate) mod mirror;
pub(crate) mod mirror_bypass;
pub(crate) mod record;
pub(crate) mod uploads;
