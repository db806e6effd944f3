//! When requests start: as soon as the last one was answered, or at a rate, whatever the answers.
//!
//! The starts of an open loop come from a thread of their own, since the timers of the asynchronous
//! runtime are a millisecond coarse, which is more than many answers take. How late that thread was
//! is measured, and reported beside the latencies.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use anyhow::Context as _;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, oneshot};

use super::schedule::{Room, Schedule};
use super::worker::{Ground, Worker};
use crate::lab::stats::{Latencies, Percentiles};
use crate::runtime::Task;

/// A closed loop rests this long after an error, so that a refusal does not become a storm.
const REST_AFTER_ERROR: Duration = Duration::from_millis(5);
/// Arrivals closer together than this, in microseconds, start together: waking for each one would
/// cost more than the requests.
const SHORTEST_WAIT_US: u64 = 100;
/// What still waits this long after the last arrival is given up as missed.
const SERVE_OUT_WITHIN: Duration = Duration::from_secs(10);

/// What was offered to an open loop.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Offered {
    pub arrivals: u64,
    /// Arrivals that were never sent.
    pub missed: u64,
    /// How late arrivals were started by this program itself.
    pub late: Option<Percentiles>,
}

/// Ends an open loop when it is dropped.
pub struct Stop {
    _sender: Sender<()>,
}

/// What an open loop listens to, and what ends it.
pub fn stop() -> (Stop, Receiver<()>) {
    let (sender, receiver) = channel();
    (Stop { _sender: sender }, receiver)
}

/// Every worker asks as soon as its last request was answered, for `length`.
pub async fn closed(workers: Vec<Worker>, length: Duration) -> anyhow::Result<Vec<Worker>> {
    let one = |mut worker: Worker| {
        let ground = worker.ground().clone();
        let until_us = ground.now_us() + length.as_micros() as u64;
        ground.runtime.clone().spawn(async move {
            loop {
                let now_us = ground.now_us();
                if now_us >= until_us {
                    return worker;
                }
                if !worker.ask(now_us).await {
                    ground.runtime.sleep(REST_AFTER_ERROR).await;
                }
            }
        })
    };
    join(workers.into_iter().map(one).collect()).await
}

async fn join(tasks: Vec<Task<Worker>>) -> anyhow::Result<Vec<Worker>> {
    let mut workers = Vec::new();
    for task in tasks {
        workers.push(task.await?);
    }
    Ok(workers)
}

/// The waiting room, and a permit for everyone in it.
struct Door {
    room: Mutex<Room>,
    permits: Semaphore,
    late: Mutex<Latencies>,
}

/// Requests start as `schedule` says, or until the other end of `stop` is dropped; those for which
/// no worker is free wait, and no more than `max_in_flight` wait or are under way.
pub async fn open(
    workers: Vec<Worker>,
    schedule: Schedule,
    max_in_flight: usize,
    stop: Receiver<()>,
) -> anyhow::Result<(Vec<Worker>, Offered)> {
    let door = Arc::new(Door {
        room: Mutex::new(Room::new(max_in_flight)),
        permits: Semaphore::new(0),
        late: Mutex::new(Latencies::new()?),
    });
    let count = workers.len();
    let ground = workers.first().context("no connections")?.ground().clone();
    let serve = |worker| ground.runtime.spawn(serve(worker, door.clone()));
    let mut served = Box::pin(join(workers.into_iter().map(serve).collect()));
    let (ended, has_ended) = oneshot::channel();
    let (pacer_ground, pacer_door) = (ground.clone(), door.clone());
    let pacer = move || {
        start_each(&pacer_ground, &pacer_door, schedule, &stop);
        // One more permit for each worker: there is nobody left to take.
        pacer_door.permits.add_permits(count);
        let _ = ended.send(());
    };
    ground.runtime.thread("bench-pacer", pacer).context("cannot start a thread")?;
    // Whichever way the thread ended, there are no more arrivals.
    let _ = has_ended.await;
    let deadline = ground.runtime.now() + SERVE_OUT_WITHIN;
    let workers = match ground.runtime.deadline(deadline, &mut served).await {
        Some(workers) => workers?,
        None => {
            door.room.lock().abandon();
            served.await?
        }
    };
    let room = door.room.lock();
    let late = door.late.lock().percentiles();
    Ok((workers, Offered { arrivals: room.offered(), missed: room.missed(), late }))
}

async fn serve(mut worker: Worker, door: Arc<Door>) -> Worker {
    // The semaphore is never closed.
    while let Ok(permit) = door.permits.acquire().await {
        permit.forget();
        let Some(at_us) = door.room.lock().take() else { break };
        worker.ask(at_us).await;
        door.room.lock().finish();
    }
    worker
}

/// Lets each arrival in when it is due.
fn start_each(ground: &Ground, door: &Door, schedule: Schedule, stop: &Receiver<()>) {
    let begin_us = ground.now_us();
    let mut next = 0;
    while next < schedule.total() {
        let now_us = ground.now_us() - begin_us;
        let due = schedule.due_by(now_us);
        let mut room = door.room.lock();
        let mut late = door.late.lock();
        let mut let_in = 0;
        for number in next..due {
            let at_us = schedule.at_us(number);
            late.record(now_us - at_us);
            let_in += usize::from(room.arrive(begin_us + at_us));
        }
        drop((room, late));
        next = due.max(next);
        door.permits.add_permits(let_in);
        let wake_us = schedule.at_us(next).max(now_us + SHORTEST_WAIT_US);
        let wait_us = wake_us.saturating_sub(ground.now_us() - begin_us);
        if stop.recv_timeout(Duration::from_micros(wait_us)) != Err(RecvTimeoutError::Timeout) {
            return;
        }
    }
}
