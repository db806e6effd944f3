//! Measuring: workloads, clusters of real processes, faults, histories, checks and the report.

pub mod check;
pub mod history;
pub mod http;
pub mod stats;
pub mod workload;
