//! Carries one connection through a proxy.
//!
//! Each direction is a reader, a bounded queue of chunks with the time each is due, and a writer
//! that looks at the link's conditions before every piece.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::mpsc;

use super::{CHUNK_BYTES, Conditions, Counts, Flow, QUEUE_CHUNKS, State, add};
use crate::runtime::{Instant, Runtime, watch};

/// Slow bytes are sent this often, as many as are due.
const DRIP_EVERY: Duration = Duration::from_millis(20);

/// Which way bytes go.
#[derive(Clone, Copy)]
enum Way {
    Forward,
    Backward,
}

impl Way {
    fn of(self, conditions: &Conditions) -> Flow {
        match self {
            Way::Forward => conditions.forward,
            Way::Backward => conditions.backward,
        }
    }
}

/// Carries `near` to `target`, until both sides are done, one fails, or the proxy resets it.
pub async fn carry(
    runtime: Runtime,
    target: SocketAddr,
    mut near: TcpStream,
    counts: Arc<Counts>,
    mut state: watch::Receiver<State>,
) {
    let born = { state.borrow().resets };
    let Ok(mut far) = TcpStream::connect(target).await else {
        let _ = near.set_zero_linger();
        return;
    };
    // Without it small frames would wait for each other; where it fails they do.
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    let watched = state.clone();
    let both = async {
        let ((near_read, near_write), (far_read, far_write)) = (near.split(), far.split());
        let lane = |way| Lane { runtime: &runtime, counts: &counts, state: watched.clone(), way };
        let ended = tokio::try_join!(
            pump(lane(Way::Forward), near_read, far_write),
            pump(lane(Way::Backward), far_read, near_write),
        );
        // The other side must not learn of a failure through a direction that is held.
        let free =
            |state: &State| !state.conditions.forward.held && !state.conditions.backward.held;
        drop(watched.clone().wait_for(free).await);
        ended.is_ok()
    };
    let (in_order, was_reset) = tokio::select! { biased;
        reset = state.wait_for(|state| state.resets != born) => (false, reset.is_ok()),
        in_order = both => (in_order, false),
    };
    if was_reset {
        add(&counts.reset, 1);
    }
    if !in_order {
        let _ = (near.set_zero_linger(), far.set_zero_linger());
    }
}

/// One direction of one connection.
struct Lane<'a> {
    runtime: &'a Runtime,
    counts: &'a Counts,
    state: watch::Receiver<State>,
    way: Way,
}

impl Lane<'_> {
    fn flow(&self) -> Flow {
        self.way.of(&self.state.borrow().conditions)
    }

    /// When a chunk that was taken now is due.
    fn due(&self) -> Option<Instant> {
        let Flow { delay, jitter, .. } = self.flow();
        let jitter_us = self.runtime.random_below(jitter.as_micros() as u64 + 1);
        let late = delay + Duration::from_micros(jitter_us);
        (!late.is_zero()).then(|| self.runtime.now() + late)
    }

    /// Waits until the direction is not held.
    async fn until_free(&mut self) -> io::Result<()> {
        if self.flow().held {
            add(&self.counts.held, 1);
        }
        let way = self.way;
        let free = self.state.wait_for(|state| !way.of(&state.conditions).held).await;
        free.map(drop).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

type Chunk = (Option<Instant>, Bytes);

async fn pump(lane: Lane<'_>, from: ReadHalf<'_>, to: WriteHalf<'_>) -> io::Result<()> {
    let (queue, queued) = mpsc::channel::<Chunk>(QUEUE_CHUNKS);
    let reader = Lane { state: lane.state.clone(), ..lane };
    tokio::try_join!(take(reader, from, queue), give(lane, to, queued)).map(|_| ())
}

async fn take(
    lane: Lane<'_>,
    mut from: ReadHalf<'_>,
    queue: mpsc::Sender<Chunk>,
) -> io::Result<()> {
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(CHUNK_BYTES);
        if (&mut from).take(CHUNK_BYTES as u64).read_buf(&mut buffer).await? == 0 {
            return Ok(());
        }
        let chunk = (lane.due(), buffer.split().freeze());
        if queue.send(chunk).await.is_err() {
            return Ok(());
        }
    }
}

async fn give(
    mut lane: Lane<'_>,
    mut to: WriteHalf<'_>,
    mut queued: mpsc::Receiver<Chunk>,
) -> io::Result<()> {
    while let Some((due, mut chunk)) = queued.recv().await {
        if let Some(due) = due {
            add(&lane.counts.delayed, 1);
            lane.runtime.sleep_until(due).await;
        }
        while chunk.has_remaining() {
            lane.until_free().await?;
            let piece = match lane.flow().bytes_per_second {
                None => chunk.split_to(chunk.len()),
                Some(rate) => {
                    lane.runtime.sleep(DRIP_EVERY).await;
                    add(&lane.counts.dripped, 1);
                    let due = u64::from(rate) * DRIP_EVERY.as_millis() as u64 / 1_000;
                    chunk.split_to(chunk.len().min(due.max(1) as usize))
                }
            };
            // It may have been held while this slept: what was not sent by then is not sent.
            lane.until_free().await?;
            to.write_all(&piece).await?;
            add(&lane.counts.bytes, piece.len() as u64);
        }
    }
    lane.until_free().await?;
    to.shutdown().await
}
