//! Settings and output that all commands share which ask a server.

use serde::Serialize;

use super::{CliError, output};
use crate::api::client::Client;
use crate::config::{Fallback, Layers, Setting};
use crate::value;

/// Settings of every command that asks a server.
pub(super) const CLIENT: &[Setting] = &[
    Setting::new("server", "URL,…", "Discovery servers; the first one that answers is used")
        .or(Fallback::Text("http://127.0.0.1:7789"))
        .alias(&["PICCOLO_SERVERS"]),
    Setting::switch("json", "Print the server's answer as JSON"),
];

/// Values of [`CLIENT`].
#[derive(Debug)]
pub(super) struct Asked {
    servers: Vec<String>,
    pub(super) json: bool,
}

impl Asked {
    /// Reads [`CLIENT`] from the layers.
    pub(super) fn read(layers: &mut Layers) -> Option<Self> {
        let servers = layers.required("server", |text| value::list(text, value::server_url));
        let json = layers.switch("json");
        Some(Self { servers: servers?, json })
    }

    /// A client of the servers given by `--server`.
    pub(super) fn client(&self) -> Result<Client, CliError> {
        Ok(Client::new(self.servers.clone())?)
    }
}

/// Prints an answer as indented JSON.
pub(super) fn print_json(answer: &impl Serialize) -> Result<(), CliError> {
    let text =
        serde_json::to_string_pretty(answer).expect("wire types have string keys and no failing parts");
    output::print(&(text + "\n"))
}
