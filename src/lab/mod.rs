//! Measuring: workloads, clusters of real processes, faults, histories, checks and the report.
