//! Simulating: whole clusters in one thread.
