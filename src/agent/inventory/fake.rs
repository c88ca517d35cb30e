//! A discovery in memory, as one holder sees it: it applies writes in their order, and fails on demand.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Mutex;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::watch;

use super::index_api::{IndexApi, Write};
use crate::api::client::ClientError;
use crate::api::{KeepaliveRequest, KeepaliveResponse, WriteRequest, WriteResponse};

/// The result of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// The write is applied and acknowledged.
    Taken,
    /// The write is not applied, and not answered.
    Lost,
    /// The write is applied, but its answer is lost.
    TakenUnheard,
    /// The write is not applied, because the disks of the servers have no room.
    NoRoom,
    /// The write is refused for good.
    Refused,
}

#[derive(Default)]
pub(super) struct FakeIndex {
    state: Mutex<FakeHolder>,
    calls: watch::Sender<usize>,
    heartbeats: watch::Sender<usize>,
}

#[derive(Default)]
struct FakeHolder {
    script: VecDeque<Answer>,
    writes: Vec<(Write, WriteRequest)>,
    heartbeats: Vec<KeepaliveRequest>,
    keys: BTreeSet<String>,
    pair: (u64, u64),
    resync: bool,
    /// Limit of keys. A write that would leave more keys than this, and more than there are, finds the index
    /// full.
    room: Option<usize>,
    /// Delay of every answer.
    slow: Duration,
}

impl FakeIndex {
    /// Sets the results of the next writes. Writes after them are applied.
    pub(super) fn script(&self, answers: &[Answer]) {
        self.state.lock().unwrap().script.extend(answers);
    }

    /// Sets the pair of the last write, as if another agent had written for this holder.
    pub(super) fn set_pair(&self, epoch: u64, seq: u64) {
        self.state.lock().unwrap().pair = (epoch, seq);
    }

    /// Answers the next heartbeat with `resync`.
    pub(super) fn ask_for_resync(&self) {
        self.state.lock().unwrap().resync = true;
    }

    /// Limits the keys of the index; `None` ends that.
    pub(super) fn set_room(&self, room: Option<usize>) {
        self.state.lock().unwrap().room = room;
    }

    /// Delays every answer by this time.
    pub(super) fn slow_down(&self, time: Duration) {
        self.state.lock().unwrap().slow = time;
    }

    /// All writes so far.
    pub(super) fn writes(&self) -> Vec<(Write, WriteRequest)> {
        self.state.lock().unwrap().writes.clone()
    }

    /// All heartbeats so far.
    pub(super) fn heartbeats(&self) -> Vec<KeepaliveRequest> {
        self.state.lock().unwrap().heartbeats.clone()
    }

    /// The keys in the index.
    pub(super) fn keys(&self) -> BTreeSet<String> {
        self.state.lock().unwrap().keys.clone()
    }

    /// Waits for this many writes.
    pub(super) async fn written(&self, count: usize) {
        self.calls.subscribe().wait_for(|calls| *calls >= count).await.unwrap();
    }

    /// Waits for this many heartbeats.
    pub(super) async fn heartbeats_sent(&self, count: usize) {
        self.heartbeats.subscribe().wait_for(|heartbeats| *heartbeats >= count).await.unwrap();
    }

    fn take(&self, kind: Write, request: &WriteRequest) -> Result<WriteResponse, ClientError> {
        let mut state = self.state.lock().unwrap();
        state.writes.push((kind, request.clone()));
        let answer = state.script.pop_front().unwrap_or(Answer::Taken);
        let pair = (request.epoch.unwrap(), request.seq.unwrap());
        let stale = pair < state.pair;
        let asked: BTreeSet<String> = request.keys.iter().cloned().collect();
        let after = match kind {
            Write::Sync => asked.len(),
            Write::Advertise => state.keys.union(&asked).count(),
            Write::Withdraw => 0,
        };
        if after > state.keys.len() && state.room.is_some_and(|room| after > room) {
            return Err(ClientError::Unavailable {
                status: hyper::StatusCode::INSUFFICIENT_STORAGE,
                retry_after: Some(Duration::from_secs(5)),
                index_full: true,
                servers: Vec::new(),
            });
        }
        if matches!(answer, Answer::Taken | Answer::TakenUnheard) && !stale {
            state.pair = pair;
            match kind {
                Write::Sync => state.keys = request.keys.iter().cloned().collect(),
                Write::Advertise => state.keys.extend(request.keys.iter().cloned()),
                Write::Withdraw => state.keys.retain(|key| !request.keys.contains(key)),
            }
        }
        let (epoch, seq) = state.pair;
        let response = WriteResponse {
            success: !stale,
            message: String::new(),
            stale,
            epoch: Some(epoch),
            seq: Some(seq),
            skipped: 0,
        };
        match answer {
            Answer::Taken => Ok(response),
            Answer::Lost | Answer::TakenUnheard => Err(ClientError::Unreachable { servers: Vec::new() }),
            Answer::NoRoom => Err(ClientError::Unavailable {
                status: hyper::StatusCode::INSUFFICIENT_STORAGE,
                retry_after: Some(Duration::from_secs(5)),
                index_full: false,
                servers: Vec::new(),
            }),
            Answer::Refused => Err(ClientError::Refused {
                server: "fake".into(),
                status: hyper::StatusCode::BAD_REQUEST,
                message: "scripted".into(),
            }),
        }
    }
}

impl IndexApi for FakeIndex {
    fn write<'a>(
        &'a self,
        kind: Write,
        request: &'a WriteRequest,
        _deadline: Duration,
    ) -> BoxFuture<'a, Result<WriteResponse, ClientError>> {
        async move {
            let slow = self.state.lock().unwrap().slow;
            tokio::time::sleep(slow).await;
            let result = self.take(kind, request);
            self.calls.send_modify(|calls| *calls += 1);
            result
        }
        .boxed()
    }

    fn keepalive<'a>(
        &'a self,
        request: &'a KeepaliveRequest,
        _deadline: Duration,
    ) -> BoxFuture<'a, Result<KeepaliveResponse, ClientError>> {
        async move {
            let mut state = self.state.lock().unwrap();
            state.heartbeats.push(request.clone());
            let heartbeats_sent = request.epoch.zip(request.seq);
            let resync =
                std::mem::take(&mut state.resync) | heartbeats_sent.is_some_and(|pair| pair < state.pair);
            drop(state);
            self.heartbeats.send_modify(|heartbeats| *heartbeats += 1);
            Ok(KeepaliveResponse { success: true, message: String::new(), resync })
        }
        .boxed()
    }
}
