//! openraft's runtime over the project's own seam.
//!
//! Channels, locks and timers are tokio's, which obey a paused clock; the clock is the node's own,
//! which in a simulated world may run fast or slow, and with it every timer. Watched values are the
//! project's, which wake their waiters in an order that replays. Tasks go through
//! [`Runtime::spawn`] where a simulated node asks, so that they die with the node, and random
//! numbers come from the node's seeded generator, so that elections replay.

use std::future::Future;
use std::io;
use std::ops::{Add, AddAssign, Sub, SubAssign};
use std::time::Duration;

use openraft::impls::TokioRuntime;
use openraft::{AsyncRuntime, OptionalSend};
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::watch::SeamWatch;
use crate::runtime::{Instant, Runtime};

/// See the module.
#[derive(Debug)]
pub struct SeamRuntime(TokioRuntime);

/// A reading of the monotonic clock of the node whose task asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SeamInstant(Instant);

impl openraft::Instant for SeamInstant {
    fn now() -> SeamInstant {
        SeamInstant(Runtime::timer_now_of_this_task())
    }
}

impl Add<Duration> for SeamInstant {
    type Output = SeamInstant;

    fn add(self, duration: Duration) -> SeamInstant {
        SeamInstant(self.0 + duration)
    }
}

impl AddAssign<Duration> for SeamInstant {
    fn add_assign(&mut self, duration: Duration) {
        self.0 += duration;
    }
}

impl Sub<Duration> for SeamInstant {
    type Output = SeamInstant;

    fn sub(self, duration: Duration) -> SeamInstant {
        SeamInstant(self.0 - duration)
    }
}

impl SubAssign<Duration> for SeamInstant {
    fn sub_assign(&mut self, duration: Duration) {
        self.0 -= duration;
    }
}

impl Sub for SeamInstant {
    type Output = Duration;

    fn sub(self, earlier: SeamInstant) -> Duration {
        self.0 - earlier.0
    }
}

/// The node's runtime, where a task of a simulated node asks, else the process's.
fn runtime_of_task() -> Runtime {
    Runtime::of_this_task().unwrap_or_else(Runtime::real)
}

fn own_sleep(duration: Duration) -> Duration {
    Runtime::of_this_task().map_or(duration, |runtime| runtime.timer_sleep(duration))
}

/// How long it takes until the node's clock shows `deadline`.
fn until(deadline: SeamInstant) -> Duration {
    let now = <SeamInstant as openraft::Instant>::now();
    own_sleep(deadline.0.saturating_duration_since(now.0))
}

impl AsyncRuntime for SeamRuntime {
    type JoinError = <TokioRuntime as AsyncRuntime>::JoinError;
    type JoinHandle<T: OptionalSend + 'static> = <TokioRuntime as AsyncRuntime>::JoinHandle<T>;
    type Sleep = <TokioRuntime as AsyncRuntime>::Sleep;
    type Instant = SeamInstant;
    type TimeoutError = <TokioRuntime as AsyncRuntime>::TimeoutError;
    type Timeout<R, T: Future<Output = R> + OptionalSend> =
        <TokioRuntime as AsyncRuntime>::Timeout<R, T>;
    type ThreadLocalRng = StdRng;
    type Mpsc = <TokioRuntime as AsyncRuntime>::Mpsc;
    type Watch = SeamWatch;
    type Oneshot = <TokioRuntime as AsyncRuntime>::Oneshot;
    type Mutex<T: OptionalSend + 'static> = <TokioRuntime as AsyncRuntime>::Mutex<T>;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        match Runtime::of_this_task() {
            Some(runtime) => runtime.spawn(future).into_join_handle(),
            None => TokioRuntime::spawn(future),
        }
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        TokioRuntime::sleep(own_sleep(duration))
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        TokioRuntime::sleep(until(deadline))
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(
        duration: Duration,
        future: F,
    ) -> Self::Timeout<R, F> {
        TokioRuntime::timeout(own_sleep(duration), future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(
        deadline: Self::Instant,
        future: F,
    ) -> Self::Timeout<R, F> {
        TokioRuntime::timeout(until(deadline), future)
    }

    fn is_panic(join_error: &Self::JoinError) -> bool {
        TokioRuntime::is_panic(join_error)
    }

    fn thread_rng() -> Self::ThreadLocalRng {
        // Asked for at elections and starts alone, so that a fresh generator each time is cheap.
        let runtime = runtime_of_task();
        StdRng::seed_from_u64(runtime.random_u64())
    }

    fn new(threads: usize) -> Self {
        SeamRuntime(TokioRuntime::new(threads))
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        self.0.block_on(future)
    }

    fn spawn_blocking<F, T>(work: F) -> impl Future<Output = Result<T, io::Error>> + Send
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        let runtime = runtime_of_task();
        async move { Ok(runtime.blocking(work).await) }
    }
}
