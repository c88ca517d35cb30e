//! Limits of blobs that an agent shares while they are still arriving.

use std::time::Duration;

/// Children of one blob at a source, the further ones included that it takes while its link is idle.
pub const CHILDREN_MAX: usize = 4;
/// Children of one blob in a large flight; in a small one there is one.
pub const CHILDREN_IN_LARGE_FLIGHT: usize = 2;
/// Number of nodes beyond which a flight is large.
pub const FLIGHT_IS_LARGE_BEYOND: u64 = 16;
/// Time for which all children must have had all that their source has before it takes a further one.
pub const IDLE_BEFORE_FURTHER_CHILD: Duration = Duration::from_secs(1);
/// Time without a byte after which a node takes no further child though its link is idle.
pub const STARVED_AFTER: Duration = Duration::from_millis(500);
/// Time over which the children of a source are compared.
pub const CHILD_SLOW_AFTER: Duration = Duration::from_millis(250);
/// Bytes that a child should have taken before it is compared: containerd writes in steps of 1 MiB.
pub const CHILD_SLOW_BYTES_MIN: u64 = 16 * 1024 * 1024;
/// Time after which a child is slow that takes nothing of what there is.
pub const CHILD_STALLED_AFTER: Duration = Duration::from_secs(1);
/// A child is slow that takes less than this part of what it should: one in three.
pub const CHILD_SLOW_SHARE: u64 = 3;
/// Steps from full sources to their children, after which a node asks a server again: enough for the whole chain of a
/// small flight.
pub const DESCENTS_MAX: usize = 16;
/// Time between two lookups of a node that finds no source.
pub const SERVER_ASKED_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// Time between two lookups of a node that has lost its source and has no other one: as soon as the owner of the key no
/// longer believes that a lost fetcher fetches, another node shall.
pub const LOST_SAID_AGAIN_AFTER: Duration = Duration::from_millis(500);
/// Time between two questions of a node to its source: how far it is, and whether there is a better one.
pub const SOURCE_PROBE_INTERVAL: Duration = Duration::from_millis(250);
/// Time without a byte after which a node leaves a source that has more.
pub const SOURCE_STALLS_AFTER: Duration = Duration::from_secs(1);
/// Time after which a node tells a server that the first node of its chain has nothing more.
pub const STARVED_SAID_AFTER: Duration = Duration::from_secs(3);
/// Time after which it tells that again.
pub const STARVED_SAID_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// Time without a byte after which a node counts as starved although another one is before its source.
pub const CIRCLE_SUSPECTED_AFTER: Duration = Duration::from_secs(4);
/// Time without a byte after which a node goes to the registry in any case.
pub const WITHOUT_BYTES_MAX: Duration = Duration::from_secs(20);
/// Time that a node has at least for each try after one with wrong bytes.
pub const BEGUN_AGAIN_FOR: Duration = Duration::from_secs(5);
/// Time between two messages of a fetcher that say how far it is.
pub const CLAIM_PROGRESS_INTERVAL: Duration = Duration::from_secs(1);
/// Size up to which a blob may be a manifest while it is arriving, bytes: what registries must accept (OCI distribution
/// specification). Its kind is known only when all of it is here.
pub const FLIGHT_MANIFEST_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Time without a byte after which containerd counts as having given up a fetch from the registry.
pub const FETCH_GIVEN_UP_AFTER: Duration = Duration::from_secs(60);
/// Time without a byte after which a fetch has ended whose containerd was lost: it has died, or only a call to it failed.
pub const FETCH_DOUBTED_MAX: Duration = Duration::from_millis(500);
/// Time between two messages of a node that receives.
pub const FLIGHT_RENEWAL_INTERVAL: Duration = Duration::from_secs(20);
/// Time after which a node that receives first says how far it is.
pub const FLIGHT_FIRST_SAID_AFTER: Duration = Duration::from_secs(5);
/// Time for a server to take what a node says of its flights.
pub const FLIGHT_PROGRESS_TIMEOUT: Duration = Duration::from_secs(2);
/// Time for which a node remembers a flight that nobody receives from it any more: until its content can be found as
/// complete.
pub const FLIGHT_LINGER: Duration = Duration::from_secs(10);
/// Flights of one node, those included that other nodes have at its content.
pub const FLIGHTS_RUNNING_MAX: usize = 256;
/// Children that a full source names and a node reads.
pub const FLIGHT_CHILDREN_NAMED_MAX: usize = 8;
/// Time between two looks whether bytes have come that a child does not have.
pub const FLIGHT_LOOK_PAUSE: Duration = Duration::from_millis(10);
/// How often requests give their turn in containerd's queue away at one offset: the fourth cut without progress between
/// them fails the pull (2.1).
pub const YIELDS_AT_ONE_OFFSET_MAX: usize = 2;
/// Time without a byte after which a fetch stands: in the parallel mode of containerd, each chunk waits for its turn.
pub const FETCH_STANDS_AFTER: Duration = Duration::from_millis(500);
/// Time for which it is remembered at which offsets requests gave their turn away: longer than they wait in the queue.
pub const YIELDS_REMEMBERED_FOR: Duration = Duration::from_secs(600);
/// Blobs of which that is remembered.
pub const YIELDS_REMEMBERED_MAX: usize = 1_024;
/// Time for which a request receives nothing before it may give its turn away.
pub const YIELD_AFTER: Duration = Duration::from_millis(100);
/// Time for which the children of a request wait that has given its turn away; then they find another source.
pub const PAUSE_MAX: Duration = Duration::from_secs(1);
/// How often a small blob is received by a flight whose bytes turn out wrong: so often that two bad attempts in a row
/// do not send every node to the registry.
pub const FLIGHT_TRIES_MAX: usize = 3;
/// Time for a server to say where the bytes of a blob come from, which includes the comparison of those that want to
/// fetch it.
pub const FLIGHT_LOOKUP_TIMEOUT: Duration = Duration::from_secs(2);
/// Time for a source to answer with headers, which it does at once.
pub const FLIGHT_HEADERS_TIMEOUT: Duration = Duration::from_secs(1);
/// Time for which a node is not asked again that did not answer, or does not have the blob.
pub const FLIGHT_FAILED_FOR: Duration = Duration::from_secs(5);
/// Bytes that a complete holder has sent before its connection broke from which on it is asked again at once.
pub const HOLDER_GOES_ON_BYTES_MIN: u64 = 1024 * 1024;
/// How often a holder may have no slot for an upload before it counts as having nothing.
pub const FLIGHT_BUSY_TRIES_MAX: usize = 3;
/// Time for a source to answer how far it is.
pub const FLIGHT_PROBE_TIMEOUT: Duration = Duration::from_millis(200);
/// Time over which the nodes of a fleet spread their way to the registry after they have waited in vain.
pub const REGISTRY_SPREAD: Duration = Duration::from_secs(3);
/// Complete holders from which on a node takes a blob from several of them, as long as no more nodes than these want it.
pub const HOLDERS_ARE_MANY: usize = 4;

const _: () = assert!(CHILDREN_MAX <= FLIGHT_CHILDREN_NAMED_MAX);
const _: () = assert!(CHILDREN_IN_LARGE_FLIGHT <= CHILDREN_MAX);
const _: () = assert!(DESCENTS_MAX as u64 >= FLIGHT_IS_LARGE_BEYOND);
const _: () = assert!(SOURCE_STALLS_AFTER.as_millis() < WITHOUT_BYTES_MAX.as_millis());
const _: () = assert!(SOURCE_STALLS_AFTER.as_millis() < CIRCLE_SUSPECTED_AFTER.as_millis());
const _: () = assert!(FLIGHT_PROBE_TIMEOUT.as_millis() < SOURCE_PROBE_INTERVAL.as_millis());
