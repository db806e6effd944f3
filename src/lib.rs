//! Quorate: a replicated key-value store with two architectures behind one HTTP API and on one data path.
//!
//! The modules are floors: a file imports only from its own folder or from a lower floor, and
//! `tests/floors.rs` enforces it. `docs/architecture.md` walks through them.

#![forbid(unsafe_code)]

// Floor 0: words, seams, settings.
pub mod clock;
pub mod config;
pub mod error;
pub mod planted;
pub mod runtime;
pub mod telemetry;
pub mod types;
// Floor 1: what a single node is made of; what clients of experiments saw.
pub mod history;
pub mod peer;
pub mod storage;
// Floor 2: everything that knows openraft; what histories must show.
pub mod check;
pub mod consensus;
// Floor 3: the two architectures.
pub mod replication;
// Floor 4: a node, put together.
pub mod node;
// Floor 5: the HTTP API.
pub mod api;
// Floor 6: the typed client.
pub mod client;
// Floor 7: measuring and simulating.
pub mod lab;
pub mod sim;
// Floor 8: the command line.
pub mod cli;
