//! Leaderless mode: any node coordinates a quorum write, and reads repair.
