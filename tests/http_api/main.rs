//! The HTTP API and the client, whole, over a replicator that lives in memory and fails on demand.

#![cfg(test)]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]
#![allow(clippy::disallowed_methods, reason = "real sockets take real time")]

mod batch;
mod client;
mod errors;
mod explain;
mod fake;
mod kv;
mod layout;
mod limits;
mod list;
mod nonsense;
mod repair;
mod retries;
mod sockets;
mod status;
mod world;
