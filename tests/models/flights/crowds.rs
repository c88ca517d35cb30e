//! Nothing fails: one copy leaves the registry, and nobody waits for ever.

use super::fleet::Fleet;
use super::registry::{Conduct, Registry};
use super::{Client, Image, MIB, ONE_COPY, Problems, WITHIN, check};
use crate::containerd::Version;

/// Copies where other tests run beside: a claim passes on when a daemon takes two seconds to its first byte.
const ON_A_BUSY_MACHINE: f64 = 1.5;

/// Layers of all images, and the images that each node pulls at the same time.
struct Crowd<F> {
    name: &'static str,
    layers: Image,
    images_of: F,
}

fn one_blob() -> Crowd<impl Fn(usize) -> Vec<Image>> {
    let layers = Image::of_one_blob();
    let image = layers.clone();
    Crowd { name: "one blob", layers, images_of: move |_| vec![image.clone()] }
}

fn many_layers() -> Crowd<impl Fn(usize) -> Vec<Image>> {
    let layers = Image::of_many_layers();
    let image = layers.clone();
    Crowd { name: "many layers", layers, images_of: move |_| vec![image.clone()] }
}

/// Half of the nodes pull the layers in the opposite order.
fn opposite_orders() -> Crowd<impl Fn(usize) -> Vec<Image>> {
    let layers = Image::of_many_layers();
    let image = layers.clone();
    let images_of =
        move |number: usize| vec![if number.is_multiple_of(2) { image.clone() } else { image.backwards() }];
    Crowd { name: "opposite orders", layers, images_of }
}

/// Two images that share three layers, which half of the nodes begin in the opposite order.
fn two_images() -> Crowd<impl Fn(usize) -> Vec<Image>> {
    let shared = Image::new(&[3 * MIB, 18 * MIB, 2 * MIB]);
    let own = [(); 2].map(|()| Image::new(&[MIB, 5 * MIB]));
    let layers = own[0].and(&shared).and(&own[1]);
    let images = own.map(|own| own.and(&shared));
    let images_of = move |number: usize| {
        let [one, other] = images.clone();
        if number.is_multiple_of(2) { vec![one, other] } else { vec![other.backwards(), one.backwards()] }
    };
    Crowd { name: "two images", layers, images_of }
}

/// Lets all nodes of `fleet` pull at once. An error says what was wrong with it.
async fn all_pull<F: Fn(usize) -> Vec<Image>>(
    fleet: &Fleet,
    client: Client,
    crowd: Crowd<F>,
    copies_max: f64,
) -> Result<(), String> {
    let registry = Registry::start(&crowd.layers, Conduct::Serves).await;
    let limit = registry.undisturbed() + WITHIN;
    let pulled = fleet.daemons(client, &registry).pull(crowd.images_of, limit).await;
    let cell = format!("{client} | {}", crowd.name);
    check(fleet, (&cell, &crowd.layers), &registry, &pulled, copies_max)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn about_one_copy_leaves_the_registry() {
    let fleet = Fleet::start().await;
    all_pull(&fleet, Client::of(Version::V2_3).in_parallel(), one_blob(), ONE_COPY).await.unwrap();
    all_pull(&fleet, Client::of(Version::V2_1), many_layers(), ON_A_BUSY_MACHINE).await.unwrap();
    all_pull(&fleet, Client::of(Version::V2_1).with_slots(1), opposite_orders(), ON_A_BUSY_MACHINE)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn soak_one_copy_leaves_the_registry() {
    let fleet = Fleet::start().await;
    let mut problems = Problems::default();
    for client in Client::ALL {
        problems.note(all_pull(&fleet, client, one_blob(), ONE_COPY).await);
        for client in [client, client.with_slots(1)] {
            problems.note(all_pull(&fleet, client, many_layers(), ONE_COPY).await);
            problems.note(all_pull(&fleet, client, opposite_orders(), ONE_COPY).await);
            problems.note(all_pull(&fleet, client, two_images(), ONE_COPY).await);
        }
    }
    problems.none();
}
