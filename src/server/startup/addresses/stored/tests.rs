use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use piccolo_raft::network::names::Resolve;

use super::super::{AddressError, joining_names, names};
use super::*;

/// A DNS that does not answer within any timeout.
#[derive(Debug)]
struct Away;

impl Resolve for Away {
    fn resolve(&self, _: &str) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
        Box::pin(async {
            tokio::time::sleep(Duration::from_secs(3600)).await;
            Err(io::Error::other("nobody answers"))
        })
    }
}

fn list(entries: &[&str]) -> Vec<String> {
    entries.iter().map(|entry| (*entry).to_owned()).collect()
}

fn stored(own: &str, others: &[&str]) -> Stored {
    let api_address = format!("{}:7789", host(own));
    Stored { raft_address: own.to_owned(), api_address, others: list(others) }
}

const ANY: (&str, &str) = ("0.0.0.0:7789", "0.0.0.0:7790");

async fn started(cluster: &[&str], stored: Option<&Stored>) -> Result<NodeNames, AddressError> {
    let known = Names::new(Arc::new(Away));
    names(&list(cluster), None, ANY.0.parse().unwrap(), ANY.1.parse().unwrap(), stored, &known).await
}

#[tokio::test(start_paused = true)]
async fn a_server_with_data_starts_at_once_without_dns() {
    let names_of_all = ["n-0.piccolo:7790", "n-1.piccolo:7790", "n-2.piccolo:7790"];
    let data = stored("n-1.piccolo:7790", &["n-0.piccolo:7790", "n-2.piccolo:7790"]);
    let begin = tokio::time::Instant::now();
    let own = started(&names_of_all, Some(&data)).await.unwrap();
    assert_eq!(begin.elapsed(), Duration::ZERO);
    assert_eq!(own.raft_address.as_deref(), Some("n-1.piccolo:7790"));
    assert_eq!((own.api_address.as_str(), own.api_host_follows), ("n-1.piccolo:7789", false));
    // Without data the server cannot know which entry it is: it waits, and says for what.
    let error = started(&names_of_all, None).await.unwrap_err();
    assert!(error.may_pass(), "{error}");
    let error = error.to_string();
    assert!(
        error.contains("no answer yet to where n-2.piccolo is") && error.contains("--advertise"),
        "{error}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_server_with_data_that_is_in_no_list_goes_on_as_what_its_data_says() {
    let data = stored("n-1.piccolo:7790", &["240.0.0.1:7790"]);
    let begin = tokio::time::Instant::now();
    let own = started(&["x-0:7790", "x-1:7790"], Some(&data)).await.unwrap();
    assert!(begin.elapsed() <= Duration::from_secs(1), "{:?}", begin.elapsed());
    assert_eq!(own.members, ["x-0:7790", "x-1:7790"]);
    // It learns its new address later, from an entry that leads to itself.
    assert!(own.api_host_follows, "{own:?}");
    let known = Names::new(Arc::new(Away));
    let (api, raft) = (ANY.0.parse().unwrap(), ANY.1.parse().unwrap());
    let own = joining_names("x-0:7790", None, api, raft, Some(&data), &known).await.unwrap();
    assert!(own.members.is_empty() && own.api_host_follows, "{own:?}");
    let error = joining_names("x-0:7790", None, api, raft, None, &known).await.unwrap_err();
    assert!(error.may_pass() && error.to_string().contains("x-0"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_host_that_has_another_address_is_called_by_that() {
    // The server is in the list of new addresses.
    let data = stored("240.0.0.1:7790", &["127.0.0.1:7791"]);
    let own = started(&["240.0.0.9:7790", "127.0.0.1:7790"], Some(&data)).await.unwrap();
    assert_eq!(own.raft_address.as_deref(), Some("127.0.0.1:7790"));
    assert_eq!(own.api_address, "127.0.0.1:7789");
    // The server is in no list: the way to another member decides.
    let own = started(&["240.0.0.1:7790", "240.0.0.9:7790"], Some(&data)).await.unwrap();
    assert_eq!(own.raft_address.as_deref(), Some("127.0.0.1:7790"));
    assert_eq!(own.api_address, "127.0.0.1:7789");
    // The host still has the old address.
    let data = stored("127.0.0.1:7790", &["127.0.0.2:7790"]);
    let own = started(&["240.0.0.1:7790", "240.0.0.9:7790"], Some(&data)).await.unwrap();
    assert_eq!(own.raft_address.as_deref(), Some("127.0.0.1:7790"));
    assert_eq!(own.api_address, "127.0.0.1:7789");
}

/// The server named itself by an IPv6 address, the first that it knew of a member, while it listened on IPv4
/// only.
#[tokio::test]
async fn a_host_that_has_another_address_is_called_by_one_at_which_it_listens() {
    let data = stored("240.0.0.1:7790", &["[::1]:7790", "127.0.0.1:7791"]);
    let known = Names::new(Arc::new(Away));
    let names = |api: &str, raft: &str| data.names(&[], api.parse().unwrap(), raft.parse().unwrap(), &known);
    let own = names(ANY.0, ANY.1);
    assert_eq!(own.raft_address.as_deref(), Some("127.0.0.1:7790"));
    assert_eq!(own.api_address, "127.0.0.1:7789");
    let own = names("[::]:7789", "0.0.0.0:7790");
    assert_eq!(own.raft_address.as_deref(), Some("127.0.0.1:7790"), "one of the ports is on IPv4 only");
    let own = names("[::]:7789", "[::]:7790");
    assert_eq!(own.raft_address.as_deref(), Some("[::1]:7790"));
}
