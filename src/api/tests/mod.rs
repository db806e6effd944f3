//! The API, driven through its service by a replicator in memory.
