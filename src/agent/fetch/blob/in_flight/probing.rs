//! The question to the source how far it is, on another connection.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::http::{Method, StatusCode};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::time::timeout;

use super::FlightTransfer;
use crate::agent::flight::follow::Probed;
use crate::agent::flight::header::{Asked, FLIGHT, Told};
use crate::limits::FLIGHT_PROBE_TIMEOUT;

/// A question to a source that has not been answered.
pub(super) struct Probe {
    pub(super) node: SocketAddr,
    /// In a mutex, although nobody shares it, so that a transfer may be looked at between its awaits.
    answer: Mutex<BoxFuture<'static, Option<Told>>>,
}

impl Probe {
    /// What the source says of itself; `None`: nothing in time.
    pub(super) async fn answer(&mut self) -> Option<Told> {
        self.answer.get_mut().expect("nothing panics while it is locked").await
    }
}

impl FlightTransfer {
    /// Begins to ask the source how far it is. Its bytes are taken meanwhile.
    pub(super) fn begin_probe(&mut self, node: SocketAddr) {
        let (sources, wanted, own) = (Arc::clone(&self.sources), Arc::clone(&self.wanted), self.own);
        let probe = async move {
            let asked = Asked::Probe(own);
            let answer = sources.client.ask_in_flight(node, &wanted.path, &Method::HEAD, None, &asked);
            let answer = timeout(FLIGHT_PROBE_TIMEOUT, answer).await.ok()?.ok()?;
            let told = answer.header(FLIGHT).map(Told::parse);
            told.filter(|_| answer.status == StatusCode::OK)
        };
        self.probe = Some(Probe { node, answer: Mutex::new(probe.boxed()) });
    }

    /// Learns what `node` has answered to a probe, unless it is the source no more.
    pub(super) fn probed(&mut self, node: SocketAddr, told: Option<Told>) {
        if self.follow.source() != Some(node) {
            return;
        }
        let probed = told.map(|told| Probed {
            have_bytes: told.have_bytes,
            has_source: told.source.is_some() || told.waits_for.is_some(),
            should_be_left: told.advice.should_be_left,
            should_leave: told.advice.should_leave,
            instead: told.advice.instead.filter(|better| *better != self.own),
        });
        self.follow.probe_answered(probed, self.now());
        self.reception.flight().should_be_left_for(self.follow.instead());
        if self.follow.source().is_none()
            && let Some(attached) = self.source.take()
        {
            self.has_left(
                &attached,
                false,
                "it does not send what it has, does not answer, or another one is better",
            );
        }
    }
}
