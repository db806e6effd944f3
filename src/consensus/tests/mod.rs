//! Tests of the whole floor, over simulated disks.

mod bench;
mod catching_up;
mod expiry;
mod group;
mod idempotency;
mod installing;
mod leadership;
mod leases;
mod machine;
mod membership;
mod recovery;
mod replacing;
mod suite;
pub(super) mod support;
mod vouching;
mod waiting;
mod world;
