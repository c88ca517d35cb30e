//! Flights: `POST /api/v1/distribution/flights` says how far a node is, `GET /api/v1/flights` lists the flights of all
//! servers, and `POST /api/v1/distribution/flights/owned` is what a server asks the owner of keys.
//! [`crate::server::flights`] says what follows. A node asks for sources by findkey.

use std::net::IpAddr;
use std::sync::Arc;

use axum::Json;
use axum::extract::{FromRef, Request};
use axum::response::{IntoResponse, Response};
use piccolo_raft::index::Index;
use piccolo_raft::model::{Holder, Key};
use serde::de::DeserializeOwned;

use crate::api::flight::{
    FlightList, FlightProgress, FlightState, FlightStatus, FlightsRequest, FlightsResponse,
};
use crate::http::Connection;
use crate::limits::{FLIGHT_BATCH_MAX, FLIGHTS_BODY_BYTES_MAX, FLIGHTS_OF_A_NODE_MAX};
use crate::server::app::{App, Loaded};
use crate::server::cluster::forward::is_forwarded;
use crate::server::cluster::server_addresses::ServerAddresses;
use crate::server::error::{ApiError, FormatError};
use crate::server::flights::Flights;
use crate::server::flights::table::{Content, FlightSummary, Node, Progress};
use crate::server::flights::wire::{FlightAnswers, FlightBatch};
use crate::server::permits::Permits;
use crate::server::permits::bodies::read_small;
use crate::server::requests::accepted::{self, HolderPolicy};

/// The parts that these endpoints use.
#[derive(Clone)]
pub struct FlightParts {
    index: Index,
    servers: ServerAddresses,
    flights: Arc<Flights>,
    permits: Permits,
    holders: HolderPolicy,
}

impl FromRef<App> for FlightParts {
    fn from_ref(app: &App) -> Self {
        Self {
            index: app.index.clone(),
            servers: app.cluster.servers.clone(),
            flights: Arc::clone(&app.flights),
            permits: app.permits.clone(),
            holders: app.holders,
        }
    }
}

/// What a node says of its flights, checked.
struct Accepted {
    /// The node with its part in each flight: the content, and what the node does.
    said: Vec<(Content, Node, Progress)>,
}

/// Takes what a node says of its flights.
pub async fn progress(Loaded(parts): Loaded<FlightParts>, incoming: Request) -> Result<Response, ApiError> {
    let (request, _permit) = parts.read::<FlightsRequest>(incoming).await?;
    let Accepted { said } = parts.accept(request)?;
    let keys: Vec<_> = said.iter().map(|(content, ..)| content.key.to_string()).collect();
    let stand = parts.flights.progress(said).await;
    let passed_on = keys.into_iter().zip(stand).filter(|(_, stands)| !stands).map(|(key, _)| key);
    Ok(Json(FlightsResponse { passed_on: passed_on.collect() }).into_response())
}

/// Answers messages as the owner of their keys. Only servers ask.
pub async fn owned(Loaded(parts): Loaded<FlightParts>, incoming: Request) -> Result<Response, ApiError> {
    parts.check_server(&incoming)?;
    let (batch, _permit) = parts.read::<FlightBatch>(incoming).await?;
    if batch.messages.len() > FLIGHT_BATCH_MAX {
        return Err(FormatError::value("messages", format!("are more than {FLIGHT_BATCH_MAX}")).into());
    }
    let answers = batch.messages.iter().map(|message| parts.flights.answer_as_owner(message)).collect();
    Ok(Json(FlightAnswers { answers }).into_response())
}

/// Lists the flights: those of this server for another server, those of all servers for anybody else.
pub async fn list(Loaded(parts): Loaded<FlightParts>, incoming: Request) -> Json<FlightList> {
    let is_of_server = is_forwarded(incoming.headers());
    let mut list = if is_of_server { FlightList::default() } else { parts.flights.of_others().await };
    list.flights.extend(parts.flights.owned().into_iter().map(status));
    list.flights.sort();
    Json(list)
}

impl FlightParts {
    async fn read<T: DeserializeOwned>(
        &self,
        incoming: Request,
    ) -> Result<(T, impl Sized + use<T>), ApiError> {
        let (body, permit) = read_small(&self.permits.flights, incoming, FLIGHTS_BODY_BYTES_MAX).await?;
        let read =
            serde_json::from_slice(&body).map_err(|error| FormatError::Json { reason: error.to_string() })?;
        Ok((read, permit))
    }

    /// Refuses a request that does not come from another server.
    fn check_server(&self, incoming: &Request) -> Result<(), ApiError> {
        let from = incoming.extensions().get::<Connection>().map(|connection| connection.peer.ip());
        let is_server = from.is_some_and(|from: IpAddr| self.servers.has(from.to_canonical()));
        if is_server && is_forwarded(incoming.headers()) { Ok(()) } else { Err(ApiError::NotServer) }
    }

    fn accept(&self, request: FlightsRequest) -> Result<Accepted, FormatError> {
        let FlightsRequest { host, group, flights } = request;
        if flights.len() > FLIGHTS_OF_A_NODE_MAX {
            return Err(FormatError::value("flights", format!("are more than {FLIGHTS_OF_A_NODE_MAX}")));
        }
        let group = accepted::group(group)?;
        let address = accepted::holder_address("host", &host, self.holders)?;
        let holder = Holder { group, address };
        let zone = self.index.host(&holder).map(|record| record.zone).unwrap_or_default();
        let said = flights.into_iter().map(|flight| {
            let FlightProgress { key, state, have, depth, transfer, wrong_attempt, keeps_bytes } = flight;
            let key = key.parse::<Key>().map_err(|error| FormatError::value("key", error.to_string()))?;
            let progress = match state {
                FlightState::Receives => Progress::Receives { depth },
                FlightState::Fetches => Progress::Fetches,
                FlightState::Ended => {
                    let wrong = |attempt| Progress::Wrong { attempt, keeps_bytes };
                    wrong_attempt.map_or(Progress::Ended, wrong)
                }
            };
            let node = Node { address, zone: zone.clone(), have_bytes: have, transfer };
            Ok((Content { group: holder.group.clone(), key }, node, progress))
        });
        Ok(Accepted { said: said.collect::<Result<_, FormatError>>()? })
    }
}

fn status(summary: FlightSummary) -> FlightStatus {
    let FlightSummary { content: Content { group, key }, came, depth, grants, fetcher } = summary;
    let fetcher = fetcher.map(|fetcher| fetcher.to_string());
    FlightStatus { group, key: key.to_string(), nodes: came, depth, copies: grants, fetcher }
}
