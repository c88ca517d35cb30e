//! Which server keeps the flight of a key: rendezvous hashing (Thaler and Ravishankar 1996) over the voters, so that
//! all servers agree without a message, and a server that goes moves only its own keys. Pure.

use piccolo_raft::types::NodeId;
use sha2::{Digest, Sha256};

use super::table::Content;

/// The `voters` in the order in which they own `content`.
pub fn order(content: &Content, voters: impl IntoIterator<Item = NodeId>) -> Vec<NodeId> {
    let key = Sha256::new().chain_update(content.group.as_bytes()).chain_update([0]);
    let key = key.chain_update(content.key.to_string().as_bytes());
    let weight = |voter: NodeId| key.clone().chain_update(voter.to_be_bytes()).finalize();
    let mut weighed: Vec<_> = voters.into_iter().map(|voter| (weight(voter), voter)).collect();
    weighed.sort_by(|a, b| b.cmp(a));
    weighed.into_iter().map(|(_, voter)| voter).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(number: usize) -> Content {
        Content { group: "g".to_owned(), key: format!("r/i:{number}").parse().unwrap() }
    }

    #[test]
    fn each_voter_owns_its_share_and_one_that_goes_moves_only_its_own() {
        const KEYS: usize = 3_000;
        let voters = [7, 1 << 40, 3];
        let mut owned = [0; 3];
        for number in 0..KEYS {
            let all = order(&content(number), voters);
            owned[voters.iter().position(|voter| *voter == all[0]).unwrap()] += 1;
            let without_first = order(&content(number), voters.into_iter().filter(|voter| *voter != all[0]));
            assert_eq!(without_first, all[1..]);
            assert_eq!(order(&content(number), [voters[2], voters[0], voters[1]]), all, "in any order");
        }
        assert!(owned.iter().all(|count| (KEYS / 4..KEYS / 2).contains(count)), "{owned:?}");
    }

    #[test]
    fn groups_have_owners_of_their_own() {
        let other = |number| Content { group: "h".to_owned(), ..content(number) };
        let voters = [1, 2, 3];
        assert!((0..20).any(|number| order(&content(number), voters) != order(&other(number), voters)));
    }
}
