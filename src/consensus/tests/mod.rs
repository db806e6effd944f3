//! Tests of the whole floor, over simulated disks.

mod recovery;
mod suite;
mod support;
