//! Measuring: workloads, clusters of real processes, faults, histories, checks and the report.
//!
//! Everything that a comparison says comes from a run on this machine: [`compare`] starts the real
//! program, drives it through [`load`], keeps every answer in a [`crate::history`], has [`crate::check`] look for
//! broken promises, and `report` writes down what was found. A figure that could not be taken is
//! absent with its reason.
//!
//! Does not measure what one machine cannot show: real distances, real power loss, other disks.

mod answers;
pub mod bench;
pub mod cluster;
mod compare;
mod contestant;
mod experiments;
pub mod http;
pub mod load;
pub mod nemesis;
pub mod process;
mod progress;
pub mod proxy;
pub mod readings;
pub mod real_files;
mod report;
pub mod results;
mod running;
mod stats;
#[cfg(test)]
mod tests;
pub mod workload;

pub use compare::{CompareOptions, compare};
pub use contestant::Contestant;
pub use results::Verdict;
