//! Simple implementations: a map from key to holders, sorted by zone and address.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};

use anyhow::Result;
use piccolo_raft::model::Key;

use super::{COUNT, Holdings};
use crate::fleet::Fleet;

/// Number of the zone, and address. Numbers are faster than text, in favour of this side.
type Place = (u16, SocketAddr);

fn place(fleet: Fleet, host: u32) -> Place {
    let zone = fleet.zone(host).rsplit('-').next().and_then(|number| number.parse().ok());
    (zone.expect("a zone's name ends with its number"), fleet.address(host))
}

fn places(fleet: Fleet) -> Vec<Place> {
    (0..fleet.hosts).map(|host| place(fleet, host)).collect()
}

/// The asker's zone first, then the longest common prefix; visits every holder.
fn nearest<'a>(holders: impl Iterator<Item = &'a Place>, asker: Place) -> usize {
    let distance = |place: &Place| {
        let prefix = match (place.1.ip(), asker.1.ip()) {
            (IpAddr::V4(a), IpAddr::V4(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
            _ => 0,
        };
        (place.0 != asker.0, Reverse(prefix), place.1)
    };
    let mut all: Vec<_> = holders.filter(|place| **place != asker).map(distance).collect();
    if all.len() > COUNT {
        all.select_nth_unstable(COUNT);
        all.truncate(COUNT);
    }
    all.sort_unstable();
    std::hint::black_box(&all).len()
}

/// A balanced tree for each key.
pub(super) struct Sets {
    places: Vec<Place>,
    keys: HashMap<Key, BTreeSet<Place>>,
}

impl Sets {
    pub(super) fn new(fleet: Fleet) -> Self {
        Self { places: places(fleet), keys: HashMap::new() }
    }
}

impl Holdings for Sets {
    fn add(&mut self, changes: &[(u32, Vec<Key>)]) -> Result<()> {
        for (host, keys) in changes {
            for key in keys {
                self.keys.entry(key.clone()).or_default().insert(self.places[*host as usize]);
            }
        }
        Ok(())
    }

    fn remove(&mut self, changes: &[(u32, Vec<Key>)]) -> Result<()> {
        for (host, keys) in changes {
            for key in keys {
                let Some(holders) = self.keys.get_mut(key) else { continue };
                holders.remove(&self.places[*host as usize]);
                if holders.is_empty() {
                    self.keys.remove(key);
                }
            }
        }
        Ok(())
    }

    fn nearest(&self, key: &Key, asker: u32) -> usize {
        let asker = self.places[asker as usize];
        self.keys.get(key).map_or(0, |holders| nearest(holders.iter(), asker))
    }
}

/// One sorted vector for each key.
pub(super) struct Vectors {
    places: Vec<Place>,
    keys: HashMap<Key, Vec<Place>>,
}

impl Vectors {
    pub(super) fn new(fleet: Fleet) -> Self {
        Self { places: places(fleet), keys: HashMap::new() }
    }
}

impl Holdings for Vectors {
    fn add(&mut self, changes: &[(u32, Vec<Key>)]) -> Result<()> {
        for (host, keys) in changes {
            let place = self.places[*host as usize];
            for key in keys {
                let holders = self.keys.entry(key.clone()).or_default();
                if let Err(at) = holders.binary_search(&place) {
                    holders.insert(at, place);
                }
            }
        }
        Ok(())
    }

    fn remove(&mut self, changes: &[(u32, Vec<Key>)]) -> Result<()> {
        for (host, keys) in changes {
            let place = self.places[*host as usize];
            for key in keys {
                let Some(holders) = self.keys.get_mut(key) else { continue };
                if let Ok(at) = holders.binary_search(&place) {
                    holders.remove(at);
                }
                if holders.is_empty() {
                    self.keys.remove(key);
                }
            }
        }
        Ok(())
    }

    fn nearest(&self, key: &Key, asker: u32) -> usize {
        let asker = self.places[asker as usize];
        self.keys.get(key).map_or(0, |holders| nearest(holders.iter(), asker))
    }
}
