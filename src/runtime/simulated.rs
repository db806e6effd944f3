//! What only a simulated node has: a wall clock of its own, and tasks that can be stopped.
//!
//! **Why it exists.** A process can be stopped and go on later, and it can die at any instruction.
//! What it was told, and what it promised, before that must still hold. Here both can happen between
//! any two polls of a node's tasks, which are all the places where another node can notice.
//!
//! **How.** Every task of a node polls its future through the node's [`Gate`]. An open gate costs one
//! load. A closed one keeps the task's waker where the node is paused, and drops the wake where it is
//! dead: nothing that belongs to the node runs then, not even in the same instant.
//!
//! **What it does not do.** It does not stop a task between two awaits that are ready at once, and it
//! does not stop what the world calls on a node from outside the node's tasks.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;
use tokio::task::AbortHandle;

use super::Instant;
use super::timer::TimerClock;

/// How many tasks a node may remember beyond twice those that live, before it forgets the finished.
const FORGET_FINISHED_TASKS_AT: usize = 256;

/// Parts per million in one.
const MILLION: i128 = 1_000_000;

/// A simulated node's clock and tasks.
pub(super) struct Simulated {
    pub wall: WallClock,
    pub timer: TimerClock,
    pub gate: Arc<Gate>,
    /// `None` once the node was killed: nothing is spawned after that.
    tasks: Mutex<Option<Vec<AbortHandle>>>,
}

impl Simulated {
    pub fn new(wall_ms: u64, now: Instant) -> Simulated {
        Simulated {
            wall: WallClock::new(wall_ms, now),
            timer: TimerClock::new(now),
            gate: Arc::default(),
            tasks: Mutex::new(Some(Vec::new())),
        }
    }

    /// Remembers a task, so that it dies with the node; where that is dead already, at once.
    pub fn adopt(&self, task: AbortHandle) {
        match self.tasks.lock().as_mut() {
            None => task.abort(),
            Some(tasks) => {
                if tasks.len() >= FORGET_FINISHED_TASKS_AT + 2 * self.gate.live_tasks() {
                    tasks.retain(|task| !task.is_finished());
                }
                tasks.push(task);
            }
        }
    }

    /// Ends every task.
    pub fn kill(&self) {
        self.gate.die();
        let tasks = self.tasks.lock().take();
        tasks.into_iter().flatten().for_each(|task| task.abort());
    }
}

/// A wall clock that can be set wrong, and run fast or slow.
pub(super) struct WallClock(Mutex<Reading>);

struct Reading {
    /// What the clock, without its skew, showed at `since`, in microseconds since 1970.
    wall_us: i128,
    since: Instant,
    /// How much faster it runs than time goes by.
    rate_ppm: i64,
    skew_ms: i64,
}

impl WallClock {
    fn new(wall_ms: u64, now: Instant) -> WallClock {
        let wall_us = i128::from(wall_ms) * 1_000;
        WallClock(Mutex::new(Reading { wall_us, since: now, rate_ppm: 0, skew_ms: 0 }))
    }

    /// What the clock shows, in milliseconds since 1970; 0 where it is set before that.
    pub fn read_ms(&self, now: Instant) -> u64 {
        let reading = self.0.lock();
        let shown_ms = reading.at(now) / 1_000 + i128::from(reading.skew_ms);
        u64::try_from(shown_ms.max(0)).unwrap_or(u64::MAX)
    }

    pub fn set_skew_ms(&self, skew_ms: i64) {
        self.0.lock().skew_ms = skew_ms;
    }

    /// Changes the rate from now on, without a jump.
    pub fn set_rate_ppm(&self, rate_ppm: i64, now: Instant) {
        let mut reading = self.0.lock();
        let wall_us = reading.at(now);
        *reading = Reading { wall_us, since: now, rate_ppm, skew_ms: reading.skew_ms };
    }
}

impl Reading {
    fn at(&self, now: Instant) -> i128 {
        let elapsed_us = now.saturating_duration_since(self.since).as_micros() as i128;
        self.wall_us + elapsed_us * (MILLION + i128::from(self.rate_ppm)) / MILLION
    }
}

/// The gate is open: tasks are polled, and nobody counts.
const OPEN: u8 = 0;
/// Bits of a gate that is not: the node is paused, its polls are counted, it is dead.
const PAUSED: u8 = 1;
const COUNTED: u8 = 2;
const DEAD: u8 = 4;

/// Decides whether a node's tasks are polled.
#[derive(Default)]
pub(super) struct Gate {
    state: AtomicU8,
    live_tasks: AtomicUsize,
    inner: Mutex<GateInner>,
}

#[derive(Default)]
struct GateInner {
    /// Rises with each pause, so that a task is noted once a pause however often it is woken.
    pauses: u64,
    /// The tasks that became ready while the node was paused, in that order.
    ready: Vec<Waker>,
    /// How many more polls the node lives, where they are counted.
    polls_left: u64,
    /// Who waits for the node's death.
    mourners: Vec<Waker>,
}

impl Gate {
    /// The future of a task of the node: `future`, polled only while the gate lets it.
    pub fn guard<F: Future>(
        self: Arc<Gate>,
        future: F,
    ) -> impl Future<Output = F::Output> + use<F> {
        let living = Living::begin(self);
        async move {
            let gate = &*living.0;
            let mut future = pin!(future);
            let mut noted_in_pause = 0;
            poll_fn(|context| {
                if gate.state.load(Ordering::Relaxed) == OPEN {
                    return future.as_mut().poll(context);
                }
                if !gate.lets_pass(context, &mut noted_in_pause) {
                    return Poll::Pending;
                }
                let polled = future.as_mut().poll(context);
                gate.count_poll();
                polled
            })
            .await
        }
    }

    pub fn live_tasks(&self) -> usize {
        self.live_tasks.load(Ordering::Relaxed)
    }

    pub fn is_paused(&self) -> bool {
        self.has(PAUSED)
    }

    pub fn is_dead(&self) -> bool {
        self.has(DEAD)
    }

    pub fn pause(&self) {
        if !self.is_paused() {
            self.inner.lock().pauses += 1;
            self.state.fetch_or(PAUSED, Ordering::Relaxed);
        }
    }

    pub fn resume(&self) {
        self.state.fetch_and(!PAUSED, Ordering::Relaxed);
        let ready = std::mem::take(&mut self.inner.lock().ready);
        ready.into_iter().for_each(Waker::wake);
    }

    pub fn die_after_polls(&self, polls: u64) {
        if polls == 0 {
            self.die();
        } else {
            self.inner.lock().polls_left = polls;
            self.state.fetch_or(COUNTED, Ordering::Relaxed);
        }
    }

    pub fn die(&self) {
        self.state.fetch_or(DEAD, Ordering::Relaxed);
        let mourners = {
            let mut inner = self.inner.lock();
            inner.ready.clear();
            std::mem::take(&mut inner.mourners)
        };
        mourners.into_iter().for_each(Waker::wake);
    }

    /// Waits until the node is dead.
    pub async fn dead(self: Arc<Gate>) {
        poll_fn(|context| {
            if self.is_dead() {
                return Poll::Ready(());
            }
            let mourners = &mut self.inner.lock().mourners;
            if !mourners.iter().any(|waker| waker.will_wake(context.waker())) {
                mourners.push(context.waker().clone());
            }
            Poll::Pending
        })
        .await;
    }

    fn has(&self, bits: u8) -> bool {
        self.state.load(Ordering::Relaxed) & bits != 0
    }

    /// Whether a task may be polled though the gate is not open; notes it where it must wait.
    fn lets_pass(&self, context: &Context<'_>, noted_in_pause: &mut u64) -> bool {
        if self.is_dead() {
            return false;
        }
        if !self.is_paused() {
            return true;
        }
        let mut inner = self.inner.lock();
        if *noted_in_pause != inner.pauses {
            *noted_in_pause = inner.pauses;
            inner.ready.push(context.waker().clone());
        }
        false
    }

    /// Counts a poll that was made, where polls are counted; the last one is the node's end.
    fn count_poll(&self) {
        if !self.has(COUNTED) || self.is_dead() {
            return;
        }
        let is_last = {
            let mut inner = self.inner.lock();
            inner.polls_left = inner.polls_left.saturating_sub(1);
            inner.polls_left == 0
        };
        if is_last {
            self.die();
        }
    }
}

/// Counts a task for as long as its future is there.
struct Living(Arc<Gate>);

impl Living {
    fn begin(gate: Arc<Gate>) -> Living {
        gate.live_tasks.fetch_add(1, Ordering::Relaxed);
        Living(gate)
    }
}

impl Drop for Living {
    fn drop(&mut self) {
        self.0.live_tasks.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
