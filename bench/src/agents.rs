//! The agents of a fleet as servers see them: the bytes of their requests, and what each remembers of
//! acknowledged writes. No I/O.

mod names;

use std::io::Write as _;

use anyhow::Result;

use crate::fleet::{Fleet, GROUP};
use names::Names;

/// Number of holders in an agent's lookup.
const CANDIDATES: usize = 16;
/// Lease of an agent, seconds: three heartbeats.
const LEASE_SECONDS: u32 = 90;

/// Acknowledged state of one agent.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    fingerprint: u128,
    count: u32,
    /// Seq of the last acknowledged write; 0 before the first.
    acknowledged: u64,
    /// Seq of the last write that was sent.
    sent: u64,
}

/// All agents of a fleet.
pub(crate) struct Agents {
    pub(crate) fleet: Fleet,
    names: Names,
    epoch: u64,
    known: Vec<Known>,
    body: Vec<u8>,
}

impl Agents {
    /// Agents of `fleet` that know its keys and `extra_keys` more. `epoch` is the time of their start, Unix
    /// milliseconds.
    pub(crate) fn new(fleet: Fleet, extra_keys: u32, epoch: u64) -> Result<Self> {
        Ok(Self {
            fleet,
            names: Names::of(fleet, fleet.distinct_keys + extra_keys)?,
            epoch,
            known: vec![Known::default(); fleet.hosts as usize],
            body: Vec::new(),
        })
    }

    /// Agents whose epoch is now.
    pub(crate) fn started_now(fleet: Fleet, extra_keys: u32) -> Result<Self> {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Self::new(fleet, extra_keys, since.map_or(1, |since| since.as_millis() as u64))
    }

    /// Request that syncs the whole inventory. Returns the seq for [`Agents::acknowledged`].
    pub(crate) fn sync(&mut self, agent: u32, out: &mut Vec<u8>) -> u64 {
        let keys = self.fleet.inventory(agent);
        self.known[agent as usize].sent += 1;
        let seq = self.known[agent as usize].sent;
        self.write("sync", agent, &keys, seq, out);
        seq
    }

    /// Request that advertises `keys`.
    pub(crate) fn advertise(&mut self, agent: u32, keys: &[u32], out: &mut Vec<u8>) -> u64 {
        self.known[agent as usize].sent += 1;
        let seq = self.known[agent as usize].sent;
        self.write("advertise", agent, keys, seq, out);
        seq
    }

    fn write(&mut self, path: &str, agent: u32, keys: &[u32], seq: u64, out: &mut Vec<u8>) {
        let body = &mut self.body;
        body.clear();
        let holder = self.fleet.address(agent);
        write!(body, r#"{{"holder":"{holder}","group":"{GROUP}","keys":["#).expect("memory takes everything");
        for (position, key) in keys.iter().enumerate() {
            body.extend_from_slice(if position == 0 { b"\"" } else { b",\"" });
            body.extend_from_slice(self.names.text(*key));
            body.push(b'"');
        }
        write!(body, r#"],"epoch":{},"seq":{seq}"#, self.epoch).expect("memory takes everything");
        if path == "sync" {
            let zone = self.fleet.zone(agent);
            write!(body, r#","zone":"{zone}","ttl_seconds":{LEASE_SECONDS}"#)
                .expect("memory takes everything");
        }
        body.push(b'}');
        post(&format!("/api/v1/distribution/{path}"), body, out);
    }

    /// Records that a server has acknowledged the sync (`None`) or the advertise of `keys` with this seq.
    pub(crate) fn acknowledged(&mut self, agent: u32, seq: u64, keys: Option<&[u32]>) {
        let inventory;
        let known = &mut self.known[agent as usize];
        let keys = match keys {
            Some(keys) => keys,
            None => {
                (known.fingerprint, known.count) = (0, 0);
                inventory = self.fleet.inventory(agent);
                &inventory
            }
        };
        for key in keys {
            known.fingerprint = known.fingerprint.wrapping_add(self.names.fingerprint(*key));
        }
        known.count += keys.len() as u32;
        known.acknowledged = seq;
    }

    /// True if a write of the agent is in flight.
    pub(crate) fn is_writing(&self, agent: u32) -> bool {
        let known = &self.known[agent as usize];
        known.sent > known.acknowledged
    }

    /// Request for a heartbeat with all fields of a native agent.
    pub(crate) fn heartbeat(&mut self, agent: u32, out: &mut Vec<u8>) {
        let Known { fingerprint, count, acknowledged, .. } = self.known[agent as usize];
        let (host, zone) = (self.fleet.address(agent), self.fleet.zone(agent));
        self.body.clear();
        write!(
            self.body,
            "{{\"host\":\"{host}\",\"Group\":\"{GROUP}\",\"ttl_seconds\":{LEASE_SECONDS},\"zone\":\"{zone}\",\
             \"fingerprint\":\"{fingerprint:032x}\",\"count\":{count},\"epoch\":{},\"seq\":{acknowledged},\
             \"bytes_from_peers\":{agent},\"bytes_served\":{agent},\"misses\":0}}",
            self.epoch
        )
        .expect("memory takes everything");
        post("/api/v1/keepalive", &self.body, out);
    }

    /// Start of the agents, Unix milliseconds.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Request for the holders of a key; `more` is added to its query.
    pub(crate) fn lookup(&self, agent: u32, key: u32, more: &str, out: &mut Vec<u8>) {
        out.extend_from_slice(b"GET /api/v1/distribution/findkey?key=");
        out.extend_from_slice(self.names.text(key));
        write!(
            out,
            "&group={GROUP}&count={CANDIDATES}&request_host={}{more} HTTP/1.1\r\nhost: piccolo\r\n\
             accept: application/json\r\n\r\n",
            self.fleet.address(agent)
        )
        .expect("memory takes everything");
    }
}

fn post(path: &str, body: &[u8], out: &mut Vec<u8>) {
    write!(
        out,
        "POST {path} HTTP/1.1\r\nhost: piccolo\r\naccept: application/json\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    )
    .expect("memory takes everything");
    out.extend_from_slice(body);
}

#[cfg(test)]
mod tests {
    use piccolo_raft::model::{Fingerprint, Key};
    use serde_json::Value;

    use super::*;

    fn body(request: &[u8]) -> Value {
        let text = std::str::from_utf8(request).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}", body.len())));
        serde_json::from_str(body).unwrap()
    }

    #[test]
    fn a_heartbeat_says_what_was_acknowledged() {
        let fleet = Fleet { hosts: 3, keys_per_host: 40, distinct_keys: 100, common_keys: 5 };
        let mut agents = Agents::new(fleet, 2, 7).unwrap();
        let mut out = Vec::new();
        let seq = agents.sync(1, &mut out);
        let sync = body(&out);
        assert_eq!((seq, sync["keys"].as_array().unwrap().len()), (1, 40));
        assert!(agents.is_writing(1));
        agents.acknowledged(1, seq, None);
        out.clear();
        let seq = agents.advertise(1, &[101], &mut out);
        let advertise = body(&out);
        agents.acknowledged(1, seq, Some(&[101]));
        assert!(!agents.is_writing(1));
        out.clear();
        agents.heartbeat(1, &mut out);
        let heartbeat = body(&out);
        assert_eq!(
            (heartbeat["seq"].as_u64(), heartbeat["epoch"].as_u64(), heartbeat["count"].as_u64()),
            (Some(2), Some(7), Some(41))
        );
        let texts = sync["keys"].as_array().unwrap().iter().chain(advertise["keys"].as_array().unwrap());
        let keys: Vec<Key> = texts.map(|text| text.as_str().unwrap().parse().unwrap()).collect();
        assert_eq!(heartbeat["fingerprint"], keys.iter().collect::<Fingerprint>().to_string());
    }
}
