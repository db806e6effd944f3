//! One direction of a simulated wire: bytes that arrive later than they were sent, in order.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::runtime::{Instant, Runtime};

/// How many bytes may be under way before the sender waits, as with a socket's buffers.
const CAPACITY_BYTES: usize = 4 << 20;

/// The shortest and the longest time under way, in microseconds. A timer of a simulated world has
/// whole milliseconds, so this is one to three of them.
const MIN_DELAY_US: u64 = 50;
const MAX_DELAY_US: u64 = 2_500;

/// Bytes under way in one direction.
pub(super) struct Pipe(Mutex<State>);

struct State {
    delays: StdRng,
    under_way: VecDeque<(Instant, Bytes)>,
    bytes: usize,
    last_arrival: Option<Instant>,
    end: End,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// Both sides are there.
    Open,
    /// The sender is done: what is under way still arrives.
    Finished,
    /// Nothing arrives any more.
    Cut,
}

/// A pipe's two ends; `runtime` is where it is read.
pub(super) fn pipe(seed: u64, runtime: Runtime) -> (PipeWriter, PipeReader) {
    let pipe = Arc::new(Pipe(Mutex::new(State {
        delays: StdRng::seed_from_u64(seed),
        under_way: VecDeque::new(),
        bytes: 0,
        last_arrival: None,
        end: End::Open,
        reader: None,
        writer: None,
    })));
    let writer = PipeWriter { pipe: pipe.clone(), runtime: runtime.clone() };
    (writer, PipeReader { pipe, runtime, arrival: None })
}

impl Pipe {
    /// Loses what is under way, and breaks both ends.
    pub fn cut(&self) {
        let mut state = self.0.lock();
        state.under_way.clear();
        state.end(End::Cut);
    }

    /// Takes nothing more; what is under way still arrives, and then the end.
    pub fn finish(&self) {
        self.0.lock().end(End::Finished);
    }
}

impl State {
    fn end(&mut self, end: End) {
        if self.end != End::Cut {
            self.end = end;
        }
        for waker in [self.reader.take(), self.writer.take()].into_iter().flatten() {
            waker.wake();
        }
    }

    fn delay(&mut self) -> Duration {
        let spread = MAX_DELAY_US - MIN_DELAY_US;
        Duration::from_micros(MIN_DELAY_US + self.delays.next_u64() % spread)
    }
}

/// Where bytes go in.
pub(super) struct PipeWriter {
    pub pipe: Arc<Pipe>,
    runtime: Runtime,
}

impl AsyncWrite for PipeWriter {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut state = self.pipe.0.lock();
        if state.end != End::Open {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if state.bytes >= CAPACITY_BYTES {
            state.writer = Some(context.waker().clone());
            return Poll::Pending;
        }
        let arrival = self.runtime.now() + state.delay();
        let arrival = state.last_arrival.map_or(arrival, |last| last.max(arrival));
        state.last_arrival = Some(arrival);
        state.bytes += bytes.len();
        state.under_way.push_back((arrival, Bytes::copy_from_slice(bytes)));
        if let Some(reader) = state.reader.take() {
            reader.wake();
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.pipe.finish();
        Poll::Ready(Ok(()))
    }
}

impl Drop for PipeWriter {
    fn drop(&mut self) {
        self.pipe.finish();
    }
}

/// Where bytes come out.
pub(super) struct PipeReader {
    pipe: Arc<Pipe>,
    runtime: Runtime,
    /// Ends when the next bytes arrive.
    arrival: Option<(Instant, BoxFuture<'static, ()>)>,
}

impl AsyncRead for PipeReader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let mut state = this.pipe.0.lock();
        if state.end == End::Cut {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let Some((arrival, _)) = state.under_way.front() else {
            if state.end == End::Finished {
                return Poll::Ready(Ok(()));
            }
            state.reader = Some(context.waker().clone());
            return Poll::Pending;
        };
        let arrival = *arrival;
        if this.runtime.now() < arrival {
            if this.arrival.as_ref().is_none_or(|(at, _)| *at != arrival) {
                let runtime = this.runtime.clone();
                let wait = async move { runtime.sleep_until(arrival).await };
                this.arrival = Some((arrival, Box::pin(wait)));
            }
            if let Some((_, wait)) = &mut this.arrival
                && wait.as_mut().poll(context).is_pending()
            {
                state.reader = Some(context.waker().clone());
                return Poll::Pending;
            }
        }
        this.arrival = None;
        state.hand_over(arrival, into);
        Poll::Ready(Ok(()))
    }
}

impl State {
    /// Gives out what has arrived together, as far as there is room.
    fn hand_over(&mut self, arrived: Instant, into: &mut ReadBuf<'_>) {
        while into.remaining() > 0 {
            let Some((arrival, chunk)) = self.under_way.front_mut() else { break };
            if *arrival > arrived {
                break;
            }
            let part = chunk.split_to(chunk.len().min(into.remaining()));
            let is_used_up = !chunk.has_remaining();
            into.put_slice(&part);
            self.bytes -= part.len();
            if is_used_up {
                self.under_way.pop_front();
            }
        }
        if let Some(writer) = self.writer.take() {
            writer.wake();
        }
    }
}

impl Drop for PipeReader {
    fn drop(&mut self) {
        self.pipe.cut();
    }
}
