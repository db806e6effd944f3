//! The runtime seam: spawning, time and randomness.
//!
//! **Why it exists.** A replicated store is as good as the faulty worlds it was tried in, and a
//! world can only be tried again if nothing in it reads real time or real randomness. Everything in
//! Quorate that spawns a task, reads a clock, sleeps or draws a random number does it through a
//! [`Runtime`]. There are two kinds:
//!
//! - [`Runtime::real`]: the multi-threaded tokio runtime the process runs on, the system clock,
//!   and a generator seeded from the operating system.
//! - [`Runtime::simulated`]: tasks on the current thread of a tokio runtime whose clock is paused,
//!   a wall clock of the node's own that can be skewed and run fast or slow, a monotonic one for
//!   consensus that can run fast or slow too, a generator with a given seed, and [`Runtime::kill`], which ends every task of the node at once, as a crash does, now or
//!   after so many polls; [`Runtime::pause`] stops them for a while.
//!
//! **What it guarantees.** Two simulated runs with the same seeds, on a paused current-thread tokio
//! runtime, spawn, wake and draw in the same order. `select!` must be `biased`, and maps that are
//! iterated must be ordered; `clippy.toml` bans what would break this.
//!
//! **What it does not do.** It does not simulate disks or links: those have seams of their own in
//! `storage` and `peer`. Threads ([`Runtime::thread`]) do not exist in a simulated world; code that
//! wants one offers an async driver beside it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
pub use tokio::time::Instant;

pub mod flag;
pub mod pace;
mod simulated;
mod timer;
pub mod watch;

use simulated::Simulated;

tokio::task_local! {
    /// The simulated runtime that the current task belongs to, for code that is given no handle.
    static CURRENT: Runtime;
}

/// A handle to time, randomness and spawning; cheap to clone.
#[derive(Clone)]
pub struct Runtime(Arc<Inner>);

struct Inner {
    random: Mutex<StdRng>,
    /// How far a real node's wall clock is made to be off, in milliseconds: 0 but in tests.
    wall_offset_ms: i64,
    simulated: Option<Simulated>,
}

/// Maps a uniformly random number to one below `bound`; 0 where `bound` is 0.
pub fn below(random: u64, bound: u64) -> u64 {
    // Lemire's multiply-shift; the bias is below 2^-32 for the bounds used here.
    ((u128::from(random) * u128::from(bound)) >> 64) as u64
}

impl Runtime {
    /// The process's own tokio runtime, the system clock and operating system randomness.
    pub fn real() -> Runtime {
        Runtime::real_with_wall_offset(0)
    }

    /// The same with a wall clock that is off by `wall_offset_ms`, for trials of real processes
    /// whose clocks disagree. The monotonic clock is not touched.
    pub fn real_with_wall_offset(wall_offset_ms: i64) -> Runtime {
        #[allow(clippy::disallowed_methods, reason = "the seam itself: the only real randomness")]
        let random = Mutex::new(rand::make_rng::<StdRng>());
        Runtime(Arc::new(Inner { random, wall_offset_ms, simulated: None }))
    }

    /// One run of one node in a simulated world. Must be called on a current-thread tokio runtime
    /// with a paused clock; `wall_ms` is the wall clock's reading now, in milliseconds since 1970.
    pub fn simulated(seed: u64, wall_ms: u64) -> Runtime {
        Runtime(Arc::new(Inner {
            random: Mutex::new(StdRng::seed_from_u64(seed)),
            wall_offset_ms: 0,
            simulated: Some(Simulated::new(wall_ms, instant_now())),
        }))
    }

    /// The simulated runtime of the task that asks, where there is one. Only the consensus
    /// library's runtime type needs this: it is a type, not a value, so it is handed no runtime.
    pub fn of_this_task() -> Option<Runtime> {
        CURRENT.try_with(Runtime::clone).ok()
    }

    /// Whether this node lives in a simulated world.
    pub fn is_simulated(&self) -> bool {
        self.0.simulated.is_some()
    }

    /// Starts a task. In a simulated world it belongs to the node and dies with it; on a node that
    /// was killed it never runs.
    pub fn spawn<F>(&self, future: F) -> Task<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let Some(simulated) = &self.0.simulated else {
            #[allow(clippy::disallowed_methods, reason = "the seam itself")]
            return Task(tokio::spawn(future));
        };
        let guarded = simulated.gate.clone().guard(CURRENT.scope(self.clone(), future));
        #[allow(clippy::disallowed_methods, reason = "the seam itself")]
        let handle = tokio::spawn(guarded);
        simulated.adopt(handle.abort_handle());
        Task(handle)
    }

    /// Runs blocking work without holding up other tasks: on a thread of the blocking pool, or, in
    /// a simulated world, right here.
    pub async fn blocking<F, T>(&self, work: F) -> T
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        if self.is_simulated() {
            return work();
        }
        #[allow(clippy::disallowed_methods, reason = "the seam itself")]
        let joined = tokio::task::spawn_blocking(work).await;
        match joined {
            Ok(value) => value,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // Only a runtime that shuts down cancels blocking work; nobody waits after that.
                Err(_) => std::future::pending().await,
            },
        }
    }

    /// Waits on this very thread, as long as others take, without holding up the tasks that it would
    /// have run meanwhile: they move to another thread, if there are any. For waits that are rare, as
    /// the move costs more than most tasks do.
    pub fn wait_here<T>(wait: impl FnOnce() -> T) -> T {
        use tokio::runtime::{Handle, RuntimeFlavor};
        match Handle::try_current().map(|handle| handle.runtime_flavor()) {
            Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(wait),
            // A thread of no tasks, or the one thread of all, which has nowhere to move them.
            _ => wait(),
        }
    }

    /// Starts an operating system thread. Real worlds only.
    pub fn thread<F>(&self, name: &str, work: F) -> std::io::Result<std::thread::JoinHandle<()>>
    where
        F: FnOnce() + Send + 'static,
    {
        debug_assert!(!self.is_simulated(), "a simulated world has no threads");
        std::thread::Builder::new().name(name.to_owned()).spawn(work)
    }

    /// A reading of the monotonic clock.
    pub fn now(&self) -> Instant {
        instant_now()
    }

    /// A reading of this node's wall clock, in milliseconds since 1970. It may jump either way.
    pub fn wall_ms(&self) -> u64 {
        match &self.0.simulated {
            None => {
                #[allow(
                    clippy::disallowed_methods,
                    reason = "the seam itself: the only wall clock"
                )]
                let now = SystemTime::now();
                let now_ms = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
                (now_ms as u64).saturating_add_signed(self.0.wall_offset_ms)
            }
            Some(simulated) => simulated.wall.read_ms(instant_now()),
        }
    }

    /// Sets how far a simulated node's wall clock is off, in milliseconds: it jumps.
    pub fn set_wall_skew_ms(&self, skew_ms: i64) {
        if let Some(simulated) = &self.0.simulated {
            simulated.wall.set_skew_ms(skew_ms);
        }
    }

    /// Lets a simulated node's wall clock run fast, or slow where negative, from now on, by so many
    /// parts per million. It does not jump.
    pub fn set_wall_rate_ppm(&self, ppm: i64) {
        if let Some(simulated) = &self.0.simulated {
            simulated.wall.set_rate_ppm(ppm, instant_now());
        }
    }

    /// Waits for `duration`.
    pub async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }

    /// Waits until `deadline`.
    pub async fn sleep_until(&self, deadline: Instant) {
        tokio::time::sleep_until(deadline).await;
    }

    /// Gives `future` until `deadline`; `None` where it was not done by then.
    pub async fn deadline<F: Future>(&self, deadline: Instant, future: F) -> Option<F::Output> {
        tokio::time::timeout_at(deadline, future).await.ok()
    }

    /// A uniformly random number.
    pub fn random_u64(&self) -> u64 {
        self.0.random.lock().next_u64()
    }

    /// A uniformly random number below `bound`; 0 where `bound` is 0.
    pub fn random_below(&self, bound: u64) -> u64 {
        below(self.random_u64(), bound)
    }

    /// Ends every task of a simulated node, now and for ever, as a crash does.
    pub fn kill(&self) {
        if let Some(simulated) = &self.0.simulated {
            simulated.kill();
        }
    }

    /// Lets a simulated node die once its tasks were polled so many times more, in the middle of
    /// that instant: none of them is polled after that. [`Runtime::kill`] then ends them.
    pub fn kill_after_polls(&self, polls: u64) {
        if let Some(simulated) = &self.0.simulated {
            simulated.gate.die_after_polls(polls);
        }
    }

    /// Waits until a simulated node is dead. Any other never is.
    pub fn dead(&self) -> impl Future<Output = ()> + Send + use<> {
        let gate = self.0.simulated.as_ref().map(|simulated| simulated.gate.clone());
        async move {
            match gate {
                Some(gate) => gate.dead().await,
                None => std::future::pending().await,
            }
        }
    }

    /// Whether a simulated node is dead.
    pub fn is_dead(&self) -> bool {
        self.0.simulated.as_ref().is_some_and(|simulated| simulated.gate.is_dead())
    }

    /// Stops a simulated node, as SIGSTOP does: time goes on, and none of its tasks is polled.
    pub fn pause(&self) {
        if let Some(simulated) = &self.0.simulated {
            simulated.gate.pause();
        }
    }

    /// Lets a paused node go on: the tasks that became ready are polled, in that order.
    pub fn resume(&self) {
        if let Some(simulated) = &self.0.simulated {
            simulated.gate.resume();
        }
    }

    /// Whether a simulated node is paused.
    pub fn is_paused(&self) -> bool {
        self.0.simulated.as_ref().is_some_and(|simulated| simulated.gate.is_paused())
    }

    /// How many tasks of a simulated node have not ended; 0 in the real world, where nobody counts.
    pub fn live_tasks(&self) -> usize {
        self.0.simulated.as_ref().map_or(0, |simulated| simulated.gate.live_tasks())
    }
}

#[allow(clippy::disallowed_methods, reason = "the seam itself: the only monotonic clock")]
fn instant_now() -> Instant {
    Instant::now()
}

/// A task that was started; dropping it lets the task run on.
pub struct Task<T>(tokio::task::JoinHandle<T>);

impl<T> Task<T> {
    /// Ends the task at its next await.
    pub fn abort(&self) {
        self.0.abort();
    }

    /// Whether the task has ended.
    pub fn is_finished(&self) -> bool {
        self.0.is_finished()
    }

    /// The tokio handle, for the consensus library's runtime type.
    pub fn into_join_handle(self) -> tokio::task::JoinHandle<T> {
        self.0
    }
}

impl<T> Future for Task<T> {
    type Output = Result<T, tokio::task::JoinError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context)
    }
}

/// Runs a test's future on a thread of its own world, whose clock is paused.
#[cfg(test)]
pub(crate) fn in_a_paused_world<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime")
        .block_on(future)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[test]
    fn a_killed_node_runs_nothing_more() {
        in_a_paused_world(async {
            let runtime = Runtime::simulated(1, 0);
            let steps = Arc::new(AtomicU32::new(0));
            let seen = steps.clone();
            let inner = runtime.clone();
            runtime.spawn(async move {
                loop {
                    inner.sleep(Duration::from_millis(10)).await;
                    seen.fetch_add(1, Ordering::Relaxed);
                }
            });
            runtime.sleep(Duration::from_millis(35)).await;
            runtime.kill();
            let before = steps.load(Ordering::Relaxed);
            let late = steps.clone();
            runtime.spawn(async move { late.fetch_add(100, Ordering::Relaxed) });
            runtime.sleep(Duration::from_millis(100)).await;
            assert_eq!((before, steps.load(Ordering::Relaxed)), (3, 3));
        });
    }

    #[test]
    fn the_wall_clock_of_a_simulated_node_follows_its_skew_and_paused_time() {
        in_a_paused_world(async {
            let runtime = Runtime::simulated(1, 1_000);
            runtime.sleep(Duration::from_millis(500)).await;
            assert_eq!(runtime.wall_ms(), 1_500);
            runtime.set_wall_skew_ms(-200);
            assert_eq!(runtime.wall_ms(), 1_300);
        });
    }

    #[test]
    fn a_real_wall_clock_can_be_made_to_be_off_either_way() {
        let read = |offset_ms| Runtime::real_with_wall_offset(offset_ms).wall_ms();
        let before = Runtime::real().wall_ms();
        let (slow, fast) = (read(-3_600_000), read(3_600_000));
        let after = Runtime::real().wall_ms();
        assert!((before..=after).contains(&(slow + 3_600_000)), "{before} {slow} {after}");
        assert!((before..=after).contains(&(fast - 3_600_000)), "{before} {fast} {after}");
    }

    #[test]
    fn the_same_seed_draws_the_same_numbers_and_bounds_hold() {
        in_a_paused_world(async {
            let draw = |seed| {
                let runtime = Runtime::simulated(seed, 0);
                (0..100).map(|_| runtime.random_below(10)).collect::<Vec<_>>()
            };
            assert_eq!(draw(7), draw(7));
            assert_ne!(draw(7), draw(8));
            assert!(draw(7).into_iter().all(|number| number < 10));
        });
    }

    #[test]
    fn a_task_of_a_simulated_node_knows_its_runtime() {
        in_a_paused_world(async {
            let runtime = Runtime::simulated(1, 77);
            assert!(Runtime::of_this_task().is_none());
            let wall = runtime.spawn(async { Runtime::of_this_task().map(|own| own.wall_ms()) });
            assert_eq!(wall.await.expect("joins"), Some(77));
        });
    }
}
