//! The other replicas: requests to them, batched, and who of them answers quickest.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::RwLock;

use super::batcher::{Batched, Batcher};
use super::gather::Slot;
use super::horizons::Late;
use super::messages::{self, Found, ReadReply, StoredWrite};
use super::tally::Taken;
use crate::peer::{PeerError, Service, SharedTransport};
use crate::planted::{self, Bug};
use crate::runtime::{Instant, Runtime};
use crate::types::{Epoch, Key, NodeId};

/// A record for one replica: a client's write, or a repair.
pub struct WriteItem {
    pub write: StoredWrite,
    /// The layout that it is sent under.
    pub epoch: Epoch,
    pub deadline: Instant,
    pub slot: Slot<Taken>,
}

/// A read of one replica.
pub struct ReadItem {
    pub key: Key,
    /// The layout that it is asked under.
    pub epoch: Epoch,
    pub deadline: Instant,
    pub slot: Slot<Found>,
}

impl Batched for WriteItem {
    type Reply = Result<Taken, Late>;
    const SERVICE: Service = Service::ReplicaWrite;

    fn bytes(&self) -> usize {
        messages::weight(&self.write.key, &self.write.record)
    }

    fn epoch(&self) -> Epoch {
        self.epoch
    }

    fn deadline(&self) -> Instant {
        if planted::is(Bug::StragglersCancelled) && self.slot.is_abandoned() {
            return self.deadline.checked_sub(Duration::from_secs(60)).unwrap_or(self.deadline);
        }
        self.deadline
    }

    fn encode(batch: &[WriteItem]) -> Bytes {
        messages::encode_writes(batch.iter().map(|item| &item.write))
    }

    fn decode(body: &Bytes) -> Result<Vec<Option<Self::Reply>>, String> {
        let taken = messages::decode_taken(body).map_err(|error| error.to_string())?;
        Ok(taken.into_iter().map(Some).collect())
    }

    fn finish(self, result: Result<Self::Reply, PeerError>) {
        let to = self.slot.node();
        self.slot.fill(result.and_then(|taken| taken.map_err(|late| late.refusal(to))));
    }
}

impl Batched for ReadItem {
    type Reply = Found;
    const SERVICE: Service = Service::ReplicaRead;

    fn bytes(&self) -> usize {
        self.key.as_str().len()
    }

    fn epoch(&self) -> Epoch {
        self.epoch
    }

    fn deadline(&self) -> Instant {
        self.deadline
    }

    fn encode(batch: &[ReadItem]) -> Bytes {
        messages::encode_reads(batch.iter().map(|item| &item.key))
    }

    fn decode(body: &Bytes) -> Result<Vec<Option<Found>>, String> {
        let replies = messages::decode_read_replies(body).map_err(|error| error.to_string())?;
        let replies = replies.into_iter().map(|reply| match reply {
            ReadReply::Held(found) => Some(found),
            ReadReply::AskAgain => None,
        });
        Ok(replies.collect())
    }

    fn finish(self, result: Result<Found, PeerError>) {
        self.slot.fill(result);
    }
}

/// The queues to one peer.
struct Peer {
    writes: Batcher<WriteItem>,
    reads: Batcher<ReadItem>,
}

/// Every other node that holds partitions, or did.
pub struct Peers {
    runtime: Runtime,
    transport: SharedTransport,
    peers: RwLock<BTreeMap<NodeId, Arc<Peer>>>,
}

impl Peers {
    /// Queues to `nodes`, which are all but this one.
    pub fn new(
        runtime: &Runtime,
        transport: &SharedTransport,
        nodes: impl Iterator<Item = NodeId>,
    ) -> Peers {
        let (runtime, transport) = (runtime.clone(), transport.clone());
        let peers = Peers { runtime, transport, peers: RwLock::default() };
        peers.know(nodes);
        peers
    }

    /// Has queues to these nodes too.
    pub fn know(&self, nodes: impl Iterator<Item = NodeId>) {
        let mut peers = self.peers.write();
        for node in nodes {
            peers.entry(node).or_insert_with(|| {
                let writes = Batcher::new(node, self.runtime.clone(), self.transport.clone());
                let reads = Batcher::new(node, self.runtime.clone(), self.transport.clone());
                Arc::new(Peer { writes, reads })
            });
        }
    }

    fn peer(&self, node: NodeId) -> Option<Arc<Peer>> {
        self.peers.read().get(&node).cloned()
    }

    /// Whether the link to a peer is up, as far as is known.
    pub fn is_connected(&self, node: NodeId) -> bool {
        self.transport.is_connected(node)
    }

    /// Sends a record to a peer.
    pub fn write(&self, item: WriteItem) {
        match self.peer(item.slot.node()) {
            Some(peer) => peer.writes.push(item),
            None => item.slot.not_sent("it is no node of this cluster"),
        }
    }

    /// Asks a peer for a record.
    pub fn read(&self, item: ReadItem) {
        match self.peer(item.slot.node()) {
            Some(peer) => peer.reads.push(item),
            None => item.slot.not_sent("it is no node of this cluster"),
        }
    }

    /// How soon a peer is likely to answer a read: lower is sooner. Peers never asked come first,
    /// so that all become known; one that is silent for longer than usual comes after the others.
    pub fn read_rank(&self, node: NodeId) -> (bool, bool, u64) {
        let latency_us = self.peer(node).map_or(u64::MAX, |peer| peer.reads.latency().average_us());
        (!self.is_connected(node), self.transport.is_suspected(node), latency_us)
    }

    /// What 95 of a hundred of a peer's reads took at most of late, in microseconds; `None` where
    /// too few are known.
    pub fn read_p95_us(&self, node: NodeId) -> Option<u64> {
        self.peer(node)?.reads.latency().p95_us()
    }

    /// The same of a peer's writes.
    pub fn write_p95_us(&self, node: NodeId) -> Option<u64> {
        self.peer(node)?.writes.latency().p95_us()
    }

    #[cfg(test)]
    pub fn learn_read(&self, node: NodeId, took_us: u64) {
        self.peer(node).expect("a peer").reads.latency().learn(took_us);
    }

    /// Says that a peer kept a read waiting for `waited_us` in vain.
    pub fn note_slow(&self, node: NodeId, waited_us: u64) {
        if let Some(peer) = self.peer(node) {
            peer.reads.latency().note_slow(waited_us);
        }
    }
}
