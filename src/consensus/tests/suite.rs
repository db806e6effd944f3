//! openraft's own suite for log stores and state machines.

use std::sync::Arc;

use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};

use super::support::{in_a_world, open_machine, open_store};
use crate::consensus::log_store::LogStore;
use crate::consensus::raft_types::TypeConfig;
use crate::consensus::state_machine::StateMachine;
use crate::runtime::Runtime;
use crate::storage::disk::SimDisk;
use crate::types::NodeId;

/// The suite makes node ids from numbers.
impl From<u64> for NodeId {
    fn from(number: u64) -> NodeId {
        NodeId(number as u16)
    }
}

struct Builder {
    cache_bytes: u64,
}

impl StoreBuilder<TypeConfig, LogStore, StateMachine> for Builder {
    async fn build(&self) -> Result<((), LogStore, StateMachine), StorageError<TypeConfig>> {
        let runtime = Runtime::simulated(1, 1_000);
        let disk = SimDisk::new(1);
        let store = open_store(&disk, &runtime, self.cache_bytes);
        let machine = open_machine(&disk, &runtime).expect("the table opens");
        Ok(((), store, StateMachine(Arc::new(machine))))
    }
}

#[test]
fn the_suite_passes_with_every_entry_in_memory() {
    in_a_world(|| Suite::test_all(Builder { cache_bytes: 1 << 20 })).expect("the suite passes");
}

#[test]
fn the_suite_passes_with_every_entry_read_from_disk() {
    in_a_world(|| Suite::test_all(Builder { cache_bytes: 0 })).expect("the suite passes");
}
