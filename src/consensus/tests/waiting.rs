//! A table that waits for its disk holds up nobody but those who wait for what it applies.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use openraft::storage::RaftStateMachine;
use parking_lot::Mutex;

use super::support::*;
use crate::consensus::Command;
use crate::consensus::state_machine::{Machine, MachineOptions, StateMachine};
use crate::runtime::Runtime;
use crate::storage::disk::SimDisk;
use crate::storage::table::{Table, TableBatch, TableError, TableView};
use crate::telemetry::Metrics;

/// Longer than anything here takes; who waits this long waits for ever.
const FOR_EVER: Duration = Duration::from_secs(20);

/// A table whose `apply` says that it has begun, and waits until it is told to go on.
struct Slow {
    table: Arc<dyn Table>,
    begun: Sender<()>,
    go_on: Mutex<Receiver<()>>,
}

impl Table for Slow {
    fn get(&self, key: &[u8]) -> Result<Option<bytes::Bytes>, TableError> {
        self.table.get(key)
    }
    fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        limit: usize,
    ) -> Result<Vec<(bytes::Bytes, bytes::Bytes)>, TableError> {
        self.table.scan(from, to, limit)
    }
    fn apply(&self, batch: TableBatch) -> Result<(), TableError> {
        self.begun.send(()).expect("the test listens");
        self.go_on.lock().recv_timeout(FOR_EVER).expect("the test lets it go on");
        self.table.apply(batch)
    }
    fn may_wait(&self) -> bool {
        true
    }
    fn checkpoint(&self) -> Result<(), TableError> {
        self.table.checkpoint()
    }
    fn view(&self) -> Result<Box<dyn TableView>, TableError> {
        self.table.view()
    }
}

#[test]
fn while_a_table_waits_other_tasks_of_the_same_thread_run_and_learn_what_was_applied() {
    let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build();
    let tokio = tokio.expect("a runtime of one thread");
    let (disk, runtime) = (SimDisk::new(1), Runtime::real());
    let (begun, has_begun) = channel();
    let (let_go, go_on) = channel();
    let table = Slow { table: open_table(&disk), begun, go_on: Mutex::new(go_on) };
    let machine = Machine::open(MachineOptions {
        runtime,
        table: Arc::new(table),
        disk: Arc::new(disk),
        metrics: Metrics::new(),
        orders_data: true,
    });
    let machine = Arc::new(machine.expect("opens"));
    let write = submission(session(1, 1, 1, 0), 1 << 16, vec![put("a", "1", None)]);
    let entries = vec![Ok((entry(1, 1, &Command::Data(vec![write])), None))];
    let mut applying = StateMachine(machine.clone());
    let applied =
        tokio.spawn(async move { applying.apply(futures_util::stream::iter(entries)).await });
    has_begun.recv_timeout(FOR_EVER).expect("it applies");

    // The only thread waits: this is another task, and asks what everybody asks all the time.
    let (answer, answered) = channel();
    let asked = machine.clone();
    tokio.spawn(async move {
        let seen = (asked.applied(), asked.cluster(), asked.strangers(), asked.membership_log_id());
        answer.send(seen).expect("the test listens");
    });
    let seen = answered.recv_timeout(FOR_EVER).expect("the task ran, and did not wait itself");
    assert_eq!(seen, (None, None, Vec::new(), None), "nothing is applied yet");

    let_go.send(()).expect("it waits");
    tokio.block_on(applied).expect("it ends").expect("it is applied");
    assert_eq!(machine.applied(), Some(log_id(1, 1)));
}
