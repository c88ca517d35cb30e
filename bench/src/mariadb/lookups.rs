//! The Go Piccolo's findkey on MariaDB, with the product's HTTP stack: the same query, the same limit before
//! the sort, the same order, the same JSON.

use std::cmp::Reverse;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use axum::Router;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use clap::Args;
use mysql_async::Pool;
use mysql_async::prelude::Queryable;
use piccolo::api::{FindQuery, FindResponse, path};
use piccolo::http::{ConnectionLimits, bind};
use serde_json::json;

use super::pool;

/// The Go Piccolo's `SetMaxOpenConns`.
const CONNECTIONS: usize = 100;
/// The query with the Go Piccolo's `FindKeyMaxResults`, which limits the rows before they are sorted.
const SELECT: &str = "SELECT `holder` FROM `distribution_tab` WHERE `group` = ? AND `key` = ? LIMIT 2000";
const COUNT_DEFAULT: usize = 100;
const DATABASE_TIMEOUT: Duration = Duration::from_secs(2);

/// Arguments of this side's process.
#[derive(Args, Debug)]
pub(crate) struct Options {
    #[arg(long)]
    listen: SocketAddr,
    #[arg(long)]
    socket: PathBuf,
}

/// Serves until it is killed.
pub(crate) fn serve(options: &Options) -> Result<()> {
    let runtime = tokio::runtime::Runtime::new().context("could not start a runtime")?;
    runtime.block_on(async {
        let listener = bind(options.listen, "findkey on MariaDB").await?;
        let router =
            Router::new().route(path::FINDKEY, get(find)).with_state(pool(&options.socket, CONNECTIONS)?);
        piccolo::http::serve(listener, router, ConnectionLimits::default(), piccolo::task::Stop::new()).await;
        Ok(())
    })
}

async fn find(State(pool): State<Pool>, Query(query): Query<FindQuery>) -> Response {
    let found = tokio::time::timeout(DATABASE_TIMEOUT, holders(&pool, &query)).await;
    let holders = match found {
        Ok(Ok(holders)) => holders,
        Ok(Err(error)) => return failed(&error.to_string()),
        Err(_) => return failed("context deadline exceeded"),
    };
    if holders.is_empty() {
        let message = format!("Didn't find the key {} in piccolo", query.key);
        return (StatusCode::NOT_FOUND, axum::Json(json!({"message": message}))).into_response();
    }
    let wanted = query.count.filter(|count| *count > 0);
    let wanted = wanted.map_or(COUNT_DEFAULT, |count| usize::try_from(count).unwrap_or(usize::MAX));
    let holders = match query.request_host.as_deref().map(|asker| nearest(&holders, asker, wanted)) {
        None => holders.into_iter().take(wanted).collect(),
        Some(Ok(nearest)) => nearest,
        Some(Err(bad)) => {
            let body = json!({"message": "error when sort holder's order", "err": bad});
            return (StatusCode::NOT_FOUND, axum::Json(body)).into_response();
        }
    };
    axum::Json(FindResponse { key: query.key, group: query.group, holders, total: 0, flight: None })
        .into_response()
}

async fn holders(pool: &Pool, query: &FindQuery) -> Result<Vec<String>, mysql_async::Error> {
    let mut connection = pool.get_conn().await?;
    connection.exec(SELECT, (&query.group, &query.key)).await
}

fn failed(reason: &str) -> Response {
    let body = json!({"error": format!("Error when finding holders: {reason}")});
    (StatusCode::INTERNAL_SERVER_ERROR, axum::Json(body)).into_response()
}

/// Sorts all by common prefix with the asker (descending), then address, then text, and cuts after that. One
/// address that is not IPv4 makes the whole call fail, as in the Go Piccolo.
fn nearest(holders: &[String], asker: &str, wanted: usize) -> Result<Vec<String>, String> {
    let asker: Ipv4Addr = asker.parse().map_err(|_| format!("invalid IPv4: {asker}"))?;
    let place = |holder: &String| -> Result<_, String> {
        let ip = holder.parse::<SocketAddrV4>().map(|address| *address.ip()).or_else(|_| holder.parse());
        let ip = ip.map_err(|_| format!("invalid IPv4: {holder}"))?.to_bits();
        Ok((Reverse((ip ^ asker.to_bits()).leading_zeros()), ip))
    };
    let mut places = Vec::with_capacity(holders.len());
    for holder in holders {
        places.push((place(holder)?, holder));
    }
    places.sort_unstable();
    Ok(places.into_iter().take(wanted).map(|(_, holder)| holder.clone()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_common_prefix_comes_first_then_the_address_and_one_bad_holder_spoils_it() {
        let holders =
            ["10.0.2.1:1", "10.9.0.1:1", "10.0.1.9:1", "10.0.1.9:10", "10.0.1.2:1"].map(String::from);
        let order = ["10.0.1.2:1", "10.0.1.9:1", "10.0.1.9:10", "10.0.2.1:1", "10.9.0.1:1"];
        assert_eq!(nearest(&holders, "10.0.1.3", 9).unwrap(), order);
        assert_eq!(nearest(&holders, "10.0.1.3", 2).unwrap(), order[..2]);
        assert!(nearest(&["10.0.1.2:1".into(), "[fd00::1]:1".into()], "10.0.1.3", 1).is_err());
        assert!(nearest(&holders, "10.0.1.3:7781", 1).is_err(), "a bare address only");
    }
}
