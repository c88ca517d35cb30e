//! Limits of flights: content that nodes share while it is still arriving.

use std::time::Duration;

/// Keys of which a server keeps a flight; beyond, the one that was used longest ago is forgotten.
pub const FLIGHTS_MAX: usize = 65_536;
/// Partial holders of one key in one zone that a server keeps, a random sample of those that asked.
pub const PARTIAL_HOLDERS_PER_ZONE_MAX: usize = 256;
/// Zones of one flight that a server keeps apart; hosts of further ones count as one zone.
pub const FLIGHT_ZONES_MAX: usize = 64;
/// Time for which a node counts as a partial holder after its last message.
pub const PARTIAL_HOLDER_TTL: Duration = Duration::from_secs(60);
/// Partial holders of the asker's zone, and of the other zones, that the owner of a key tells another server, which
/// picks some of them for each asker.
pub const PARTIAL_HOLDERS_SHARED_MAX: usize = 48;
/// Partial holders in one answer to a node.
pub const PARTIAL_HOLDERS_TOLD_MAX: usize = 6;
/// Time that a node has from the grant of a claim to the first byte from the registry, one entry for each attempt;
/// after the last one the key is open.
pub const CLAIM_PATIENCE: [Duration; 3] =
    [Duration::from_secs(2), Duration::from_secs(4), Duration::from_secs(8)];
/// Time without a byte after which the claim of a fetch that had begun passes on.
pub const CLAIM_STALL_MAX: Duration = Duration::from_secs(5);
/// Time after the last growth of a fetch from which on a node that has lost the fetcher takes the claim from it: half as
/// long again as the time between two messages of a fetcher.
pub const CLAIM_LOST_AFTER: Duration = Duration::from_millis(1_500);
/// Time for which a server compares the nodes that want a claim: the one with the most bytes gets it.
pub const CLAIM_COLLECT_TIME: Duration = Duration::from_millis(200);
/// Time for which every node goes to the registry, after nobody has had a byte from it.
pub const CLAIM_OPEN_TIME: Duration = Duration::from_secs(60);
/// Time for the owner of a key to answer another server; then the next server in the key's order is the owner.
pub const FLIGHT_OWNER_TIMEOUT: Duration = Duration::from_millis(300);
/// Time for which a server answers from the last answer of a key's owner, and a little longer while it has asked for a
/// newer one.
pub const FLIGHT_ANSWER_REMEMBERED: Duration = Duration::from_millis(100);
/// Time for which an owner that did not answer is left out.
pub const FLIGHT_OWNER_AVOIDED: Duration = Duration::from_secs(5);
/// Time between two looks at who the voters are.
pub const FLIGHT_VOTERS_LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Size of an owner's answer to a batch, bytes: each message is answered with two short lists of addresses.
pub const FLIGHT_ANSWERS_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Size of a body with flights of a node, or with messages of a server, bytes.
pub const FLIGHTS_BODY_BYTES_MAX: usize = 256 * 1024;
/// Bodies with flights that are being read at one server.
pub const FLIGHTS_READ_MAX: usize = 256;
/// Time for another server to list its flights.
pub const FLIGHTS_LIST_TIMEOUT: Duration = Duration::from_secs(2);
/// Flights in one message of a node.
pub const FLIGHTS_OF_A_NODE_MAX: usize = 256;
/// Keys whose owner's last answer a server remembers.
pub const FLIGHT_ANSWERS_REMEMBERED_MAX: usize = 4_096;
/// Messages of nodes in one request to the owner of their keys.
pub const FLIGHT_BATCH_MAX: usize = 256;
/// Messages that wait for a request to one owner; further ones are for the next server in order.
pub const FLIGHT_MESSAGES_WAITING_MAX: usize = 8_192;
/// How often a server asks the owner again while the claim is undecided.
pub const CLAIM_ASKS_MAX: usize = 3;
/// Time after which flights are brought up to date with time.
pub const FLIGHTS_UPKEEP_INTERVAL: Duration = Duration::from_secs(5);
/// Fetches from registries that one node owes the others at once, unless nobody else asks.
pub const FETCHES_OWED_MAX: u32 = 3;

const _: () = assert!(PARTIAL_HOLDERS_TOLD_MAX <= PARTIAL_HOLDERS_SHARED_MAX);
const _: () = assert!(PARTIAL_HOLDERS_SHARED_MAX <= PARTIAL_HOLDERS_PER_ZONE_MAX);
const _: () = assert!(CLAIM_COLLECT_TIME.as_millis() < CLAIM_PATIENCE[0].as_millis());
const _: () = assert!(CLAIM_LOST_AFTER.as_millis() < CLAIM_PATIENCE[0].as_millis());
