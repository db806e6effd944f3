//! openraft's runtime over the project's own seam.
//!
//! Channels, locks and timers are tokio's, which obey a paused clock; watched values are the
//! project's, which wake their waiters in an order that replays. Tasks go through
//! [`Runtime::spawn`] where a simulated node asks, so that they die with the node, and random
//! numbers come from the node's seeded generator, so that elections replay.

use std::future::Future;
use std::io;
use std::time::Duration;

use openraft::impls::TokioRuntime;
use openraft::{AsyncRuntime, OptionalSend};
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::watch::SeamWatch;
use crate::runtime::Runtime;

/// See the module.
#[derive(Debug)]
pub struct SeamRuntime(TokioRuntime);

impl AsyncRuntime for SeamRuntime {
    type JoinError = <TokioRuntime as AsyncRuntime>::JoinError;
    type JoinHandle<T: OptionalSend + 'static> = <TokioRuntime as AsyncRuntime>::JoinHandle<T>;
    type Sleep = <TokioRuntime as AsyncRuntime>::Sleep;
    type Instant = <TokioRuntime as AsyncRuntime>::Instant;
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
        TokioRuntime::sleep(duration)
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        TokioRuntime::sleep_until(deadline)
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(
        duration: Duration,
        future: F,
    ) -> Self::Timeout<R, F> {
        TokioRuntime::timeout(duration, future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(
        deadline: Self::Instant,
        future: F,
    ) -> Self::Timeout<R, F> {
        TokioRuntime::timeout_at(deadline, future)
    }

    fn is_panic(join_error: &Self::JoinError) -> bool {
        TokioRuntime::is_panic(join_error)
    }

    fn thread_rng() -> Self::ThreadLocalRng {
        // Asked for at elections and starts alone, so that a fresh generator each time is cheap.
        let runtime = Runtime::of_this_task().unwrap_or_else(Runtime::real);
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
        let runtime = Runtime::of_this_task().unwrap_or_else(Runtime::real);
        async move { Ok(runtime.blocking(work).await) }
    }
}
