//! A site whose firewall drops packets to the peers' port (7781) while the servers' port (7789) is open,
//! which is the most common mistake of a rollout: real containerd, real registry, and holders that drop
//! packets.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use piccolo::api::WriteRequest;
use piccolo::api::client::Client;
use piccolo::limits::CANDIDATES;
use socket2::{Domain, Socket, Type};

use crate::harness::{Image, Node, Registry, SOON, Servers, find, text_of, within};

/// I4: a pull may cost 3 s more than without Piccolo, whatever its number of layers; twice that here, on a
/// busy machine.
const COST_MAX: Duration = Duration::from_secs(3 * 2);
const LAYERS: usize = 30;

/// A listener with a full queue: the kernel drops the first packet of each further connection.
struct Walled {
    address: SocketAddr,
    _listener: Socket,
    _queued: Vec<Socket>,
}

impl Walled {
    fn start() -> Self {
        let socket = || Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let listener = socket();
        listener.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap().as_socket().unwrap();
        let mut queued = Vec::new();
        while queued.len() < 100 {
            let client = socket();
            if client.connect_timeout(&address.into(), Duration::from_millis(100)).is_err() {
                return Self { address, _listener: listener, _queued: queued };
            }
            queued.push(client);
        }
        panic!("the queue of a listener is never full");
    }

    /// Advertises `image` for this holder.
    async fn holds(&self, image: &Image, client: &Client) {
        let request = WriteRequest {
            holder: self.address.to_string(),
            group: "default".to_owned(),
            keys: image.digests().iter().map(ToString::to_string).collect(),
            epoch: None,
            seq: None,
            zone: None,
            ttl_seconds: None,
        };
        client.advertise(&request, SOON).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_of_30_layers_costs_at_most_3_s_more_and_readyz_names_the_port() {
    let folder = tempfile::tempdir().unwrap();
    let servers = Servers::up(folder.path()).await;
    let registry = Registry::start(folder.path()).await;
    let client = servers.client(1);
    let make = |name: &str, seed| Image::make(&folder.path().join(name), seed, &[1_000; LAYERS]);
    let images = [make("walled", 61), make("nobody", 62)];
    let walls: Vec<_> = (0..CANDIDATES).map(|_| Walled::start()).collect();
    for wall in &walls {
        wall.holds(&images[0], &client).await;
    }
    within("the holders are in the index", SOON, || async {
        let found = find(&client, images[0].layers[0].as_str()).await;
        (found.len() == CANDIDATES).then_some(())
    })
    .await;
    let node = Node::start(&folder.path().join("a"), &servers.urls(), &registry.url()).await;
    let mut took = Vec::new();
    for (number, image) in images.iter().enumerate() {
        let name = registry.push(image, &format!("app:v{number}"));
        let start = Instant::now();
        node.pull_by_threes(&name).await;
        took.push(start.elapsed());
    }
    // Nobody holds the last image: its duration is that of a pull without peers.
    assert!(took[0] < took[1] + COST_MAX, "{took:?}");

    let agent = format!("http://127.0.0.1:{}", node.agent.metrics);
    let reasons = text_of(&format!("{agent}/readyz")).await;
    assert!(
        reasons.contains("no peer can be reached: ") && reasons.contains("open between the nodes?"),
        "{reasons}"
    );
    let metrics = text_of(&format!("{agent}/metrics")).await;
    assert!(metrics.contains("piccolo_peers_reachable 0"), "{metrics}");
    let log = node.agent.process.log();
    assert!(log.contains("no peer can be reached: "), "{log}");
}
