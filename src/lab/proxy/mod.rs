//! A TCP proxy that stands in a link between two nodes and breaks it on purpose.
//!
//! **Why it exists.** Real processes on one machine have perfect links. A [`Proxy`] takes a node's
//! connections to one peer and carries their bytes, and while it runs its [`Conditions`] can be
//! changed: connections held or refused, one direction or both held back, bytes late, bytes slow,
//! every connection reset. [`Links`] is one proxy for each directed link of a cluster.
//!
//! **What it guarantees.** Bytes that were taken are delivered in order, unchanged, once, or the
//! connection ends: what is held back is delivered late when the link heals, as TCP does it. While
//! a direction is held back not even the end of a connection gets through. Each direction of a
//! connection holds [`QUEUE_CHUNKS`] chunks of [`CHUNK_BYTES`] at most; beyond that the sender is
//! not read from.
//!
//! **What it does not do.** It works on connections, not on packets: nothing is lost, repeated or
//! reordered inside a connection. A refused connection is opened and reset, not turned away by the
//! kernel.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::net::TcpListener;

use crate::runtime::{Runtime, Task, watch};

mod carry;
mod links;
#[cfg(test)]
mod tests;

pub use links::Links;

/// How many chunks each direction of a connection may hold.
pub const QUEUE_CHUNKS: usize = 64;
/// The largest chunk, in bytes.
pub const CHUNK_BYTES: usize = 16 << 10;
/// How many connections a proxy holds; more are reset. A node opens two a peer, and again after
/// each failure, so that only a cut of many minutes comes near.
const MAX_CONNECTIONS: u64 = 512;

/// What becomes of a new connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Accept {
    /// It is carried to the target.
    #[default]
    Open,
    /// It is reset at once.
    Refuse,
    /// It is left waiting, and carried once this ends.
    Hang,
}

/// What becomes of the bytes in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    /// Nothing gets through, until this ends.
    pub held: bool,
    /// Everything is this late.
    pub delay: Duration,
    /// And up to this much later, drawn anew each time; the order is kept.
    pub jitter: Duration,
    /// At most this many bytes a second get through.
    pub bytes_per_second: Option<u32>,
}

/// The state of a link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Conditions {
    pub accept: Accept,
    /// From who connected to the target.
    pub forward: Flow,
    /// From the target to who connected.
    pub backward: Flow,
}

/// What a proxy did so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Connections that were carried.
    pub carried: u64,
    /// Connections that were refused.
    pub refused: u64,
    /// Connections that [`Proxy::reset`] ended.
    pub reset: u64,
    /// Bytes that were delivered, both directions together.
    pub bytes: u64,
    /// Chunks that had to wait because their direction was held.
    pub held: u64,
    /// Chunks that were late on purpose.
    pub delayed: u64,
    /// Pieces that were sent slowly on purpose.
    pub dripped: u64,
}

#[derive(Default)]
struct Counts {
    live: AtomicU64,
    carried: AtomicU64,
    refused: AtomicU64,
    reset: AtomicU64,
    bytes: AtomicU64,
    held: AtomicU64,
    delayed: AtomicU64,
    dripped: AtomicU64,
}

fn add(counter: &AtomicU64, more: u64) {
    counter.fetch_add(more, Ordering::Relaxed);
}

/// What everything in a proxy watches.
#[derive(Clone, Copy, Default)]
struct State {
    conditions: Conditions,
    /// How often all connections were reset.
    resets: u64,
}

/// Listens at an address of its own and carries what connects there to the target. Dropping it
/// ends every connection.
pub struct Proxy {
    address: SocketAddr,
    state: watch::Sender<State>,
    counts: Arc<Counts>,
    acceptor: Task<()>,
}

impl Proxy {
    /// A proxy in good condition before `target`, on a free port of the loopback interface.
    pub async fn open(runtime: &Runtime, target: SocketAddr) -> io::Result<Proxy> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let (state, seen) = watch::channel(State::default());
        let counts = Arc::new(Counts::default());
        let door = Door { runtime: runtime.clone(), target, counts: counts.clone() };
        let acceptor = runtime.spawn(accept(listener, door, seen));
        Ok(Proxy { address, state, counts, acceptor })
    }

    /// Where to connect instead of to the target.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How the link is now.
    pub fn conditions(&self) -> Conditions {
        self.state.borrow().conditions
    }

    /// Changes how the link is, for the connections there are and for new ones.
    pub fn change(&self, change: impl FnOnce(&mut Conditions)) {
        self.state.send_if_modified(|state| {
            let before = state.conditions;
            change(&mut state.conditions);
            state.conditions != before
        });
    }

    /// Resets every connection there is; the next ones are taken as the conditions say.
    pub fn reset(&self) {
        self.state.send_if_modified(|state| {
            state.resets += 1;
            true
        });
    }

    /// What was done so far.
    pub fn tally(&self) -> Tally {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counts = &self.counts;
        Tally {
            carried: read(&counts.carried),
            refused: read(&counts.refused),
            reset: read(&counts.reset),
            bytes: read(&counts.bytes),
            held: read(&counts.held),
            delayed: read(&counts.delayed),
            dripped: read(&counts.dripped),
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.acceptor.abort();
    }
}

/// What a new connection needs.
struct Door {
    runtime: Runtime,
    target: SocketAddr,
    counts: Arc<Counts>,
}

async fn accept(listener: TcpListener, door: Door, mut state: watch::Receiver<State>) {
    loop {
        if state.wait_for(|state| state.conditions.accept != Accept::Hang).await.is_err() {
            return;
        }
        let accepted = tokio::select! { biased;
            changed = state.changed() => match changed {
                Ok(()) => continue,
                Err(watch::Closed) => return,
            },
            accepted = listener.accept() => accepted,
        };
        // What cannot be accepted has gone away again, or descriptors are short: it may pass.
        let Ok((near, _)) = accepted else {
            door.runtime.sleep(Duration::from_millis(10)).await;
            continue;
        };
        let full = door.counts.live.load(Ordering::Relaxed) >= MAX_CONNECTIONS;
        let refuse = { state.borrow().conditions.accept == Accept::Refuse };
        if refuse || full {
            // Closing without lingering sends a reset; where it cannot be set, an end will do.
            let _ = near.set_zero_linger();
            add(&door.counts.refused, 1);
            continue;
        }
        add(&door.counts.carried, 1);
        add(&door.counts.live, 1);
        let (runtime, counts, state) = (door.runtime.clone(), door.counts.clone(), state.clone());
        let carried = carry::carry(runtime, door.target, near, counts.clone(), state);
        door.runtime.spawn(async move {
            carried.await;
            counts.live.fetch_sub(1, Ordering::Relaxed);
        });
    }
}
