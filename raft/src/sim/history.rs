//! What holders asked for and were told, and whether what servers show can be true. It knows nothing of
//! how the writes were made: a model of one holder's keys, and the rules of the promise (I1, I3).

use std::collections::BTreeSet;

use crate::model::Key;

use super::client::{Kind, Order, Shown};

/// How a write ended for its holder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    /// Under way, or given up: perhaps applied, or still to come.
    Open,
    /// Acknowledged: applied at this log index or before.
    Done(u64),
}

#[derive(Clone, Debug)]
struct Write {
    order: Order,
    ended: Ended,
    /// Some attempt's answer did not come: its request may be applied at any later time, if nothing
    /// (a higher pair) prevents it.
    loose: bool,
}

/// All writes of one holder, in the order in which it made them. It has one under way at a time.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    writes: Vec<Write>,
}

/// Number of a write in its history.
pub(crate) type WriteId = usize;

/// Whether one key may be there, and whether it may be missing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct May {
    there: bool,
    absent: bool,
}

impl May {
    fn only(there: bool) -> Self {
        Self { there, absent: !there }
    }

    fn also(&mut self, there: bool) {
        self.there |= there;
        self.absent |= !there;
    }

    fn be(self, there: bool) -> bool {
        if there { self.there } else { self.absent }
    }
}

impl History {
    pub(crate) fn begin(&mut self, order: Order) -> WriteId {
        self.writes.push(Write { order, ended: Ended::Open, loose: false });
        self.writes.len() - 1
    }

    pub(crate) fn done(&mut self, write: WriteId, index: u64) {
        self.writes[write].ended = Ended::Done(index);
    }

    /// Notes that an attempt has got no answer: it may still be applied.
    pub(crate) fn loose(&mut self, write: WriteId) {
        self.writes[write].loose = true;
    }

    pub(crate) fn acknowledged(&self) -> usize {
        self.writes.iter().filter(|write| matches!(write.ended, Ended::Done(_))).count()
    }

    /// The last acknowledged write and its index.
    pub(crate) fn last_done(&self) -> Option<(WriteId, u64)> {
        self.writes.iter().enumerate().rev().find_map(|(at, write)| match write.ended {
            Ended::Done(index) => Some((at, index)),
            Ended::Open => None,
        })
    }

    /// Whether a server may show this after the acknowledged write `after`, or at any time if there is
    /// none; says why not.
    pub(crate) fn check(&self, after: Option<WriteId>, shown: &Shown) -> Result<(), String> {
        if let Some(after) = after {
            let write = &self.writes[after];
            if write.order.pair.is_some() && shown.pair < write.order.pair {
                return Err(format!(
                    "shows pair {:?} and {:?} at index {} after {:?} was acknowledged: {write:?}",
                    shown.pair, shown.keys, shown.index, write.order.pair
                ));
            }
        }
        let touched = self.writes.iter().flat_map(|write| &write.order.keys);
        let keys: BTreeSet<&Key> = touched.chain(&shown.keys).collect();
        for key in keys {
            let there = shown.keys.contains(key);
            if !self.may(after, key).be(there) {
                let what = if there { "shows" } else { "does not show" };
                return Err(format!("{what} {key} at index {} after {}", shown.index, self.tell(after, key)));
            }
        }
        Ok(())
    }

    fn may(&self, after: Option<WriteId>, key: &Key) -> May {
        let mut may = May::only(false);
        for (at, write) in self.writes.iter().enumerate() {
            let Some(there) = write.effect_on(key) else { continue };
            let before = after.is_some_and(|after| at <= after);
            match write.ended {
                Ended::Done(_) if before => may = May::only(there),
                _ => may.also(there),
            }
        }
        // Without a pair nothing keeps a late request from being applied after later ones.
        for write in self.writes.iter().filter(|write| write.loose && write.order.pair.is_none()) {
            if let Some(there) = write.effect_on(key) {
                may.also(there);
            }
        }
        may
    }

    fn tell(&self, after: Option<WriteId>, key: &Key) -> String {
        let about = self.writes.iter().enumerate().filter(|(_, write)| write.effect_on(key).is_some());
        let lines: Vec<String> = about
            .map(|(at, Write { order: Order { pair, kind, .. }, ended, loose, .. })| {
                format!("#{at} {kind:?} {pair:?} {ended:?} loose {loose}")
            })
            .collect();
        format!("write {after:?} of [{}]", lines.join("; "))
    }
}

impl Write {
    /// Whether the key is there after it; `None`: it says nothing of it.
    fn effect_on(&self, key: &Key) -> Option<bool> {
        let named = self.order.keys.binary_search(key).is_ok();
        match self.order.kind {
            Kind::Advertise => named.then_some(true),
            Kind::Withdraw => named.then_some(false),
            Kind::Sync => Some(named),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Pair;
    use crate::testing::{holder, key};

    fn order(seq: Option<u64>, kind: Kind, keys: &[&str]) -> Order {
        let pair = seq.map(|seq| Pair { epoch: 1, seq });
        Order { holder: holder(1), pair, kind, keys: keys.iter().map(|text| key(text)).collect() }
    }

    fn shown(seq: u64, keys: &[&str]) -> Shown {
        let keys = keys.iter().map(|text| key(text)).collect();
        Shown { index: 9, pair: Some(Pair { epoch: 1, seq }), keys }
    }

    #[test]
    fn an_acknowledged_write_must_be_shown_and_a_later_one_may_be() {
        let mut history = History::default();
        let first = history.begin(order(Some(1), Kind::Advertise, &["a", "b"]));
        history.done(first, 5);
        assert!(history.check(Some(first), &shown(1, &["a", "b"])).is_ok());
        assert!(history.check(Some(first), &shown(1, &["a"])).is_err(), "lost");
        assert!(history.check(Some(first), &shown(1, &["a", "b", "c"])).is_err(), "never written");
        assert!(history.check(Some(first), &shown(0, &["a", "b"])).is_err(), "an older pair");
        history.begin(order(Some(2), Kind::Withdraw, &["a"]));
        assert!(history.check(Some(first), &shown(2, &["b"])).is_ok());
        assert!(history.check(Some(first), &shown(1, &["a", "b"])).is_ok());
        assert!(history.check(Some(first), &shown(2, &[])).is_err());
    }

    #[test]
    fn what_was_open_before_an_acknowledged_pair_cannot_come_any_more() {
        let mut history = History::default();
        let open = history.begin(order(Some(1), Kind::Advertise, &["a"]));
        history.loose(open);
        let gone = history.begin(order(Some(2), Kind::Withdraw, &["a"]));
        history.done(gone, 7);
        assert!(history.check(Some(gone), &shown(2, &[])).is_ok());
        assert!(history.check(Some(gone), &shown(2, &["a"])).is_err());
        assert!(history.check(None, &shown(1, &["a"])).is_ok(), "before");
    }

    #[test]
    fn a_late_request_without_a_pair_can_come_at_any_time() {
        let mut history = History::default();
        let open = history.begin(order(None, Kind::Advertise, &["a"]));
        let gone = history.begin(order(None, Kind::Withdraw, &["a"]));
        history.done(gone, 7);
        assert!(history.check(Some(gone), &shown(0, &["a"])).is_err());
        history.loose(open);
        assert!(history.check(Some(gone), &shown(0, &["a"])).is_ok());
    }

    #[test]
    fn a_sync_speaks_of_all_keys() {
        let mut history = History::default();
        let first = history.begin(order(Some(1), Kind::Advertise, &["a"]));
        history.done(first, 5);
        let sync = history.begin(order(Some(2), Kind::Sync, &["b"]));
        history.done(sync, 6);
        assert!(history.check(Some(sync), &shown(2, &["b"])).is_ok());
        assert!(history.check(Some(sync), &shown(2, &["a", "b"])).is_err());
    }
}
