//! Clusters of real processes: killed, wiped, left behind, stopped, fed garbage and hunted by
//! the nemesis, in both modes.
//!
//! What is asserted never depends on how fast the machine is: every wait is for something to
//! happen, and is bounded generously only so that a hang is told from a slow machine.

#![allow(clippy::expect_used, reason = "a test fails by panicking")]

mod catching_up;
mod compare;
mod equal_again;
mod expiry;
mod garbage;
mod killed_in_turn;
mod killed_together;
mod layout;
mod leadership;
mod levels;
mod load;
mod membership;
mod nemesis;
mod stopped;
mod suspicion;
mod trial;
mod wiped;
