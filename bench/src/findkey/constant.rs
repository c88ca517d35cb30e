//! A server with a constant answer on the product's HTTP stack: the cost of a lookup without the search.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, Result};
use axum::Router;
use axum::body::Bytes;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use clap::Args;
use piccolo::api::path;
use piccolo::http::{ConnectionLimits, bind};

/// Arguments of this side's process.
#[derive(Args, Debug)]
pub(crate) struct Options {
    #[arg(long)]
    listen: SocketAddr,
    /// File with the body.
    #[arg(long)]
    body: PathBuf,
}

/// Serves until it is killed.
pub(crate) fn serve(options: &Options) -> Result<()> {
    let body = Bytes::from(std::fs::read(&options.body).context("could not read the body")?);
    let runtime = tokio::runtime::Runtime::new().context("could not start a runtime")?;
    runtime.block_on(async {
        let listener = bind(options.listen, "a constant answer").await?;
        let answer = move || std::future::ready(([(CONTENT_TYPE, "application/json")], body.clone()));
        let router = Router::new().route(path::FINDKEY, get(answer));
        piccolo::http::serve(listener, router, ConnectionLimits::default(), piccolo::task::Stop::new()).await;
        Ok(())
    })
}
