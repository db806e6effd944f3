//! A table that waits for its disk holds up nobody but those who wait for what it applies.

use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use openraft::storage::RaftStateMachine;
use parking_lot::Mutex;

use super::support::*;
use crate::consensus::Command;
use crate::consensus::state_machine::{Machine, MachineOptions, StateMachine};
use crate::runtime::Runtime;
use crate::storage::disk::SimDisk;
use crate::storage::table::Hooked;
use crate::telemetry::Metrics;

/// Longer than anything here takes; who waits this long waits for ever.
const FOR_EVER: Duration = Duration::from_secs(20);

#[test]
fn while_a_table_waits_other_tasks_of_the_same_thread_run_and_learn_what_was_applied() {
    let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build();
    let tokio = tokio.expect("a runtime of one thread");
    let (disk, runtime) = (SimDisk::new(1), Runtime::real());
    let (begun, has_begun) = channel();
    let (let_go, go_on) = channel();
    let channels = Mutex::new((begun, go_on));
    let meddling = Meddling {
        may_wait: true,
        before_apply: Box::new(move || {
            let channels = channels.lock();
            channels.0.send(()).expect("the test listens");
            channels.1.recv_timeout(FOR_EVER).expect("the test lets it go on");
            Ok(())
        }),
    };
    let machine = Machine::open(MachineOptions {
        runtime,
        table: Arc::new(Hooked::new(open_table(&disk), meddling)),
        disk: Arc::new(disk),
        metrics: Metrics::new(),
        orders_data: true,
        snapshot_bytes_per_s: 16 << 20,
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
